import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { openQuarantine } from '../../gateway/services/quarantine.ts'
import { buildInstance } from '../support/dicom-builder.ts'
import {
  acceptEverything,
  auditOf,
  buildStudy,
  deliver,
  type FederationSite,
  makePeers,
  planTransfer,
  startFederationSite,
  transferOf,
  untilState,
  visibleAt,
} from '../support/federation.ts'
import { caller } from '../support/principals.ts'
import { until } from '../support/until.ts'

const anna = caller('token:anna')
const why = 'looked at it with the radiologist'
/** Ultrasound leaves although it may have text burned in. */
const seen = {
  format: 'hanse-deid-1',
  name: 'seen',
  basis: 'consent',
  pixels: { release: [{ sopClassUid: '1.2.840.10008.5.1.4.1.1.6.1', justification: 'a person has looked at them' }] },
}

const quarantineOf = (site: FederationSite) => openQuarantine(site)

/** Two sites, and a transfer of the first one that the engine holds. */
async function heldTransfer(t: TestContext) {
  const a = await startFederationSite(t, { name: 'A', policy: { ...acceptEverything, profiles: [seen] } })
  const b = await startFederationSite(t, { name: 'B' })
  const { ofA } = await makePeers(a, b)
  const [first] = buildStudy(1)
  assert.ok(first)
  const { studyInstanceUid, patientId } = first
  const ultrasound = buildInstance({ seed: 9, modality: 'US', studyInstanceUid, patientId })
  const id = await planTransfer(a, ofA, [first, ultrasound], { profile: 'trial' })
  await deliver(a, id)
  await untilState(a, id, 'held')
  return { a, b, ofA, id, ultrasound, quarantine: quarantineOf(a) }
}

test('what is held is listed with code, reason and evidence, and who must decide', async t => {
  const { id, ultrasound, quarantine } = await heldTransfer(t)

  const [entry, ...others] = await quarantine.list(anna, { limit: 10 })
  const { instances } = await quarantine.load(anna, id)

  assert.deepEqual(
    [entry?.id, entry?.direction, entry?.code, entry?.heldBy, entry?.heldInstances, entry?.isAlert, others],
    [id, 'outbound', 'DEIDENTIFICATION_HELD', 'us', 1, false, []],
  )
  assert.deepEqual(
    instances.map(instance => [instance.sopInstanceUid, instance.code, instance.isAlert]),
    [[ultrasound.sopInstanceUid, 'burned-in', false]],
  )
  assert.ok(instances[0]?.reason && JSON.stringify(instances[0].evidence).includes('rule'))
  assert.deepEqual(await quarantine.list(anna, { direction: 'inbound', limit: 10 }), [])
  const stranger = caller('token:x', { roles: ['policy-author'] })
  await assert.rejects(quarantine.list(stranger, { limit: 1 }), { code: 'FORBIDDEN' })
  await assert.rejects(quarantine.release(stranger, id, why), { code: 'FORBIDDEN' })
})

test('another profile sends it, as the same project; as it is it never goes', async t => {
  const { a, b, id, quarantine } = await heldTransfer(t)
  const before = await transferOf(a, id)

  await assert.rejects(quarantine.rerun(anna, id, 'as-is', why), { code: 'BAD_REQUEST' })
  await assert.rejects(quarantine.rerun(anna, id, 'nothing', why), { code: 'BAD_REQUEST' })
  await quarantine.rerun(anna, id, 'seen', why)
  await untilState(a, id, 'receipted')

  const after = await transferOf(a, id)
  assert.deepEqual([after.profile, after.project], ['seen', before.project])
  assert.equal((await visibleAt(b)).length, 2)
  const reasons = await a.db.kysely.selectFrom('quarantine').select(['state', 'decided_by', 'why']).execute()
  assert.deepEqual(reasons, [{ state: 'released', decided_by: 'token:anna', why }])
  const events = await a.db.kysely.selectFrom('audit_events').select('payload').execute()
  const said = events.map(row => JSON.parse(row.payload ?? '{}')).find(event => event.reason === 'retried')
  assert.deepEqual(said.detail, { why, profile: 'seen' })
  assert.deepEqual(await quarantine.list(anna, { limit: 10 }), [])
  await assert.rejects(quarantine.load(anna, id), { code: 'NOT_FOUND' })
})

test('released unchanged it is held again; rejected it is over, and nothing of it was sent', async t => {
  const { a, b, id, quarantine } = await heldTransfer(t)

  await quarantine.release(anna, id, why)
  await until('it is held again', 30_000, async () => {
    const rows = await a.db.kysely.selectFrom('quarantine').select('id').execute()
    return rows.length === 2 && (await transferOf(a, id)).state === 'held'
  })
  await quarantine.reject(anna, id, why)

  assert.equal((await transferOf(a, id)).state, 'cancelled')
  const reasons = await a.db.kysely.selectFrom('quarantine').select('state').orderBy('id').execute()
  assert.deepEqual(
    reasons.map(row => row.state),
    ['released', 'rejected'],
  )
  assert.deepEqual(await b.db.kysely.selectFrom('inbound_transfers').select('id').execute(), [])
  await assert.rejects(quarantine.reject(anna, id, why), { code: 'NOT_FOUND' })
})

test('what came from a peer and is held is decided in the same place, with the reason in the audit log', async t => {
  const a = await startFederationSite(t, { name: 'A' })
  const hold = { id: 'look', when: { always: true }, hold: { from: ['*'], reason: 'a person looks first' } }
  const b = await startFederationSite(t, { name: 'B', policy: { ...acceptEverything, incoming: [hold] } })
  const { ofA } = await makePeers(a, b)
  const [one, two] = [
    await planTransfer(a, ofA, buildStudy(2, { seed: 1 })),
    await planTransfer(a, ofA, buildStudy(2, { seed: 2 })),
  ]
  for (const id of [one, two]) {
    await deliver(a, id)
    await untilState(a, id, 'held')
  }
  const quarantine = quarantineOf(b)

  const held = await quarantine.list(anna, { limit: 10 })
  const [first, second] = held
  assert.ok(first && second)
  assert.deepEqual(
    held.map(entry => [entry.direction, entry.reason]),
    Array(2).fill(['inbound', 'a person looks first']),
  )
  const [sender] = await quarantineOf(a).list(anna, { limit: 1 })
  assert.equal(sender?.heldBy, 'receiver')
  await assert.rejects(quarantineOf(a).release(anna, sender.id, why), { code: 'STATE_CONFLICT' })
  await assert.rejects(quarantine.rerun(anna, first.id, 'seen', why), { code: 'STATE_CONFLICT' })
  await quarantine.release(anna, first.id, why)
  await quarantine.reject(anna, second.id, why)

  await untilState(a, two, 'receipted', 60_000) // the newest is listed first
  await untilState(a, one, 'refused', 60_000)
  const said = (await auditOf(b)).filter(event => JSON.stringify(event).includes(why))
  assert.equal(said.length, 2)
})
