import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { isGatewayError } from '../../gateway/errors.ts'
import { openQueue } from '../../gateway/jobs/queue.ts'
import { type Consents, openConsents } from '../../gateway/services/consents.ts'
import { openIngest } from '../../gateway/services/ingest.ts'
import { startRouting } from '../../gateway/services/routing.ts'
import { retryTransfer } from '../../gateway/services/transfers.ts'
import { publishPolicy } from '../../policy/versions.ts'
import { testBlobs } from '../support/blobs.ts'
import { testDatabase } from '../support/database.ts'
import { buildInstance } from '../support/dicom-builder.ts'
import {
  auditOf,
  buildStudy,
  deliver,
  silent as log,
  makePeers,
  planTransfer,
  startFederationSite,
  transferOf,
  visibleAt,
} from '../support/federation.ts'
import { caller } from '../support/principals.ts'
import { insertStudy } from '../support/rows.ts'
import { until } from '../support/until.ts'

const alice = caller('token:alice')
const day = 86_400_000
const siteId = 'ab'.repeat(16)
const refused = (code: Parameters<typeof isGatewayError>[1]) => (error: unknown) => isGatewayError(error, code)

const policy = (basis: string) => ({
  format: 'hanse-policy-2',
  destinations: { sponsor: { peer: siteId } },
  agreements: { trial: { parties: ['sponsor'], purposes: ['trial'], basis, from: '2026-01-01' } },
  rules: [
    {
      id: 'trial',
      when: { always: true },
      send: { to: ['sponsor'], purpose: 'trial', profile: 'as-is', agreement: 'trial' },
    },
  ],
})

/** A gateway with one study of patient TEST-1, whose policy sends it to the sponsor under this legal basis. */
async function open(t: TestContext, basis: string) {
  const db = await testDatabase(t)
  const blobs = await testBlobs(t)
  const queue = await openQueue({ db, log })
  const routing = startRouting({ db, queue, log })
  t.after(async () => {
    await routing.close()
    await queue.close()
  })
  await db.pool.query(
    `insert into peers (id, site_id, name, state, card, ca_certificate, ca_fingerprint, signing_key, sealing_key)
     values (gen_random_uuid(), $1, 'Sponsor', 'active', '', '', $2, $2, $2)`,
    [siteId, Buffer.alloc(32, 1)],
  )
  await publishPolicy(db, policy(basis), 'alice')
  const ingest = openIngest({ db, blobs, dueAt: () => undefined })
  const staged = await ingest.stage()
  staged.markDataset()
  await staged.append([buildInstance({ seed: 1, patientId: 'TEST-1', rows: 8, cols: 8 }).bytes])
  await ingest.store(await staged.finish(), { kind: 'dimse', principal: 'CT_1', callingAe: 'CT_1' })
  const { id: study } = await db.kysely.selectFrom('studies').select('id').executeTakeFirstOrThrow()
  const consents = openConsents({ db, queue })
  const transfers = () => db.kysely.selectFrom('transfers').selectAll().orderBy('created_at').execute()
  const jobs = async (id: string): Promise<number> => {
    const { rows } = await db.pool.query(
      `select 1 from pgboss.job where name = 'deliver' and data ->> 'transfer' = $1`,
      [id],
    )
    return rows.length
  }
  return { db, queue, routing, consents, study, transfers, jobs }
}

const consent = (change: Partial<Parameters<Consents['record']>[1]> = {}) => ({
  kind: 'consent' as const,
  patient: { issuer: '', patientId: 'TEST-1' },
  purpose: 'trial',
  recipient: 'sponsor',
  source: 'form of 2026-02-01',
  ...change,
})

test('what lacks a consent is held, not lost, and goes on when the right one comes', async t => {
  const { routing, consents, study, transfers, jobs } = await open(t, 'consent')

  await routing.evaluate(study)
  const [held] = await transfers()
  assert.deepEqual([held?.state, held?.error_code, held?.agreement], ['held', 'CONSENT_MISSING', 'trial'])
  for (const other of [
    { patient: { issuer: 'OTHER', patientId: 'TEST-1' } },
    { patient: { issuer: '', patientId: 'TEST-2' } },
    { purpose: 'teaching' },
    { recipient: 'cd'.repeat(16) },
    { from: new Date(Date.now() + day) },
    { from: new Date(Date.now() - 2 * day), until: new Date(Date.now() - day) },
  ]) {
    const { settled } = await consents.record(alice, consent(other))
    assert.deepEqual(settled.released, [], JSON.stringify(other))
  }

  const { consent: recorded, settled } = await consents.record(alice, consent())

  const [released] = await transfers()
  assert.deepEqual(settled.released, [held?.id])
  assert.deepEqual([released?.state, released?.error_code, recorded.recipient], ['planned', null, siteId])
  assert.equal(await jobs(held?.id ?? ''), 1)
})

test('a withdrawn consent holds what is queued; a person cannot set it going against the patient', async t => {
  const { db, queue, routing, consents, study, transfers } = await open(t, 'consent')
  const { consent: given } = await consents.record(alice, consent())
  await routing.evaluate(study)
  assert.deepEqual(
    (await transfers()).map(({ state }) => state),
    ['planned'],
  )

  const { settled } = await consents.withdraw(alice, given.id)

  const [row] = await transfers()
  assert.deepEqual([row?.state, row?.error_code, settled.held], ['held', 'CONSENT_MISSING', [row?.id]])
  await assert.rejects(retryTransfer({ db, queue }, row?.id ?? '', alice), refused('CONSENT_MISSING'))
  await assert.rejects(consents.withdraw(alice, given.id), refused('STATE_CONFLICT'))
})

test("an objection stops what goes outside on any legal basis, a person's send too, until it is withdrawn", async t => {
  const { routing, consents, study, transfers } = await open(t, 'treatment')
  await routing.evaluate(study)

  const { consent: objection } = await consents.record(
    alice,
    consent({ kind: 'objection', purpose: '*', recipient: '*' }),
  )
  await routing.send({ study, destination: 'sponsor', purpose: 'trial', priority: 'normal', principal: alice })

  const codes = async () => (await transfers()).map(({ state, error_code }) => [state, error_code])
  assert.deepEqual(await codes(), [
    ['held', 'CONSENT_OBJECTED'],
    ['held', 'CONSENT_OBJECTED'],
  ])
  await consents.withdraw(alice, objection.id)
  assert.deepEqual(await codes(), [
    ['planned', null],
    ['planned', null],
  ])
})

test('a consent whose period begins or ends is noticed without anybody asking', async t => {
  const { db, routing, consents, study, transfers } = await open(t, 'consent')
  await routing.evaluate(study)
  const { consent: later } = await consents.record(alice, consent({ from: new Date(Date.now() + day) }))
  const state = async () => (await transfers())[0]?.state
  assert.equal(await state(), 'held')

  await db.pool.query(`update consents set valid_from = now() - interval '1 day' where id = $1`, [later.id])
  await consents.sweep()
  assert.equal(await state(), 'planned')
  await db.pool.query(`update consents set valid_until = now() where id = $1`, [later.id])
  await consents.sweep()
  assert.equal(await state(), 'held')
})

test('a consent withdrawn in mid-flight stops the transfer at once, and the peer removes what it has', async t => {
  const { promise: gate, resolve: go } = Promise.withResolvers<boolean>()
  let consents: Consents | undefined
  const a = await startFederationSite(t, {
    name: 'A',
    outbound: { mayContinue: () => gate, obstacle: async id => await consents?.obstacle(id) },
  })
  consents = openConsents({ db: a.db, queue: a.queue })
  const b = await startFederationSite(t, { name: 'B' })
  const { ofA } = await makePeers(a, b)
  const { study } = await insertStudy(a.db, [])
  const patient = await a.db.kysely
    .selectFrom('patients')
    .select(['issuer', 'patient_id as patientId'])
    .executeTakeFirstOrThrow()
  const { consent: given } = await consents.record(alice, consent({ patient, purpose: '*', recipient: '*' }))
  const id = await planTransfer(a, ofA, buildStudy(4))
  await a.db.kysely.updateTable('transfers').set({ study, needs_consent: true }).where('id', '=', id).execute()
  await deliver(a, id)
  await until('the offer is accepted', 20_000, async () => {
    const row = await b.db.kysely.selectFrom('inbound_transfers').select('state').executeTakeFirst()
    return row?.state === 'receiving'
  })

  const begin = performance.now()
  const { settled } = await consents.withdraw(alice, given.id)
  go(true)
  await until('cancelled there', 20_000, async () => {
    const row = await b.db.kysely.selectFrom('inbound_transfers').select('state').executeTakeFirst()
    return row?.state === 'cancelled'
  })

  assert.ok(performance.now() - begin < 5_000, `${performance.now() - begin} ms`)
  assert.deepEqual(settled.stopped, [id])
  const row = await transferOf(a, id)
  assert.deepEqual([row.state, row.error_code], ['cancelled', 'CONSENT_MISSING'])
  assert.deepEqual(await visibleAt(b), [])
  assert.ok((await auditOf(a)).some(event => event.reason === 'consent-withdrawn'))
})
