import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { checkpoint, loadCheckpoint } from '../../gateway/audit/checkpoint.ts'
import { sequenceAll } from '../../gateway/audit/leaves.ts'
import { appendAudits } from '../../gateway/audit/log.ts'
import { MerkleTree } from '../../gateway/audit/merkle.ts'
import { isSigned, parseCheckpoint } from '../../gateway/audit/note.ts'
import { startSequencer } from '../../gateway/audit/sequencer.ts'
import type { Db } from '../../gateway/db/db.ts'
import { openLog } from '../../gateway/log.ts'
import { testDatabase } from '../support/database.ts'
import { appendEvents, event, testSigner } from './support.ts'

const log = openLog({ level: 'silent' })

async function readLog(db: Db): Promise<{ events: number[]; size: number; settled: number; root: string }> {
  const { rows } = await db.pool.query('select leaf_index, event, commitment from audit_leaves order by leaf_index')
  const tree = new MerkleTree()
  rows.forEach((row, index) => {
    assert.equal(row.leaf_index, index)
    tree.append(row.commitment)
  })
  const head = (await db.pool.query('select size, frontier, settled from audit_tree')).rows[0]
  assert.deepEqual(new MerkleTree(head.size, head.frontier).root(), tree.root())
  return {
    events: rows.map(row => row.event),
    size: head.size,
    settled: head.settled,
    root: tree.root().toString('hex'),
  }
}

test('every committed event gets one leaf, in rounds, and rolled back ones leave none', async () => {
  const db = await testDatabase()
  const ids = await appendEvents(db, 4500)
  await assert.rejects(
    db.inTransaction(async tx => {
      await appendAudits(tx, [event(0)])
      throw new Error('no')
    }),
  )

  const appended = await sequenceAll(db)
  const again = await sequenceAll(db)

  const found = await readLog(db)
  assert.deepEqual([appended, again, found.size, found.settled], [4500, 0, 4500, 4501])
  assert.deepEqual(found.events, ids)
})

test('an event that becomes visible after younger ones is not skipped', async () => {
  const db = await testDatabase()
  let release = (): void => undefined
  const hold = new Promise<void>(resolve => {
    release = resolve
  })
  let drawn = (): void => undefined
  const first = new Promise<void>(resolve => {
    drawn = resolve
  })
  const slow = db.inTransaction(async tx => {
    await appendAudits(tx, [event(1)])
    drawn()
    await hold
  })
  await first
  const younger = await appendEvents(db, 3)

  await sequenceAll(db)
  const before = await readLog(db)
  release()
  await slow
  await sequenceAll(db)
  const after = await readLog(db)

  assert.deepEqual(before, { ...before, events: younger, settled: 0 })
  assert.deepEqual(after.events, [...younger, 1])
  assert.equal(after.settled, 4)
})

test('two sequencers and many writers at once: each event once, nothing skipped', async t => {
  const db = await testDatabase()
  const { signer } = testSigner()
  const sequencers = [1, 2].map(() => startSequencer({ db, log, signer, intervalMs: 5 }))
  t.after(() => Promise.all(sequencers.map(sequencer => sequencer.close())))

  await Promise.all(
    Array.from({ length: 30 }, async (_, writer) => {
      for (let i = 0; i < 5; i++) {
        await db
          .inTransaction(async tx => {
            await appendAudits(tx, [event(i), event(i)])
            await delay(writer % 7)
            if (i === 3) throw new Error('rolled back')
          })
          .catch(() => undefined)
      }
    }),
  )
  const checkpoints = await Promise.all(sequencers.map(sequencer => sequencer.checkpoint()))

  const found = await readLog(db)
  assert.equal(found.size, 30 * 4 * 2)
  assert.equal(new Set(found.events).size, found.size)
  assert.deepEqual(
    checkpoints.map(({ size, root }) => [size, root.toString('hex')]),
    [
      [found.size, found.root],
      [found.size, found.root],
    ],
  )
})

test('a checkpoint covers all that was committed before it, is signed, and is kept when nothing was added', async () => {
  const db = await testDatabase()
  const { signer, key } = testSigner()
  const empty = await checkpoint({ db, signer })
  await appendEvents(db, 5)

  const first = await checkpoint({ db, signer })
  const second = await checkpoint({ db, signer })

  const head = parseCheckpoint(first.note)
  assert.deepEqual([empty.size, first.size, second.note], [0, 5, first.note])
  assert.deepEqual([head.origin, head.size, head.root], [signer.origin, 5, first.root])
  assert.equal(isSigned(first.note, [key]), true)
  assert.deepEqual(await loadCheckpoint(db), first)
})

test('the log is append only for the gateway itself', async () => {
  const db = await testDatabase()
  await appendEvents(db, 2)
  await sequenceAll(db)

  for (const statement of [
    'update audit_events set commitment = commitment',
    'delete from audit_events',
    'update audit_leaves set event = event',
    'delete from audit_checkpoints',
    'truncate audit_leaves',
  ]) {
    await assert.rejects(db.pool.query(statement), /permission denied/, statement)
  }
})

test('hundreds of events per round are sequenced in little time', async () => {
  const db = await testDatabase()
  await appendEvents(db, 6000)

  const begin = performance.now()
  await sequenceAll(db)

  const perSecond = 6000 / ((performance.now() - begin) / 1000)
  assert.ok(perSecond > 500, `${Math.round(perSecond)} events/s`)
})
