import assert from 'node:assert/strict'
import { randomBytes, randomUUID } from 'node:crypto'
import { type TestContext, test } from 'node:test'
import { sql } from 'kysely'
import { commitmentOf } from '../../gateway/audit/log.ts'
import type { Db } from '../../gateway/db/db.ts'
import { isGatewayError } from '../../gateway/errors.ts'
import { openQueue } from '../../gateway/jobs/queue.ts'
import { openLog } from '../../gateway/log.ts'
import { openIngest } from '../../gateway/services/ingest.ts'
import { type Routing, startRouting } from '../../gateway/services/routing.ts'
import { cancelTransfer, retryTransfer } from '../../gateway/services/transfers.ts'
import type { Origin } from '../../gateway/store/origin.ts'
import { publishPolicy } from '../../policy/versions.ts'
import { testBlobs } from '../support/blobs.ts'
import { testDatabase } from '../support/database.ts'
import { buildInstance } from '../support/dicom-builder.ts'
import { caller } from '../support/principals.ts'
import { until } from '../support/until.ts'

const log = openLog({ level: 'silent' })
const modality: Origin = { kind: 'dimse', principal: 'CT_1', callingAe: 'CT_1' }

async function open(t: TestContext) {
  const db = await testDatabase(t)
  const blobs = await testBlobs(t)
  const queue = await openQueue({ db, log })
  const routing = startRouting({ db, queue, log })
  t.after(async () => {
    await routing.close()
    await queue.close()
  })
  const ingest = openIngest({ db, blobs, dueAt: () => new Date() })
  const store = async (seed: number, origin: Origin = modality, patientId = 'TEST-77'): Promise<void> => {
    const instance = buildInstance({
      seed,
      studyInstanceUid: '2.25.77',
      seriesInstanceUid: '2.25.78',
      patientId,
      rows: 8,
      cols: 8,
    })
    const staged = await ingest.stage()
    staged.markDataset()
    await staged.append([instance.bytes])
    await ingest.store(await staged.finish(), origin)
  }
  return { db, queue, routing, store }
}

async function addPeer(db: Db, name: string): Promise<string> {
  const id = randomUUID()
  await db.kysely
    .insertInto('peers')
    .values({
      id,
      site_id: randomBytes(16).toString('hex'),
      name,
      state: 'active',
      card: Buffer.alloc(0),
      ca_certificate: '',
      ca_fingerprint: randomBytes(32),
      signing_key: randomBytes(32),
      sealing_key: randomBytes(32),
    })
    .execute()
  return id
}

const policy = (when: object = { always: true }) => ({
  format: 'hanse-policy-1',
  destinations: { b: { peer: 'Hospital B' } },
  rules: [{ id: 'all', when, send: { to: ['b'], purpose: 'treatment', profile: 'as-is' } }],
})

const transfers = (db: Db) => db.kysely.selectFrom('transfers').selectAll().orderBy('created_at').execute()
const evaluated = (db: Db) =>
  until('the study was evaluated', 60_000, async () => {
    // One statement: between two, a due study could become a job and be seen as neither.
    const { rows } = await sql<{ n: number }>`
      select (select count(*) from pgboss.job where name = 'evaluate-study' and state <> 'completed')::int
        + (select count(*) from studies where due_at is not null)::int as n`.execute(db.kysely)
    return rows[0]?.n === 0
  })

test('a complete study becomes one transfer that names rule, version, purpose and snapshot', async t => {
  const { db, store } = await open(t)
  const peer = await addPeer(db, 'Hospital B')
  await publishPolicy(db, policy(), 'alice')

  await store(1)
  const [transfer] = await until('a transfer', 60_000, async () => {
    const rows = await transfers(db)
    return rows.length > 0 && rows
  })

  assert.ok(transfer)
  assert.deepEqual(
    [
      transfer.state,
      transfer.peer,
      transfer.rule,
      transfer.policy_version,
      transfer.purpose,
      transfer.profile,
      transfer.object_count,
    ],
    ['planned', peer, 'all', 1, 'treatment', 'as-is', 1],
  )
  const items = await db.kysely.selectFrom('transfer_items').selectAll().where('transfer', '=', transfer.id).execute()
  assert.equal(items.length, 1)
  const { rows: jobs } =
    await sql`select 1 from pgboss.job where name = 'deliver' and data ->> 'transfer' = ${transfer.id}`.execute(
      db.kysely,
    )
  assert.equal(jobs.length, 1)
})

test('a study that grew is sent as what the destination lacks', async t => {
  const { db, store } = await open(t)
  await addPeer(db, 'Hospital B')
  await publishPolicy(db, policy(), 'alice')
  await store(1)
  await until('the first transfer', 60_000, async () => (await transfers(db)).length === 1)
  await evaluated(db)

  await store(2)
  await until('the second transfer', 60_000, async () => (await transfers(db)).length === 2)
  await store(1) // a repeat triggers nothing
  await evaluated(db)

  assert.deepEqual(
    (await transfers(db)).map(transfer => transfer.object_count),
    [1, 1],
  )
})

test('without a rule, and for what came from a peer, nothing is planned', async t => {
  const { db, store } = await open(t)
  const peerId = await addPeer(db, 'Hospital B')
  await publishPolicy(db, policy({ attribute: 'Modality', equals: 'US' }), 'alice')
  await store(1)
  await evaluated(db)
  await publishPolicy(db, policy(), 'alice')
  await store(2, { kind: 'peer', principal: 'site', peerId: randomUUID() })
  await store(3, { kind: 'peer', principal: 'site', peerId })
  // The study now also holds the local instance 1: it goes, the imported ones do not.
  await evaluated(db)

  const planned = await transfers(db)
  assert.deepEqual(
    planned.map(transfer => transfer.object_count),
    [1],
  )
})

test('a destination without an active peer is held visibly and can be retried once it is paired', async t => {
  const { db, store, queue } = await open(t)
  await publishPolicy(db, policy(), 'alice')
  await store(1)
  const [held] = await until('a transfer', 60_000, async () => {
    const rows = await transfers(db)
    return rows.length > 0 && rows
  })
  assert.deepEqual([held?.state, held?.error_code], ['held', 'PEER_UNKNOWN'])
  const id = held?.id ?? ''

  await assert.rejects(retryTransfer({ db, queue }, id, caller('alice')), (error: unknown) =>
    isGatewayError(error, 'STATE_CONFLICT'),
  )
  const peer = await addPeer(db, 'Hospital B')
  await retryTransfer({ db, queue }, id, caller('alice'))

  const [transfer] = await transfers(db)
  assert.deepEqual([transfer?.state, transfer?.peer, transfer?.error_code], ['planned', peer, null])
})

test("a person's send is its own trigger and sends everything, to a destination or a peer by name", async t => {
  const { db, store, routing, queue } = await open(t)
  await addPeer(db, 'Hospital B')
  await addPeer(db, 'Hospital C')
  await publishPolicy(db, policy(), 'alice')
  await store(1)
  await evaluated(db)
  const { id: study } = await db.kysely.selectFrom('studies').select('id').executeTakeFirstOrThrow()
  const send = (destination: string): ReturnType<Routing['send']> =>
    routing.send({ study, destination, purpose: 'second-opinion', priority: 'urgent', principal: caller('alice') })

  await send('b')
  const toC = await send('Hospital C')
  await assert.rejects(send('nowhere'), (error: unknown) => isGatewayError(error, 'NOT_FOUND'))
  await cancelTransfer({ db, queue }, toC, caller('alice'))

  const rows = await transfers(db)
  assert.equal(rows.length, 3)
  const last = rows.find(row => row.id === toC)
  assert.deepEqual(
    [last?.rule, last?.requested_by, last?.state, last?.purpose],
    ['manual', 'alice', 'cancelled', 'second-opinion'],
  )
})

test('a person says under which profile a study goes; one that does not exist is refused', async t => {
  const { db, store, routing } = await open(t)
  await addPeer(db, 'Hospital B')
  await publishPolicy(db, policy({ attribute: 'Modality', equals: 'US' }), 'alice')
  await store(1)
  const { id: study } = await db.kysely.selectFrom('studies').select('id').executeTakeFirstOrThrow()
  const send = (profile: string): ReturnType<Routing['send']> =>
    routing.send({ study, destination: 'b', purpose: 'trial', priority: 'normal', profile, principal: caller('alice') })

  const id = await send('trial')
  await assert.rejects(send('nonesuch'), (error: unknown) => isGatewayError(error, 'POLICY_INVALID'))

  const rows = await db.kysely.selectFrom('transfers').select(['id', 'profile', 'rule']).execute()
  assert.deepEqual(rows, [{ id, profile: 'trial', rule: 'manual' }])
})

test('explaining a study names every rule and changes nothing', async t => {
  const { db, store, routing } = await open(t)
  await publishPolicy(db, policy({ attribute: 'Modality', equals: 'US' }), 'alice')
  await store(1)
  const { id: study } = await db.kysely.selectFrom('studies').select('id').executeTakeFirstOrThrow()

  const explained = await routing.explain(study)

  assert.deepEqual(explained.trace, [{ rule: 'all', matched: false, why: 'Modality is not one of US' }])
  assert.deepEqual(explained.undecided, ['b'])
})

test('a study that comes again under another patient holds what of it was not sent, and alarms', async t => {
  const { db, store, queue } = await open(t)
  await addPeer(db, 'Hospital B')
  await publishPolicy(db, policy(), 'alice')
  await store(1)
  await until('a transfer', 60_000, async () => (await transfers(db)).length === 1)
  await evaluated(db)

  await store(2, modality, 'TEST-78')

  const [first] = await transfers(db)
  assert.deepEqual([first?.state, first?.error_code], ['held', 'IDENTITY_CHANGED'])
  const { rows } = await db.pool.query(
    `select payload, salt, commitment from audit_events where payload like '%IDENTITY%'`,
  )
  assert.equal(rows.length, 1)
  assert.deepEqual(commitmentOf(rows[0].salt, rows[0].payload), rows[0].commitment)
  assert.equal(JSON.parse(rows[0].payload).objects[1].transferId, first?.id)
  await retryTransfer({ db, queue }, first?.id ?? '', caller('alice'))
  assert.equal((await transfers(db))[0]?.state, 'planned')

  await db.pool.query(`update patients set patient_id = 'TEST-79' where patient_id = 'TEST-77'`)
  assert.equal((await transfers(db))[0]?.error_code, 'IDENTITY_CHANGED')
})

test('the same study of another site is another study', async t => {
  const { db, store } = await open(t)
  await addPeer(db, 'Hospital B')
  await publishPolicy(db, policy(), 'alice')
  await store(1)
  await until('a transfer', 60_000, async () => (await transfers(db)).length === 1)

  await db.pool.query(
    `with p as (insert into patients (issuer, patient_id, orthanc_id) values ('OTHER', 'TEST-78', 'p') returning id)
     insert into studies (patient, study_instance_uid, orthanc_id) select id, '2.25.77', 's' from p`,
  )

  assert.equal((await transfers(db))[0]?.state, 'planned')
})
