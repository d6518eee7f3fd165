import assert from 'node:assert/strict'
import { randomBytes, randomUUID } from 'node:crypto'
import { test } from 'node:test'
import type { Db } from '../../gateway/db/db.ts'
import { countTransfers, listTransfers, loadReceipt, loadTransfer } from '../../gateway/services/transfer-list.ts'
import { testDatabase } from '../support/database.ts'

async function seedPeer(db: Db, name: string): Promise<string> {
  const id = randomUUID()
  await db.pool.query(
    `insert into peers (id, site_id, name, state, card, ca_certificate, ca_fingerprint, signing_key, sealing_key)
     values ($1, $2, $3, 'active', '\\x00', 'pem', $4, $4, $4)`,
    [id, id, name, randomBytes(32)],
  )
  return id
}

/** Transfers with ascending creation times, a second apart, alternating in direction. */
async function seedTransfers(db: Db, peer: string, count: number): Promise<string[]> {
  await db.pool.query(`insert into policy_versions (version, document, sha256, author) values (1, '{}', $1, 'test')`, [
    randomBytes(32),
  ])
  const ids: string[] = []
  for (let index = 0; index < count; index++) {
    const id = randomUUID()
    const at = new Date(Date.UTC(2026, 0, 1, 0, 0, index))
    if (index % 2 === 0) {
      await db.pool.query(
        `insert into transfers (id, study_instance_uid, destination, peer, trigger, rule, policy_version, profile, purpose,
           requested_by, snapshot_sha256, state, nonce, manifest_created, object_count, bytes_total, expires_at, created_at)
         values ($1, $2, 'B', $3, 'stable', 'all', 1, 'as-is', 'treatment', 'rule:all', $4, $5, $4, now(), 3, 300, now(), $6)`,
        [id, `1.2.${index}`, peer, randomBytes(32), index === 0 ? 'receipted' : 'planned', at],
      )
    } else {
      await db.pool.query(
        `insert into inbound_transfers (id, peer, manifest_id, manifest, state, purpose, object_count, leaf_count,
           bytes_total, bytes_received, received, expires_at, created_at)
         values ($1, $2, $3, '\\x00', 'imported', 'treatment', 2, 1, 200, 200, '\\x01', now(), $4)`,
        [id, peer, randomBytes(32).toString('hex'), at],
      )
    }
    ids.push(id)
  }
  return ids
}

test('both directions come in one list, newest first, and pages meet without gap or repeat', async t => {
  const db = await testDatabase(t)
  const ids = await seedTransfers(db, await seedPeer(db, 'Hospital B'), 7)

  const seen: string[] = []
  let cursor: string | undefined
  do {
    const page = await listTransfers(db, {}, { limit: 3, ...(cursor !== undefined && { cursor }) })
    seen.push(...page.transfers.map(transfer => transfer.id))
    cursor = page.next
  } while (cursor !== undefined)

  assert.deepEqual(seen, ids.toReversed())
})

test('filters narrow by direction, state, peer and study', async t => {
  const db = await testDatabase(t)
  const peer = await seedPeer(db, 'Hospital B')
  const ids = await seedTransfers(db, peer, 5)
  const find = async (filter: Parameters<typeof listTransfers>[1]) =>
    (await listTransfers(db, filter, { limit: 100 })).transfers.map(transfer => transfer.id)

  assert.deepEqual(await find({ direction: 'inbound' }), [ids[3], ids[1]])
  assert.deepEqual(await find({ states: ['receipted'] }), [ids[0]])
  assert.deepEqual(await find({ states: ['planned', 'imported'], direction: 'outbound' }), [ids[4], ids[2]])
  assert.deepEqual(await find({ studyInstanceUid: '1.2.2' }), [ids[2]])
  assert.deepEqual(await find({ peer: randomUUID() }), [])
  assert.equal((await find({ peer })).length, 5)
  await assert.rejects(listTransfers(db, {}, { limit: 1, cursor: "'; drop table transfers" }), { code: 'BAD_REQUEST' })
})

test('a transfer is shown with its peer, time line and what its receipts say', async t => {
  const db = await testDatabase(t)
  const [id = ''] = await seedTransfers(db, await seedPeer(db, 'Hospital B'), 1)
  const envelope = JSON.stringify({ payload: Buffer.from('{"kind":"imported","count":3}').toString('base64') })
  await db.pool.query(`insert into transfer_steps (transfer, step, detail) values ($1, 'planned', '{"by":"x"}')`, [id])
  await db.pool.query(
    `insert into receipts (transfer, direction, kind, envelope, sha256) values ($1, 'received', 'imported', $2, $3)`,
    [id, Buffer.from(envelope), randomBytes(32)],
  )

  const transfer = await loadTransfer(db, id)

  assert.equal(transfer.peer?.name, 'Hospital B')
  assert.deepEqual([transfer.direction, transfer.state, transfer.bytesTotal], ['outbound', 'receipted', 300])
  assert.deepEqual(
    transfer.steps.map(step => [step.step, step.detail]),
    [['planned', { by: 'x' }]],
  )
  assert.deepEqual(transfer.receipts[0]?.statement, { kind: 'imported', count: 3 })
  assert.equal((await loadReceipt(db, id, 'imported')).toString(), envelope)
  await assert.rejects(loadReceipt(db, id, 'deleted'), { code: 'NOT_FOUND' })
  await assert.rejects(loadTransfer(db, randomUUID()), { code: 'NOT_FOUND' })
})

test('transfers are counted by direction and state', async t => {
  const db = await testDatabase(t)
  await seedTransfers(db, await seedPeer(db, 'Hospital B'), 5)

  assert.deepEqual(await countTransfers(db), [
    { direction: 'inbound', state: 'imported', count: 2 },
    { direction: 'outbound', state: 'planned', count: 2 },
    { direction: 'outbound', state: 'receipted', count: 1 },
  ])
})
