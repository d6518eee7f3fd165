import assert from 'node:assert/strict'
import { readdir, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { cancelTransfer } from '../../gateway/services/transfers.ts'
import { buildInstance } from '../support/dicom-builder.ts'
import {
  auditOf,
  buildStudy,
  deliver,
  type FederationSite,
  makePeers,
  openWire,
  planTransfer,
  startFederationSite,
  transferOf,
  untilState,
  visibleAt,
} from '../support/federation.ts'
import { caller } from '../support/principals.ts'
import { until } from '../support/until.ts'

const uids = (study: readonly { sopInstanceUid: string }[]): string[] => study.map(item => item.sopInstanceUid).sort()

async function inboundAt(site: FederationSite) {
  return await site.db.kysely.selectFrom('inbound_transfers').selectAll().executeTakeFirstOrThrow()
}

async function stepsOf(site: FederationSite, id: string): Promise<string[]> {
  const rows = await site.db.kysely
    .selectFrom('transfer_steps')
    .select('step')
    .where('transfer', '=', id)
    .orderBy('id')
    .execute()
  return rows.map(row => row.step)
}

test('connections that break again and again cost only the ranges that were on their way', async t => {
  const [a, b] = await Promise.all([startFederationSite(t, { name: 'A' }), startFederationSite(t, { name: 'B' })])
  const wire = await openWire(t, b.federation.address.port)
  const { ofA } = await makePeers(a, b, site => (site === b ? wire.url : site.url))
  const study = buildStudy(60, { rows: 512 }) // about 30 MiB
  const id = await planTransfer(a, ofA, study)
  wire.cutAfter = 3_000_000
  const cutting = setInterval(() => {
    if (wire.cutAfter === Number.POSITIVE_INFINITY && wire.cuts < 5) wire.cutAfter = 4_000_000
  }, 5)
  t.after(() => clearInterval(cutting))

  await deliver(a, id)
  await untilState(a, id, 'receipted', 60_000)

  const { bytes_total, bytes_sent } = await transferOf(a, id)
  assert.deepEqual(await visibleAt(b), uids(study))
  assert.ok(wire.cuts >= 3, `${wire.cuts} cuts`)
  const rangesInFlight = 4 * 8 * 1024 * 1024
  assert.ok(bytes_sent - bytes_total <= wire.cuts * rangesInFlight)
  assert.ok(wire.sentBytes < bytes_total + wire.cuts * 4_500_000, `${wire.sentBytes} of ${bytes_total} bytes`)
})

test('a peer that is down holds no workers, and is sent everything when it is back', async t => {
  const [a, b, c] = await Promise.all(['A', 'B', 'C'].map(name => startFederationSite(t, { name })))
  assert.ok(a && b && c)
  const wire = await openWire(t, b.federation.address.port)
  wire.isDown = true
  const { ofA: toB } = await makePeers(a, b, site => (site === b ? wire.url : site.url))
  const { ofA: toC } = await makePeers(a, c)
  const waiting: string[] = []
  for (let seed = 1; seed <= 6; seed++) waiting.push(await planTransfer(a, toB, buildStudy(2, { seed })))
  const fine = await planTransfer(a, toC, buildStudy(2, { seed: 20 }))

  for (const id of [...waiting, fine]) await deliver(a, id)
  await untilState(a, fine, 'receipted')
  const first = waiting[0] ?? ''
  await until('the error is visible', 10_000, async () => {
    const row = await transferOf(a, first)
    return row.error_code === 'PEER_UNREACHABLE' && row.next_attempt_at !== null
  })
  wire.isDown = false

  for (const id of waiting) await untilState(a, id, 'receipted', 60_000)
  assert.equal((await visibleAt(b)).length, 12)
})

test('a transfer that is cancelled stops, is told to the peer, and leaves nothing there', async t => {
  const { promise: gate, resolve: go } = Promise.withResolvers<boolean>()
  const a = await startFederationSite(t, { name: 'A', outbound: { mayContinue: () => gate } })
  const b = await startFederationSite(t, { name: 'B' })
  const { ofA } = await makePeers(a, b)
  const id = await planTransfer(a, ofA, buildStudy(4))
  await deliver(a, id)
  await until('the offer is accepted', 20_000, async () => (await stepsOf(a, id)).includes('accepted'))

  await cancelTransfer({ db: a.db, queue: a.queue }, id, caller('person'))
  go(true)

  await until('cancelled there', 20_000, async () => (await inboundAt(b)).state === 'cancelled')
  await until('told here', 20_000, async () => (await stepsOf(a, id)).includes('cancelled-there'))
  assert.equal((await transferOf(a, id)).state, 'cancelled')
  assert.deepEqual(await visibleAt(b), [])
  await until('bytes removed', 10_000, async () => (await readdir(join(b.dataDir, 'inbound'))).length === 0)
})

test('an object that cannot be taken holds the whole study; a person releases or refuses it', async t => {
  const [a, b] = await Promise.all([startFederationSite(t, { name: 'A' }), startFederationSite(t, { name: 'B' })])
  const { ofA, ofB } = await makePeers(a, b)
  const study = buildStudy(5)
  const clash = buildInstance({ seed: 77, sopInstanceUid: study[3]?.sopInstanceUid ?? '' })
  const back = await planTransfer(b, ofB, [clash]) // A holds another content under one of the UIDs
  await deliver(b, back)
  await untilState(b, back, 'receipted')
  const local = await planTransfer(a, ofA, [clash])
  await deliver(a, local)
  await untilState(a, local, 'receipted')

  const id = await planTransfer(a, ofA, study)
  await deliver(a, id)
  await untilState(a, id, 'held')
  const held = await b.db.kysely
    .selectFrom('inbound_transfers')
    .selectAll()
    .where('state', '=', 'held')
    .executeTakeFirstOrThrow()

  assert.equal(held.error, '4 of 5 objects can be imported')
  assert.deepEqual(held.refusals, [{ object: 3, sopInstanceUid: study[3]?.sopInstanceUid, code: 'STATE_CONFLICT' }])
  assert.deepEqual(await visibleAt(b), [clash.sopInstanceUid], 'nothing of it is visible')
  assert.equal((await transferOf(a, id)).error_code, 'STATE_CONFLICT')

  // The person removes what stands in the way, then has it tried again.
  await b.db.kysely.deleteFrom('instances').execute()
  await b.inbound.release(held.id, caller('person'))
  await untilState(a, id, 'receipted', 60_000)
  assert.deepEqual(await visibleAt(b), uids(study))
})

test('a refused hold is a signed refusal at the sender, and its bytes are gone', async t => {
  const [a, b] = await Promise.all([startFederationSite(t, { name: 'A' }), startFederationSite(t, { name: 'B' })])
  const { ofA } = await makePeers(a, b)
  const first = buildStudy(2)
  const id = await planTransfer(a, ofA, first)
  await deliver(a, id)
  await untilState(a, id, 'receipted')
  const clash = buildInstance({
    seed: 99,
    sopInstanceUid: first[0]?.sopInstanceUid ?? '',
    studyInstanceUid: '1.2.3.99',
  })
  const second = await planTransfer(a, ofA, [clash])
  await deliver(a, second)
  await untilState(a, second, 'held')
  const held = await b.db.kysely
    .selectFrom('inbound_transfers')
    .select('id')
    .where('state', '=', 'held')
    .executeTakeFirstOrThrow()

  await b.inbound.reject(held.id, caller('person'))

  await untilState(a, second, 'refused', 60_000)
  assert.equal((await transferOf(a, second)).error_code, 'OFFER_REFUSED')
  const kinds = await a.db.kysely
    .selectFrom('receipts')
    .select('kind')
    .where('transfer', '=', second)
    .orderBy('id')
    .execute()
  assert.deepEqual(
    kinds.map(row => row.kind),
    ['accepted', 'custody', 'held', 'refused'],
  )
  assert.deepEqual(await readdir(join(b.dataDir, 'inbound')), [])
  assert.ok((await auditOf(b)).some(event => event.event === '110104' && event.reason === 'OFFER_REFUSED'))
})

test('bytes that are not the signed ones hold the study, and are sent again when a person says so', async t => {
  const [a, b] = await Promise.all([startFederationSite(t, { name: 'A' }), startFederationSite(t, { name: 'B' })])
  const { ofA } = await makePeers(a, b)
  const study = buildStudy(3, { rows: 512 })
  const id = await planTransfer(a, ofA, study)
  const row = await a.db.kysely
    .selectFrom('transfer_items')
    .select('file_sha256')
    .where('ordinal', '=', 1)
    .executeTakeFirstOrThrow()
  const path = a.blobs.path(row.file_sha256)
  const damaged = Buffer.from(study[1]?.bytes ?? [])
  damaged[5000] = (damaged[5000] ?? 0) ^ 1
  await rm(path)
  await writeFile(path, damaged)

  await deliver(a, id)
  await untilState(a, id, 'held')
  const held = await inboundAt(b)
  assert.deepEqual(held.refusals, [{ object: 1, sopInstanceUid: study[1]?.sopInstanceUid, code: 'OBJECT_DIGEST' }])
  assert.deepEqual(await visibleAt(b), [])

  await writeFile(path, study[1]?.bytes ?? Buffer.alloc(0))
  await b.inbound.release(held.id, caller('person'))
  await untilState(a, id, 'receipted', 60_000)
  assert.deepEqual(await visibleAt(b), uids(study))
})

test('bytes that changed on our own disk hold the transfer here, and never reach the peer', async t => {
  const [a, b] = await Promise.all([startFederationSite(t, { name: 'A' }), startFederationSite(t, { name: 'B' })])
  const { ofA } = await makePeers(a, b)
  const study = buildStudy(3)
  const id = await planTransfer(a, ofA, study)
  const row = await a.db.kysely.selectFrom('transfer_items').select('file_sha256').limit(1).executeTakeFirstOrThrow()
  const damaged = Buffer.from(study[0]?.bytes ?? [])
  damaged[5000] = (damaged[5000] ?? 0) ^ 1
  await writeFile(a.blobs.path(row.file_sha256), damaged)

  await deliver(a, id)

  await untilState(a, id, 'held')
  assert.equal((await transferOf(a, id)).error_code, 'STORAGE_CORRUPT')
  assert.equal((await inboundAt(b)).bytes_received, 0)
})

test('a missing blob holds the transfer here, before anything is offered', async t => {
  const [a, b] = await Promise.all([startFederationSite(t, { name: 'A' }), startFederationSite(t, { name: 'B' })])
  const { ofA } = await makePeers(a, b)
  const id = await planTransfer(a, ofA, buildStudy(2))
  const row = await a.db.kysely.selectFrom('transfer_items').select('file_sha256').limit(1).executeTakeFirstOrThrow()
  await rm(a.blobs.path(row.file_sha256))

  await deliver(a, id)

  await untilState(a, id, 'held')
  assert.equal((await transferOf(a, id)).error_code, 'STORAGE_CORRUPT')
  assert.equal((await b.db.kysely.selectFrom('inbound_transfers').select('id').execute()).length, 0)
})

test('a transfer that nobody could be reached for expires', async t => {
  const a = await startFederationSite(t, { name: 'A' })
  const b = await startFederationSite(t, { name: 'B' })
  const wire = await openWire(t, b.federation.address.port)
  wire.isDown = true
  const { ofA } = await makePeers(a, b, site => (site === b ? wire.url : site.url))
  const id = await planTransfer(a, ofA, buildStudy(1))
  await a.db.kysely
    .updateTable('transfers')
    .set({ manifest_created: new Date(Date.now() - 7_200_000), expires_at: new Date(Date.now() - 3_600_000) })
    .execute()

  await deliver(a, id)

  await untilState(a, id, 'expired')
  assert.ok((await auditOf(a)).some(event => event.reason === 'MANIFEST_EXPIRED'))
})

test('a clock that is wrong by more than five minutes is named with drift and side', async t => {
  let driftMs = 0
  const a = await startFederationSite(t, { name: 'A', clock: () => Date.now() + driftMs })
  const b = await startFederationSite(t, { name: 'B' })
  const { ofA } = await makePeers(a, b)
  const id = await planTransfer(a, ofA, buildStudy(1))
  driftMs = -12 * 60_000

  await deliver(a, id)

  const row = await until('the error', 20_000, async () => {
    const found = await transferOf(a, id)
    return found.error_code !== null && found
  })
  assert.equal(row.error_code, 'PEER_CLOCK_DRIFT')
  assert.match(row.error ?? '', /clock of B is 12 minutes ahead of this site/)
})

test('many transfers of several peers run side by side, each peer in its turn', async t => {
  const [a, b, c] = await Promise.all(['A', 'B', 'C'].map(name => startFederationSite(t, { name })))
  assert.ok(a && b && c)
  const { ofA: toB } = await makePeers(a, b)
  const { ofA: toC } = await makePeers(a, c)
  const ids: string[] = []
  for (let seed = 1; seed <= 12; seed++) ids.push(await planTransfer(a, toB, buildStudy(1, { seed })))
  const other = await planTransfer(a, toC, buildStudy(1, { seed: 30 }))

  for (const id of [...ids, other]) await deliver(a, id)
  for (const id of [...ids, other]) await untilState(a, id, 'receipted', 60_000)

  const order = await a.db.kysely
    .selectFrom('transfer_steps')
    .select('transfer')
    .where('step', '=', 'receipted')
    .orderBy('id')
    .execute()
  assert.ok(order.findIndex(row => row.transfer === other) < 10, 'the one for C did not wait for all of B')
})

test('what a killed process left behind is carried on from the rows', async t => {
  const [a, b] = await Promise.all([startFederationSite(t, { name: 'A' }), startFederationSite(t, { name: 'B' })])
  const { ofA } = await makePeers(a, b)
  const study = buildStudy(3)
  const id = await planTransfer(a, ofA, study)

  await a.outbound.recover('all') // no job was left, only the row
  await untilState(a, id, 'receipted')
  await b.inbound.runCommit((await inboundAt(b)).id, AbortSignal.timeout(10_000)) // a job that ran before
  await deliver(a, id)
  await a.outbound.run(id, AbortSignal.timeout(10_000))

  assert.deepEqual(await visibleAt(b), uids(study))
  assert.equal((await transferOf(a, id)).state, 'receipted')
})
