import assert from 'node:assert/strict'
import { open, rm } from 'node:fs/promises'
import { type TestContext, test } from 'node:test'
import { GatewayError, isGatewayError } from '../../gateway/errors.ts'
import { openQueue } from '../../gateway/jobs/queue.ts'
import { openLog } from '../../gateway/log.ts'
import { type CommitmentWire, openCommitments } from '../../gateway/services/commitment.ts'
import {
  type CommitmentReport,
  type CommitmentRequest,
  loadCommitment,
} from '../../gateway/services/commitment-rows.ts'
import { openConflicts } from '../../gateway/services/conflicts.ts'
import { openIngest } from '../../gateway/services/ingest.ts'
import type { Blobs } from '../../gateway/store/blobs.ts'
import type { Origin } from '../../gateway/store/origin.ts'
import { testBlobs } from '../support/blobs.ts'
import { onEnd } from '../support/cleanup.ts'
import { testDatabase } from '../support/database.ts'
import { type BuiltInstance, buildInstance } from '../support/dicom-builder.ts'
import { caller } from '../support/principals.ts'
import { until } from '../support/until.ts'

const log = openLog({ level: 'silent' })
const modality: Origin = { kind: 'dimse', principal: 'CT_1', callingAe: 'CT_1' }
const requestor = { aeTitle: 'CT_1', remoteAddress: '127.0.0.1' }

/** What went over the wire, and how it fares. */
interface FakeWire extends CommitmentWire {
  readonly reports: CommitmentReport[]
  readonly asked: CommitmentRequest[]
  isDown: boolean
  answer: ((request: CommitmentRequest) => CommitmentReport) | undefined
}

function fakeWire(): FakeWire {
  const wire: FakeWire = {
    reports: [],
    asked: [],
    isDown: false,
    answer: undefined,
    async report(_aeTitle, report) {
      if (wire.isDown) throw new GatewayError('PEER_UNREACHABLE', 'connection failed')
      wire.reports.push(report)
    },
    async ask(_aeTitle, request, onReport) {
      if (wire.isDown) throw new GatewayError('PEER_UNREACHABLE', 'connection failed')
      wire.asked.push(request)
      if (wire.answer) await onReport(wire.answer(request))
    },
  }
  return wire
}

async function start(t: TestContext, options: { answerWithinMs?: number } = {}) {
  const db = await testDatabase(t)
  const blobs = await testBlobs(t)
  const queue = await openQueue({ db, log })
  onEnd(t, () => queue.close())
  const wire = fakeWire()
  const commitments = openCommitments({ db, blobs, queue, wire, aeTitle: 'HANSE', log, ...options })
  queue.work('verify-commitment', { concurrency: 2 }, (job, signal) => commitments.verify(job.commitment, signal))
  queue.work('carry-commitment', { concurrency: 2 }, (job, signal) => commitments.carry(job.commitment, signal))
  const ingest = openIngest({ db, blobs, dueAt: () => undefined })
  const store = async (instance: BuiltInstance, origin: Origin = modality): Promise<void> => {
    const staged = await ingest.stage()
    await staged.append([instance.bytes.subarray(0, instance.bytes.length - instance.dataset.length)])
    staged.markDataset()
    await staged.append([instance.dataset])
    await ingest.store(await staged.finish(), origin)
  }
  const receive = (request: CommitmentRequest, peer = requestor) =>
    commitments.receive(caller(peer.aeTitle), peer, request)
  const reportOf = (transactionUid: string): Promise<CommitmentReport> =>
    until('a report', 60_000, () => wire.reports.find(report => report.transactionUid === transactionUid))
  return { db, blobs, wire, commitments, store, receive, reportOf }
}

const reference = ({ sopClassUid, sopInstanceUid }: BuiltInstance) => ({ sopClassUid, sopInstanceUid })

async function pathOf(db: Awaited<ReturnType<typeof testDatabase>>, blobs: Blobs, uid: string): Promise<string> {
  const row = await db.kysely
    .selectFrom('instances')
    .select('file_sha256')
    .where('sop_instance_uid', '=', uid)
    .executeTakeFirstOrThrow()
  return blobs.path(row.file_sha256)
}

test('instances whose bytes are whole are committed, and the requestor is told once', async t => {
  const { db, store, receive, reportOf, wire } = await start(t)
  const instances = [1, 2, 3].map(seed => buildInstance({ seed }))
  for (const instance of instances) await store(instance)

  const { id } = await receive({ transactionUid: '2.25.1', instances: instances.map(reference) })
  const report = await reportOf('2.25.1')

  assert.deepEqual(report, { transactionUid: '2.25.1', committed: instances.map(reference), failed: [] })
  const row = await until('it is told', 60_000, async () => {
    const now = await loadCommitment(db.kysely, id)
    return now?.state === 'reported' && now
  })
  assert.deepEqual([row.failedCount, row.instanceCount, wire.reports.length], [0, 3, 1])
  const audited = await db.kysely.selectFrom('audit_events').select('payload').execute()
  assert.equal(audited.filter(event => event.payload?.includes('storage-commitment')).length, 2)
})

test('a flipped byte, a missing file, an unknown instance and a wrong class fail, each with its reason', async t => {
  const { db, blobs, store, receive, reportOf } = await start(t)
  const [whole, flipped, gone, other] = [1, 2, 3, 4].map(seed => buildInstance({ seed }))
  assert.ok(whole && flipped && gone && other)
  for (const instance of [whole, flipped, gone, other]) await store(instance)
  const file = await open(await pathOf(db, blobs, flipped.sopInstanceUid), 'r+')
  await file.write(Buffer.from([flipped.bytes.at(-1) === 1 ? 2 : 1]), 0, 1, flipped.bytes.length - 1)
  await file.close()
  await rm(await pathOf(db, blobs, gone.sopInstanceUid))
  const unknown = { sopClassUid: whole.sopClassUid, sopInstanceUid: '2.25.404' }
  const wrongClass = { ...reference(other), sopClassUid: '1.2.840.10008.5.1.4.1.1.4' }

  await receive({
    transactionUid: '2.25.2',
    instances: [reference(whole), reference(flipped), reference(gone), unknown, wrongClass],
  })
  const report = await reportOf('2.25.2')

  assert.deepEqual(report.committed, [reference(whole)])
  assert.deepEqual(report.failed, [
    { ...reference(flipped), reason: 0x0110 },
    { ...reference(gone), reason: 0x0110 },
    { ...unknown, reason: 0x0112 },
    { ...wrongClass, reason: 0x0119 },
  ])
})

test('a conflict is never committed, and the sender of bytes that were not taken is never told they are safe', async t => {
  const { db, blobs, store, receive, reportOf } = await start(t)
  const stored = buildInstance({ seed: 1 })
  const rival = buildInstance({ seed: 2, sopInstanceUid: stored.sopInstanceUid })
  await store(stored)
  await store(rival, { kind: 'dimse', principal: 'CT_2', callingAe: 'CT_2' })
  const ask = async (transactionUid: string, aeTitle: string): Promise<number[]> => {
    await receive({ transactionUid, instances: [reference(stored)] }, { ...requestor, aeTitle })
    return (await reportOf(transactionUid)).failed.map(item => item.reason)
  }

  assert.deepEqual(await ask('2.25.31', 'CT_1'), [0x0110])
  const conflicts = openConflicts({ db, blobs })
  const [held] = await conflicts.list({ limit: 10 })
  await conflicts.decide(caller('alice'), held?.id ?? 0, 'keep')

  assert.deepEqual(await ask('2.25.32', 'CT_1'), [])
  assert.deepEqual(await ask('2.25.33', 'CT_2'), [0x0110])
})

test('the same request is answered again; its transaction with other instances fails as a duplicate', async t => {
  const { store, receive, reportOf, wire } = await start(t)
  const [first, second] = [buildInstance({ seed: 1 }), buildInstance({ seed: 2 })]
  await store(first)
  await store(second)

  const one = await receive({ transactionUid: '2.25.4', instances: [reference(first)] })
  await reportOf('2.25.4')
  const again = await receive({ transactionUid: '2.25.4', instances: [reference(first)] })
  await until('the second report', 60_000, () => wire.reports.length === 2)
  const other = await receive({ transactionUid: '2.25.4', instances: [reference(first), reference(second)] })
  await until('the third report', 60_000, () => wire.reports.length === 3)

  assert.equal(again.id, one.id)
  assert.notEqual(other.id, one.id)
  assert.deepEqual(
    wire.reports.map(report => [report.committed.length, report.failed.map(item => item.reason)]),
    [
      [1, []],
      [1, []],
      [0, [0x0131, 0x0131]],
    ],
  )
})

test('a requestor that cannot be reached is told when it is back', async t => {
  const { db, store, receive, reportOf, wire } = await start(t)
  const instance = buildInstance({ seed: 1 })
  await store(instance)
  wire.isDown = true

  const { id } = await receive({ transactionUid: '2.25.5', instances: [reference(instance)] })
  const waiting = await until('a failed attempt', 60_000, async () => {
    const row = await loadCommitment(db.kysely, id)
    return (row?.attempts ?? 0) > 0 && row
  })
  wire.isDown = false
  await reportOf('2.25.5')

  assert.deepEqual([waiting.state, waiting.errorCode], ['reporting', 'PEER_UNREACHABLE'])
})

test('an association that waits gets the answer itself', async t => {
  const { db, store, receive, commitments, wire } = await start(t)
  const instance = buildInstance({ seed: 1 })
  await store(instance)

  const { id } = await receive({ transactionUid: '2.25.6', instances: [reference(instance)] })
  const report = await commitments.awaitReport(id, { fromMs: 0, toMs: 60_000 }, new AbortController().signal)
  await commitments.reported(id)

  assert.deepEqual(report?.committed, [reference(instance)])
  assert.equal((await loadCommitment(db.kysely, id))?.state, 'reported')
  assert.equal(wire.reports.length, 0)
})

test('requests without instances or with too many are refused', async t => {
  const { receive } = await start(t)
  const many = Array.from({ length: 20_001 }, (_, i) => ({ sopClassUid: '1.2.3', sopInstanceUid: `2.25.${i}` }))

  await assert.rejects(receive({ transactionUid: '2.25.7', instances: [] }), error =>
    isGatewayError(error, 'BAD_REQUEST'),
  )
  await assert.rejects(receive({ transactionUid: '2.25.7', instances: many }), error =>
    isGatewayError(error, 'TOO_LARGE'),
  )
})

test('an answer that does not come in time is asked for again, and a late one still counts', async t => {
  const { db, commitments, wire } = await start(t, { answerWithinMs: 1 })
  const instances = [buildInstance({ seed: 1 }), buildInstance({ seed: 2 })].map(reference)
  const expiresAt = new Date(Date.now() + 60_000)

  const [id = ''] = await db.inTransaction(tx => commitments.ask(tx, { aeTitle: 'PACS', instances, expiresAt }))
  await until('it is asked twice', 60_000, () => wire.asked.length >= 2)
  const [first, second] = wire.asked
  assert.ok(first && second)
  await commitments.answered(caller('PACS'), {
    transactionUid: first.transactionUid,
    committed: instances.slice(0, 1),
    failed: [],
  })

  assert.notEqual(first.transactionUid, second.transactionUid)
  const row = await loadCommitment(db.kysely, id)
  // What an answer does not name is not committed.
  assert.deepEqual([row?.state, row?.failedCount], ['failed', 1])
})

test('an answer on the association of the request counts, and one that nobody asked for is refused', async t => {
  const { db, commitments, wire } = await start(t)
  const instances = [reference(buildInstance({ seed: 1 }))]
  wire.answer = ({ transactionUid }) => ({ transactionUid, committed: instances, failed: [] })

  const expiresAt = new Date(Date.now() + 60_000)
  const [id = ''] = await db.inTransaction(tx => commitments.ask(tx, { aeTitle: 'PACS', instances, expiresAt }))
  await until('it is committed', 60_000, async () => (await loadCommitment(db.kysely, id))?.state === 'committed')

  await assert.rejects(
    commitments.answered(caller('PACS'), { transactionUid: '2.25.404', committed: instances, failed: [] }),
    error => isGatewayError(error, 'NOT_FOUND'),
  )
})

test('commitments that ended three months ago are forgotten, open ones are not', async t => {
  const { db, commitments } = await start(t)
  const instances = [reference(buildInstance({ seed: 1 }))]
  const expiresAt = new Date(Date.now() + 60_000)
  const ids = await db.inTransaction(async tx => [
    ...(await commitments.ask(tx, { aeTitle: 'PACS', instances, expiresAt })),
    ...(await commitments.ask(tx, { aeTitle: 'PACS', instances, expiresAt })),
  ])
  await until('both are asked', 60_000, async () => {
    const rows = await db.kysely.selectFrom('commitments').select('id').where('state', '=', 'waiting').execute()
    return rows.length === 2
  })
  const long = new Date(Date.now() - 100 * 24 * 3_600_000)
  await db.kysely.updateTable('commitments').set({ created_at: long, updated_at: long }).execute()
  await db.kysely
    .updateTable('commitments')
    .set({ state: 'committed' })
    .where('id', '=', ids[0] ?? '')
    .execute()

  await commitments.recover()

  const left = await db.kysely.selectFrom('commitments').select('id').execute()
  assert.deepEqual(
    left.map(row => row.id),
    [ids[1]],
  )
  assert.equal((await db.kysely.selectFrom('commitment_items').select('ordinal').execute()).length, 1)
})
