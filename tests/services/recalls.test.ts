import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { type TestContext, test } from 'node:test'
import { isGatewayError } from '../../gateway/errors.ts'
import { openConsents } from '../../gateway/services/consents.ts'
import { signRecall } from '../../peers/recall.ts'
import {
  auditOf,
  buildStudy,
  deliver,
  type FederationSite,
  makePeers,
  peerOf,
  planTransfer,
  startFederationSite,
  transferOf,
  untilState,
  visibleAt,
} from '../support/federation.ts'
import { caller } from '../support/principals.ts'
import { insertStudy } from '../support/rows.ts'
import { until } from '../support/until.ts'

const alice = caller('token:alice')
const bob = caller('token:bob')
const why = 'the patient has asked for it'
const refused = (code: Parameters<typeof isGatewayError>[1]) => (error: unknown) => isGatewayError(error, code)

async function open(t: TestContext) {
  const a = await startFederationSite(t, { name: 'A' })
  const b = await startFederationSite(t, { name: 'B' })
  const { ofA } = await makePeers(a, b)
  const send = async (seed: number): Promise<string> => {
    const id = await planTransfer(a, ofA, buildStudy(2, { seed }))
    await deliver(a, id)
    await untilState(a, id, 'receipted')
    return id
  }
  return { a, b, send }
}

const entries = (site: FederationSite) => site.recalls.list(alice, { limit: 10 })

/** The recall as the peer shows it, once it has been asked. */
async function asked(b: FederationSite): Promise<string> {
  await until('the peer is asked', 20_000, async () => (await entries(b)).length > 0)
  const [received] = await entries(b)
  assert.deepEqual([received?.direction, received?.state, received?.peer], ['received', 'pending', 'A'])
  return received?.id ?? ''
}

test('what a person asks back waits for a person there, is deleted, and both sides know it', async t => {
  const { a, b, send } = await open(t)
  const kept = await send(1)
  const transfer = await send(50)
  assert.equal((await visibleAt(b)).length, 4)

  const [id = ''] = await a.recalls.start(alice, { transfer, why })
  assert.deepEqual(await a.recalls.start(alice, { transfer, why }), [id], 'again changes nothing')
  const received = await asked(b)
  assert.deepEqual([(await entries(a))[0]?.state, (await visibleAt(b)).length], ['pending', 4])
  await b.recalls.decide(bob, received, 'recalled', why)
  await a.recalls.run(id, AbortSignal.timeout(20_000))

  const [sent] = await entries(a)
  assert.deepEqual([sent?.state, sent?.instances, sent?.transfer], ['recalled', 2, transfer])
  assert.equal((await visibleAt(b)).length, 2, 'what came by another transfer stays')
  assert.equal((await transferOf(a, kept)).state, 'receipted')
  await assert.rejects(b.recalls.decide(bob, received, 'refused', why), refused('STATE_CONFLICT'))
  const reasons = async (site: FederationSite) => (await auditOf(site)).map(event => event.reason)
  assert.deepEqual(
    (await reasons(a)).filter(reason => reason?.startsWith('recall')),
    ['recall-started', 'recall-recalled'],
  )
  assert.deepEqual(
    (await reasons(b)).filter(reason => reason?.startsWith('recall-')),
    ['recall-received', 'recall-recalled'],
  )
})

test('what a peer refuses to give back stays there, and the sender is told', async t => {
  const { a, b, send } = await open(t)
  const [id = ''] = await a.recalls.start(alice, { transfer: await send(1), why })

  await b.recalls.decide(bob, await asked(b), 'refused', why)
  await a.recalls.run(id, AbortSignal.timeout(20_000))

  assert.deepEqual([(await entries(a))[0]?.state, (await visibleAt(b)).length], ['refused', 2])
})

test('a withdrawn consent asks back what was sent under it, but never data of trials', async t => {
  const { a, send } = await open(t)
  const [care, trial] = [await send(1), await send(50)]
  const { study } = await insertStudy(a.db, [])
  const patient = await a.db.kysely
    .selectFrom('patients')
    .select(['issuer', 'patient_id as patientId'])
    .executeTakeFirstOrThrow()
  await a.db.kysely.updateTable('transfers').set({ study, zone: 'outside' }).execute()
  await a.db.kysely.updateTable('transfers').set({ purpose: 'trial-lung' }).where('id', '=', trial).execute()
  const consents = openConsents({ db: a.db, queue: a.queue })
  const wish = { kind: 'consent', patient, purpose: '*', recipient: '*', source: 'form' } as const
  const { consent } = await consents.record(alice, wish)
  await assert.rejects(a.recalls.start(alice, { consent: consent.id, why }), refused('STATE_CONFLICT'))
  await consents.withdraw(alice, consent.id)

  assert.equal((await a.recalls.start(alice, { consent: consent.id, why })).length, 1)

  const [entry, ...others] = await entries(a)
  assert.deepEqual([entry?.transfer, entry?.reason, others.length], [care, 'consent', 0])
})

test('a recall that its sender has not signed, of what nobody sent, or by somebody else, is refused', async t => {
  const { a, b, send } = await open(t)
  const transfer = await send(1)
  const manifest = (await transferOf(a, transfer)).manifest_id ?? ''
  const message = { manifest, from: a.keys.siteId, to: b.keys.siteId, time: new Date(), reason: 'person' } as const
  const peer = peerOf(b, a)

  await assert.rejects(b.recalls.receive(peer, manifest, signRecall(message, b.keys)), refused('MANIFEST_SIGNATURE'))
  await assert.rejects(b.recalls.receive(peer, 'ab'.repeat(32), signRecall(message, a.keys)), refused('NOT_FOUND'))
  const other = signRecall({ ...message, manifest: 'ab'.repeat(32) }, a.keys)
  await assert.rejects(b.recalls.receive(peer, manifest, other), refused('MANIFEST_SENDER'))
  await assert.rejects(a.recalls.start(alice, { transfer: randomUUID(), why }), refused('NOT_FOUND'))
  assert.deepEqual(await entries(b), [])
  assert.equal((await visibleAt(b)).length, 2)
})
