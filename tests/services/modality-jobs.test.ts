import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { ingestStore } from '../../gateway/dimse/ingest-sink.ts'
import { OwnMoves } from '../../gateway/dimse/own-moves.ts'
import { remoteNode } from '../../gateway/dimse/remote-node.ts'
import { GatewayError, isGatewayError } from '../../gateway/errors.ts'
import { openQueue } from '../../gateway/jobs/queue.ts'
import { openLog } from '../../gateway/log.ts'
import type { NodeTarget } from '../../gateway/services/dicom-node.ts'
import { openIngest } from '../../gateway/services/ingest.ts'
import { type ModalityJob, openModalityJobs } from '../../gateway/services/modality-jobs.ts'
import { openPrefetch } from '../../gateway/services/prefetch.ts'
import { openRemote } from '../../gateway/services/remote.ts'
import { openRetrieve } from '../../gateway/services/retrieve.ts'
import { startRouting } from '../../gateway/services/routing.ts'
import { startScp } from '../dimse/fixture.ts'
import { testBlobs } from '../support/blobs.ts'
import { onEnd } from '../support/cleanup.ts'
import { testDatabase } from '../support/database.ts'
import { dcmqrscpAe, startDcmqrscp } from '../support/dcmqrscp.ts'
import { missing } from '../support/dcmtk.ts'
import { type BuildOptions, type BuiltInstance, buildInstance, seededUid } from '../support/dicom-builder.ts'
import { caller } from '../support/principals.ts'
import { until } from '../support/until.ts'

const skip = missing('dcmqrscp', 'dcmqridx')
const log = openLog({ level: 'silent' })
const user = caller('tester')
const never = new AbortController().signal

/** A gateway's services around one archive, dcmqrscp, and an SCP of our own in front of the store. */
async function open(t: TestContext, files: readonly BuiltInstance[]) {
  const db = await testDatabase(t)
  const blobs = await testBlobs(t)
  const queue = await openQueue({ db, log })
  onEnd(t, () => queue.close())
  const ingest = openIngest({
    db,
    blobs,
    dueAt: ({ purpose }) => (purpose === 'prefetch' ? undefined : new Date()),
  })
  const ownMoves = new OwnMoves('HANSE')
  const scp = await startScp(t, { store: ingestStore(ingest, ({ originator }) => ownMoves.purposeOf(originator)) })
  const archive = await startDcmqrscp(t, { files: files.map(({ bytes }) => bytes), destinations: { HANSE: scp.port } })
  const nodes = new Map<string, NodeTarget>()
  const add = (name: string, port: number): void => {
    nodes.set(name, { name, host: '127.0.0.1', port, callingAe: 'HANSE', calledAe: dcmqrscpAe, timeoutMs: 60_000 })
  }
  add('PACS', archive.port)
  add('GONE', 1)
  nodes.set('ABROAD', {
    name: 'ABROAD',
    host: '127.0.0.1',
    port: 1,
    callingAe: 'HANSE',
    calledAe: 'ABROAD',
    isOutside: true,
  })
  const findNode = (name: string): NodeTarget => {
    const found = nodes.get(name)
    if (!found) throw new GatewayError('NOT_FOUND', 'no such modality')
    return found
  }
  const retrieve = openRetrieve({ db, blobs })
  const node = remoteNode({ store: purpose => ingestStore(ingest, () => purpose), ownMoves })
  const jobs = openModalityJobs({ db, queue, findNode, retrieve, node, log })
  queue.work('modality-job', { concurrency: 2 }, ({ job }, signal) => jobs.run(job, signal))
  const prefetch = openPrefetch({ db, queue, jobs, findNode, node, log })
  queue.work('prefetch-priors', { concurrency: 1 }, ({ study }, signal, { attempt }) =>
    prefetch.run(study, signal, attempt),
  )
  const ended = async (id: string): Promise<ModalityJob> => {
    let job = await jobs.load(id)
    await until('the job has ended', 60_000, async () => {
      job = await jobs.load(id)
      return !['waiting', 'running'].includes(job.state)
    })
    return job
  }
  const held = async (): Promise<string[]> => {
    const { rows } = await db.pool.query('select sop_instance_uid as uid from instances order by 1')
    return rows.map(row => row.uid)
  }
  const store = async ({ bytes }: BuiltInstance): Promise<void> => {
    const staged = await ingest.stage()
    await staged.append([bytes])
    await ingest.store(await staged.finish(), { kind: 'dimse', principal: 'CT_1', callingAe: 'CT_1' })
  }
  const arrived = prefetch.arrived
  return {
    db,
    queue,
    jobs,
    prefetch,
    arrived,
    remote: openRemote({ db, findNode, node, aeTitle: 'HANSE' }),
    ended,
    held,
    store,
  }
}

const uidsOf = (instances: readonly BuiltInstance[]): string[] => instances.map(each => each.sopInstanceUid).sort()

function study(seed: number, count: number, options: BuildOptions = {}): BuiltInstance[] {
  return Array.from({ length: count }, (_, index) =>
    buildInstance({
      seed: seed * 100 + index,
      studyInstanceUid: seededUid('study', seed),
      seriesInstanceUid: seededUid('series', seed),
      patientId: 'TEST-PRIORS',
      rows: 16,
      cols: 16,
      ...options,
    }),
  )
}

test('a node is verified and queried, and one that is gone is told apart', { skip }, async t => {
  const { remote } = await open(t, [...study(1, 2), ...study(2, 1)])

  assert.equal((await remote.echo(user, 'PACS', never)).status, 0)
  const all = await remote.find(user, 'PACS', { level: 'study', query: { PatientID: 'TEST-*' }, limit: 10 }, never)
  const one = await remote.find(user, 'PACS', { level: 'study', query: {}, limit: 1 }, never)
  const series = { StudyInstanceUID: seededUid('study', 1), '00080060': 'CT' }
  const inSeries = await remote.find(user, 'PACS', { level: 'series', query: series, limit: 10 }, never)

  assert.deepEqual([all.matches.length, all.truncated], [2, false])
  assert.deepEqual([one.matches.length, one.truncated], [1, true])
  assert.equal(inSeries.matches[0]?.['0020000E']?.Value?.[0], seededUid('series', 1))
  await assert.rejects(remote.echo(user, 'GONE', never), error => isGatewayError(error, 'PEER_UNREACHABLE'))
  await assert.rejects(remote.echo(user, 'NOBODY', never), error => isGatewayError(error, 'NOT_FOUND'))
  const wrong = remote.find(user, 'PACS', { level: 'study', query: { NoSuchKeyword: '' }, limit: 1 }, never)
  await assert.rejects(wrong, error => isGatewayError(error, 'BAD_REQUEST'))
})

test('a study is retrieved by C-GET, another by C-MOVE to ourselves, and a third sent on', { skip }, async t => {
  const [first, second, third] = [study(1, 12), study(2, 7), study(3, 4)]
  const { jobs, ended, held, store, remote } = await open(t, [...first, ...second])
  const keysOf = (seed: number) => ({ level: 'study' as const, studyUids: [seededUid('study', seed)] })

  const got = await ended((await jobs.request(user, { kind: 'retrieve', modality: 'PACS', keys: keysOf(1) })).id)
  assert.deepEqual([got.state, got.completed, got.failed], ['done', 12, 0])
  assert.deepEqual(await held(), uidsOf(first))

  const request = { kind: 'retrieve', modality: 'PACS', keys: keysOf(2), method: 'move' } as const
  const moved = await ended((await jobs.request(user, request)).id)
  assert.deepEqual([moved.state, moved.completed], ['done', 7])
  assert.deepEqual(await held(), uidsOf([...first, ...second]))

  for (const instance of third) await store(instance)
  const sent = await ended((await jobs.request(user, { kind: 'store', modality: 'PACS', keys: keysOf(3) })).id)
  assert.deepEqual([sent.state, sent.completed], ['done', 4])
  const abroad = jobs.request(user, { kind: 'store', modality: 'ABROAD', keys: keysOf(3) })
  await assert.rejects(abroad, error => isGatewayError(error, 'FORBIDDEN'))
  const query = {
    level: 'instance' as const,
    query: { StudyInstanceUID: seededUid('study', 3), SeriesInstanceUID: seededUid('series', 3) },
    limit: 10,
  }
  assert.equal((await remote.find(user, 'PACS', query, never)).matches.length, 4)
  assert.deepEqual((await jobs.list(10)).map(job => job.id).sort(), [got.id, moved.id, sent.id].sort())
})

test('work with a node that is gone waits, and is cancelled by a person', { skip }, async t => {
  const { jobs } = await open(t, study(1, 1))

  const { id } = await jobs.request(user, {
    kind: 'retrieve',
    modality: 'GONE',
    keys: { level: 'study', studyUids: ['1.2'] },
  })
  await until('it was tried', 60_000, async () => (await jobs.load(id)).errorCode === 'PEER_UNREACHABLE')
  const cancelled = await jobs.cancel(user, id)

  assert.equal(cancelled.state, 'cancelled')
  await assert.rejects(jobs.cancel(user, id), error => isGatewayError(error, 'STATE_CONFLICT'))
  const nobody = jobs.request(user, {
    kind: 'retrieve',
    modality: 'NOBODY',
    keys: { level: 'study', studyUids: ['1.2'] },
  })
  await assert.rejects(nobody, error => isGatewayError(error, 'NOT_FOUND'))
})

test('the newest priors of a patient are fetched when a study arrives, and sent on to nobody', { skip }, async t => {
  const dated = (seed: number, date: string, more: BuildOptions = {}) =>
    study(seed, 2, { ...more, extra: [{ tag: 0x00080020, value: date }, ...(more.extra ?? [])] })
  const [recent, older, ancient, later] = [
    dated(10, '20251101'),
    dated(11, '20250601'),
    dated(12, '19990101'),
    dated(13, '20260301'),
  ]
  const ofAnother = dated(14, '20251201', { patientId: 'TEST-OTHER' })
  const otherModality = dated(15, '20251202', { modality: 'US' })
  const { db, queue, prefetch, arrived, held, store } = await open(t, [
    ...[...recent, ...older, ...ancient, ...later, ...ofAnother, ...otherModality],
  ])
  const rule = {
    name: 'ct-chest',
    modalities: ['CT'],
    from: 'PACS',
    atMost: 5,
    notOlderThanDays: 3_650,
    priorModalities: ['CT'],
  }
  assert.equal((await prefetch.put(user, [rule])).version, 1)
  await assert.rejects(prefetch.put(user, [{ ...rule, atMost: 0 }]), error => isGatewayError(error, 'BAD_REQUEST'))
  const routing = startRouting({ db, queue, log, onArrived: arrived })
  onEnd(t, () => routing.close())

  const current = study(9, 1)
  for (const instance of current) await store(instance)

  const expected = uidsOf([...current, ...recent, ...older])
  await until('the priors are here', 60_000, async () => (await held()).length >= expected.length)
  assert.deepEqual(await held(), expected)
  await until('nothing is under way', 60_000, async () => {
    const { rows } = await db.pool.query(`select count(*)::int as n from modality_jobs where state <> 'done'`)
    return rows[0].n === 0
  })
  const { rows } = await db.pool.query(
    `select (select count(*) from studies where due_at is not null)::int as due,
            (select count(*) from modality_jobs)::int as jobs,
            (select count(*) from pgboss.job where name = 'prefetch-priors')::int as looks`,
  )
  assert.deepEqual(rows[0], { due: 0, jobs: 2, looks: 1 })
})
