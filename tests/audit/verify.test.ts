import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { test } from 'node:test'
import { checkpoint } from '../../gateway/audit/checkpoint.ts'
import { eraseRecord } from '../../gateway/audit/erase.ts'
import { commitmentOf, sealEvent } from '../../gateway/audit/log.ts'
import { leafHash, MerkleTree } from '../../gateway/audit/merkle.ts'
import { checkpointText } from '../../gateway/audit/note.ts'
import { type AuditReport, verifyAudit } from '../../gateway/audit/verify.ts'
import type { Db } from '../../gateway/db/db.ts'
import { adminClient } from '../../gateway/db/postmaster.ts'
import { connectionOf, testDatabase } from '../support/database.ts'
import { appendEvents, event, testSigner } from './support.ts'

const { signer, key } = testSigner()

/** A log of ten events: a checkpoint at 6, another at 10. */
async function tenEvents(): Promise<{ db: Db; notes: string[] }> {
  const db = await testDatabase()
  await appendEvents(db, 6)
  const first = await checkpoint({ db, signer })
  await appendEvents(db, 4)
  const second = await checkpoint({ db, signer })
  return { db, notes: [first.note, second.note] }
}

/** As the database's superuser, whom no grant holds back. */
async function tamper(db: Db, ...statements: [string, unknown[]?][]): Promise<void> {
  const { host, database } = connectionOf(db)
  const client = adminClient(host, database)
  await client.connect()
  try {
    for (const [statement, values] of statements) await client.query(statement, values)
  } finally {
    await client.end()
  }
}

const found = (report: AuditReport) =>
  report.problems.map(({ kind, event, leaf }) => [kind, event, leaf].filter(part => part !== undefined).join(' '))

test('an untouched log verifies, with events that are still on their way', async () => {
  const { db } = await tenEvents()
  await appendEvents(db, 2)

  const report = await verifyAudit(db, [key])

  assert.deepEqual(report, {
    ok: true,
    problems: [],
    size: 10,
    signedSize: 10,
    erased: 0,
    pending: 2,
    checkpoints: 2,
  })
})

test('a log without events and without checkpoints verifies', async () => {
  const report = await verifyAudit(await testDatabase(), [key])

  assert.deepEqual([report.ok, report.size, report.checkpoints], [true, 0, 0])
})

test('a log longer than a batch verifies', async () => {
  const db = await testDatabase()
  await appendEvents(db, 4100)
  await checkpoint({ db, signer })

  const report = await verifyAudit(db, [key])

  assert.deepEqual([report.ok, report.signedSize], [true, 4100])
})

test('a changed record, time, commitment, or leaf is named by its event', async () => {
  const forged = sealEvent(event(99))
  const cases: [string, [string, unknown[]?][]][] = [
    ['payload', [[`update audit_events set payload = replace(payload, '1.2.', '1.3.') where id = 4`]]],
    ['one bit of the salt', [[`update audit_events set salt = set_bit(salt, 3, 1 - get_bit(salt, 3)) where id = 4`]]],
    ['time', [[`update audit_events set at = at - interval '1 hour' where id = 4`]]],
    ['commitment', [['update audit_events set commitment = $1 where id = 4', [randomBytes(32)]]]],
    ['leaf', [['update audit_leaves set commitment = $1 where event = 4', [randomBytes(32)]]]],
    [
      'a whole forged record',
      [
        [
          'update audit_events set salt = $1, payload = $2, commitment = $3, at = $4 where id = 4',
          [forged.salt, forged.payload, forged.commitment, forged.at],
        ],
      ],
    ],
  ]
  for (const [name, statements] of cases) {
    const { db } = await tenEvents()
    await tamper(db, ...statements)

    const report = await verifyAudit(db, [key])

    assert.equal(report.ok, false, name)
    assert.deepEqual(found(report), ['changed 4 3'], name)
  }
})

test('a record rewritten together with its leaf is found by the checkpoints, to the range between two', async () => {
  const { db } = await tenEvents()
  const forged = sealEvent(event(99))
  await tamper(
    db,
    [
      'update audit_events set salt = $1, payload = $2, commitment = $3, at = $4 where id = 8',
      [forged.salt, forged.payload, forged.commitment, forged.at],
    ],
    ['update audit_leaves set commitment = $1 where event = 8', [forged.commitment]],
  )

  const report = await verifyAudit(db, [key])

  assert.deepEqual(found(report), ['rewritten'])
  assert.match(report.problems[0]?.message ?? '', /leaves 6 to 9 \(events 7 to 10\)/)
  assert.equal(report.signedSize, 6)
})

test('a removed event or leaf is named', async () => {
  const cases: [string, string[], string[]][] = [
    ['the event', ['delete from audit_events where id = 4'], ['removed 4 3']],
    ['the leaf', ['delete from audit_leaves where event = 4'], ['removed 3', 'added 4']],
    ['both', ['delete from audit_leaves where event = 4', 'delete from audit_events where id = 4'], ['removed 3']],
    [
      'the last ones',
      ['delete from audit_leaves where event > 8', 'delete from audit_events where id > 8'],
      ['removed 8', 'removed'],
    ],
  ]
  for (const [name, statements, expected] of cases) {
    const { db } = await tenEvents()
    await tamper(db, ...statements.map((statement): [string] => [statement]))

    const report = await verifyAudit(db, [key])

    assert.deepEqual(found(report), expected, name)
  }
})

test('a log cut off and re-headed is found by its checkpoint, and by a witness when that was deleted too', async () => {
  const { db, notes } = await tenEvents()
  const commitments = (await db.pool.query('select commitment from audit_leaves order by leaf_index limit 8')).rows
  const tree = new MerkleTree()
  for (const { commitment } of commitments) tree.append(commitment)
  await tamper(
    db,
    ['delete from audit_leaves where leaf_index >= 8'],
    ['delete from audit_events where id > 8'],
    ['update audit_tree set size = 8, settled = 8, frontier = $1', [tree.frontier]],
  )
  const withCheckpoint = await verifyAudit(db, [key])
  await tamper(db, ['delete from audit_checkpoints where size = 10'])

  const alone = await verifyAudit(db, [key])
  const witnessed = await verifyAudit(db, [key], { witnesses: notes })

  assert.deepEqual(found(withCheckpoint), ['removed'])
  assert.equal(alone.ok, true)
  assert.deepEqual(found(witnessed), ['removed'])
})

test('an event slipped in below the settled mark, and a leaf beyond the head, are named', async () => {
  const { db } = await tenEvents()
  const forged = sealEvent(event(99))
  await tamper(db, [
    `insert into audit_events (id, at, salt, payload, commitment) overriding system value values (0, $1, $2, $3, $4)`,
    [forged.at, forged.salt, forged.payload, forged.commitment],
  ])
  const slipped = await verifyAudit(db, [key])
  await tamper(db, ['insert into audit_leaves values (10, 0, $1)', [forged.commitment]])

  const appended = await verifyAudit(db, [key])

  assert.deepEqual(found(slipped), ['added 0'])
  assert.deepEqual(found(appended), ['added 0 10'])
})

test('checkpoints that are forged, unsigned, or of another log are named', async () => {
  const { db } = await tenEvents()
  const root = randomBytes(32)
  const text = checkpointText({ origin: signer.origin, size: 10, root })
  const other = testSigner()
  await tamper(
    db,
    [`update audit_checkpoints set note = replace(note, E'\\n6\\n', E'\\n5\\n') where size = 6`],
    [
      'update audit_checkpoints set note = $1, root = $2 where size = 10',
      [`${text}\n${await other.signer.sign(text)}`, root],
    ],
    [`insert into audit_checkpoints (size, root, note) values (3, $1, 'nonsense')`, [root]],
  )

  const report = await verifyAudit(db, [key])

  assert.deepEqual(found(report), ['checkpoint', 'checkpoint', 'checkpoint'])
  assert.equal(report.signedSize, 0)
})

test('checkpoints signed by a former key still count', async () => {
  const { db } = await tenEvents()
  const renewed = testSigner()
  await appendEvents(db, 1)
  await checkpoint({ db, signer: renewed.signer })

  const both = await verifyAudit(db, [renewed.key, key])
  const without = await verifyAudit(db, [renewed.key])

  assert.deepEqual([both.ok, both.signedSize], [true, 11])
  assert.deepEqual(found(without), ['checkpoint', 'checkpoint'])
})

test('an erased record still verifies, its erasure is on record, and cannot be erased itself', async () => {
  const { db } = await tenEvents()
  const erase = (eventId: number) =>
    db.inTransaction(tx => eraseRecord(tx, { eventId, principal: 'local', reason: 'erasure-request' }))

  const first = await erase(4)
  const second = await erase(4)
  await checkpoint({ db, signer })
  const report = await verifyAudit(db, [key])

  assert.deepEqual([first, second], [true, false])
  assert.deepEqual([report.ok, report.erased, report.size], [true, 1, 11])
  const { rows } = await db.pool.query('select salt, payload from audit_events where id = 4')
  assert.deepEqual(rows, [{ salt: null, payload: null }], 'its content is gone')
  await assert.rejects(erase(11), { code: 'STATE_CONFLICT' })
  await assert.rejects(erase(4711), { code: 'NOT_FOUND' })
})

test('a record emptied by hand has no erasure on record and is named', async () => {
  const { db } = await tenEvents()
  await tamper(db, ['update audit_events set salt = null, payload = null where id = 4'])

  const report = await verifyAudit(db, [key])

  assert.deepEqual(found(report), ['erased 4'])
})

test('the leaf of an event is the RFC 6962 hash of its commitment, which is SHA-256 of salt and payload', async () => {
  const db = await testDatabase()
  await appendEvents(db, 1)

  const { root } = await checkpoint({ db, signer })

  const { salt, payload } = (await db.pool.query('select salt, payload from audit_events')).rows[0]
  assert.deepEqual(root, leafHash(commitmentOf(salt, payload)))
})
