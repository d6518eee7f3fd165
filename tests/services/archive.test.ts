import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { sql } from 'kysely'
import type { TransferState } from '../../gateway/db/schema.ts'
import { bufferSource } from '../../gateway/dicom/byte-source.ts'
import { itemsOf, stringOf } from '../../gateway/dicom/dataset.ts'
import { readPart10 } from '../../gateway/dicom/part10-reader.ts'
import { GatewayError } from '../../gateway/errors.ts'
import { openQueue } from '../../gateway/jobs/queue.ts'
import { openLog } from '../../gateway/log.ts'
import { type ArchiveResult, type ArchiveSend, type ArchiveWire, openArchive } from '../../gateway/services/archive.ts'
import { openCommitments } from '../../gateway/services/commitment.ts'
import type { CommitmentReport, CommitmentRequest } from '../../gateway/services/commitment-rows.ts'
import { openIngest } from '../../gateway/services/ingest.ts'
import { openPatientLinks } from '../../gateway/services/patient-links.ts'
import { startRouting } from '../../gateway/services/routing.ts'
import { loadTransfer } from '../../gateway/services/transfer-list.ts'
import { retryTransfer } from '../../gateway/services/transfers.ts'
import type { Origin } from '../../gateway/store/origin.ts'
import { publishPolicy } from '../../policy/versions.ts'
import { testBlobs } from '../support/blobs.ts'
import { onEnd } from '../support/cleanup.ts'
import { testDatabase } from '../support/database.ts'
import { type BuiltInstance, buildInstance } from '../support/dicom-builder.ts'
import { caller } from '../support/principals.ts'
import { testKeys } from '../support/site.ts'
import { until } from '../support/until.ts'

const log = openLog({ level: 'silent' })
const local: Origin = { kind: 'dimse', principal: 'CT_1', callingAe: 'CT_1' }

/** An archive of whom tests decide what it takes, counts and commits to. */
interface FakeArchive extends ArchiveWire {
  readonly taken: Map<string, Buffer>
  sends: number
  result: (item: ArchiveSend) => ArchiveResult | Error
  counted: number | undefined
  answer: (request: CommitmentRequest) => CommitmentReport | undefined
}

function fakeArchive(): FakeArchive {
  const archive: FakeArchive = {
    taken: new Map(),
    sends: 0,
    result: () => ({ kind: 'taken' }),
    counted: undefined,
    answer: ({ transactionUid, instances }) => ({ transactionUid, committed: instances, failed: [] }),
    async send(_modality, items, onResult, { stop }) {
      for (const item of items) {
        if (stop.aborted) return
        archive.sends += 1
        const result = archive.result(item)
        if (result instanceof Error) throw result
        const dataset = await item.open()
        const bytes = Buffer.from(await dataset.source.read(0, dataset.source.sizeBytes))
        await dataset.close()
        if (result.kind === 'taken') archive.taken.set(item.sopInstanceUid, bytes)
        await onResult(item, result)
      }
    },
    count: async () => archive.counted,
  }
  return archive
}

const policy = (archive: object) => ({
  format: 'hanse-policy-1',
  destinations: { pacs: { modality: 'PACS' } },
  rules: [
    {
      id: 'on',
      when: { any: [{ always: true }, { attribute: 'OriginKind', equals: 'peer' }] },
      send: { to: ['pacs'], purpose: 'treatment', profile: 'as-is', archive },
    },
  ],
})

async function start(t: TestContext, terms: object) {
  const db = await testDatabase(t)
  const blobs = await testBlobs(t)
  const keys = await testKeys(t, 'A')
  const queue = await openQueue({ db, log })
  onEnd(t, () => queue.close())
  const findArchive = (name: string) =>
    name === 'PACS' ? ({ name: 'PACS', aeTitle: 'PACS_AE', zone: 'inside' } as const) : undefined
  const routing = startRouting({ db, queue, log, findArchive })
  onEnd(t, () => routing.close())
  const wire = fakeArchive()
  const commitments = openCommitments({
    db,
    blobs,
    queue,
    aeTitle: 'HANSE',
    log,
    wire: {
      report: async () => undefined,
      async ask(_aeTitle, request, onReport) {
        const report = wire.answer(request)
        if (report) await onReport(report)
      },
    },
  })
  const archive = openArchive({
    db,
    blobs,
    queue,
    keys,
    checkpoint: async () => 'a checkpoint',
    commitments,
    wire,
    findArchive,
    aeTitle: 'HANSE',
    log,
  })
  queue.work('archive', { concurrency: 2 }, ({ transfer }, signal) => archive.run(transfer, signal))
  queue.work('carry-commitment', { concurrency: 2 }, ({ commitment }, signal) => commitments.carry(commitment, signal))
  await publishPolicy(db, policy(terms), 'alice')
  const issuer = 'b'.repeat(32)
  const ingest = openIngest({ db, blobs, dueAt: () => undefined })
  /** @param foreign  leaves them as an import does: patients of a peer have its site id as issuer */
  const store = async (
    instances: readonly BuiltInstance[],
    { origin = local, foreign }: { origin?: Origin; foreign?: string } = {},
  ): Promise<void> => {
    for (const instance of instances) {
      const staged = await ingest.stage()
      await staged.append([instance.bytes.subarray(0, instance.bytes.length - instance.dataset.length)])
      staged.markDataset()
      await staged.append([instance.dataset])
      await ingest.store(await staged.finish(), origin)
    }
    if (foreign !== undefined) await db.kysely.updateTable('patients').set({ issuer: foreign }).execute()
    await db.kysely.updateTable('studies').set({ due_at: new Date() }).execute()
  }
  const transfer = (state: TransferState) =>
    until(`a transfer that is ${state}`, 60_000, async () => {
      const row = await db.kysely.selectFrom('transfers').select('id').where('state', '=', state).executeTakeFirst()
      return row && (await loadTransfer(db, row.id))
    })
  return { db, queue, commitments, wire, store, transfer, links: openPatientLinks({ db, queue }), issuer }
}

const study = (count: number): BuiltInstance[] =>
  Array.from({ length: count }, (_, index) =>
    buildInstance({
      seed: index + 1,
      studyInstanceUid: '2.25.77',
      seriesInstanceUid: '2.25.78',
      patientId: 'TEST-77',
      rows: 8,
      cols: 8,
    }),
  )

test('a study is archived when the archive has committed to every instance, and not before', async t => {
  const { commitments, wire, store, transfer } = await start(t, { commitment: true, count: true })
  wire.counted = 3
  const pending: CommitmentRequest[] = []
  wire.answer = request => void pending.push(request)

  await store(study(3))
  const sent = await transfer('sent')
  const [request] = await until('it is asked to commit', 60_000, () => pending.length > 0 && pending)
  assert.ok(request)
  await commitments.answered(caller('PACS_AE'), {
    transactionUid: request.transactionUid,
    committed: request.instances,
    failed: [],
  })
  const archived = await transfer('archived')

  assert.deepEqual([sent.safeIn, sent.modality, sent.bytesDone], ['gateway', 'PACS', sent.bytesTotal])
  assert.equal(wire.taken.size, 3)
  assert.equal(archived.safeIn, 'archive')
  assert.deepEqual(
    archived.steps.map(step => step.step),
    ['planned', 'sending', 'sent', 'commitment-requested', 'archived'],
  )
})

test('without commitment a study is delivered at most, and stays in the gateway', async t => {
  const { store, transfer } = await start(t, {})

  await store(study(2))
  const delivered = await transfer('delivered')

  assert.equal(delivered.safeIn, 'gateway')
})

test('an archive that vanishes in the middle gets only the rest when it is back', async t => {
  const { wire, store, transfer } = await start(t, { commitment: true })
  wire.result = item =>
    wire.sends === 6 && item.ordinal === 5
      ? new GatewayError('PEER_UNREACHABLE', 'connection closed by the peer')
      : { kind: 'taken' }

  await store(study(10))
  await transfer('archived')

  assert.equal(wire.taken.size, 10)
  assert.equal(wire.sends, 11)
})

test('instances that the archive refuses for good are listed, and a person is asked', async t => {
  const { db, queue, wire, store, transfer } = await start(t, { commitment: true })
  const instances = study(4)
  const refused = instances[2]?.sopInstanceUid
  wire.result = item =>
    item.sopInstanceUid === refused ? { kind: 'failed', problem: 'STATUS_C000', isFinal: true } : { kind: 'taken' }

  await store(instances)
  const held = await transfer('held')
  wire.result = () => ({ kind: 'taken' })
  await retryTransfer({ db, queue }, held.id, caller('alice'))
  const archived = await transfer('archived')

  assert.deepEqual(
    [held.errorCode, held.error],
    ['ARCHIVE_REFUSED', 'the archive did not take 1 of 4 instances: STATUS_C000'],
  )
  assert.deepEqual(held.problems, [{ sopInstanceUid: refused, problem: 'STATUS_C000' }])
  assert.deepEqual([wire.sends, archived.problems.length], [5, 0])
})

test('what the archive will not commit to is sent again, and then held', async t => {
  const { wire, store, transfer } = await start(t, { commitment: true })
  const instances = study(2)
  const [lost] = instances
  wire.answer = ({ transactionUid, instances: asked }) => ({
    transactionUid,
    committed: asked.filter(item => item.sopInstanceUid !== lost?.sopInstanceUid),
    failed: asked
      .filter(item => item.sopInstanceUid === lost?.sopInstanceUid)
      .map(item => ({ ...item, reason: 0x0112 })),
  })

  await store(instances)
  const held = await transfer('held')

  assert.equal(held.errorCode, 'ARCHIVE_UNCOMMITTED')
  assert.equal(held.safeIn, 'gateway')
  // Once both, then three times the one.
  assert.equal(wire.sends, 5)
})

test('an archive that counts fewer instances than it took is not believed', async t => {
  const { wire, store, transfer } = await start(t, { commitment: true, count: true })
  wire.counted = 1

  await store(study(2))
  const waiting = await until('it waits', 60_000, async () => {
    const sent = await transfer('sent')
    return sent.errorCode === 'ARCHIVE_INCOMPLETE' && sent
  })
  wire.counted = 2
  await transfer('archived')

  assert.equal(waiting.error, 'the archive finds 1 instances of the study, 2 were sent')
})

test('patients of other sites go with prefix and issuer, and what they were is told', async t => {
  const { wire, store, transfer, issuer } = await start(t, {
    commitment: true,
    identifiers: { prefix: 'EXT-', issuer: 'HOSPB' },
  })
  await store(study(1), { foreign: issuer })

  await transfer('archived')

  const [bytes] = [...wire.taken.values()]
  assert.ok(bytes)
  const { dataset } = await readPart10(bufferSource(bytes))
  assert.deepEqual([stringOf(dataset, 0x00100020), stringOf(dataset, 0x00100021)], ['EXT-TEST-77', 'HOSPB'])
  assert.equal(itemsOf(dataset, 0x04000561).length, 1)
})

test('a patient who has to be linked waits for a person', async t => {
  const { wire, store, transfer, links, issuer } = await start(t, { identifiers: { linked: true } })
  await store(study(1), { foreign: issuer })
  const held = await transfer('held')
  assert.equal(held.errorCode, 'PATIENT_UNLINKED')
  assert.equal(wire.sends, 0)

  await links.put(caller('alice'), {
    issuer,
    patientId: 'TEST-77',
    archivePatientId: '4711',
    archiveIssuer: null,
    archiveName: 'TEST^LINKED',
  })
  await transfer('delivered')

  const [bytes] = [...wire.taken.values()]
  assert.ok(bytes)
  const { dataset } = await readPart10(bufferSource(bytes))
  assert.deepEqual([stringOf(dataset, 0x00100020), stringOf(dataset, 0x00100010)], ['4711', 'TEST^LINKED'])
})

test('an archive that sent a study itself does not get it back', async t => {
  const { db, store } = await start(t, {})

  await store(study(2), { origin: { kind: 'dimse', principal: 'PACS_AE', callingAe: 'PACS_AE' } })
  await until('it is evaluated', 60_000, async () => {
    const { rows } = await sql`select from pgboss.job where name = 'evaluate-study' and state = 'completed'`.execute(
      db.kysely,
    )
    return rows.length > 0
  })

  assert.equal((await db.kysely.selectFrom('transfers').select('id').execute()).length, 0)
})
