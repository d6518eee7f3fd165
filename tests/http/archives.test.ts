import assert from 'node:assert/strict'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { truncate, writeFile } from 'node:fs/promises'
import { get as httpGet, type IncomingMessage } from 'node:http'
import { join } from 'node:path'
import { buffer } from 'node:stream/consumers'
import { type TestContext, test } from 'node:test'
import { isObject } from '../../gateway/decode.ts'
import { archiveRoutes } from '../../gateway/http/orthanc/archives.ts'
import { orthancJobRoutes } from '../../gateway/http/orthanc/jobs.ts'
import { openQueue } from '../../gateway/jobs/queue.ts'
import { openBackgroundJobs } from '../../gateway/services/background-jobs.ts'
import { openZipArchives } from '../../gateway/services/zip-archive.ts'
import { testPixels } from '../pixels/support.ts'
import { temporaryDir } from '../support/blobs.ts'
import { onEnd } from '../support/cleanup.ts'
import { openCorpus } from '../support/corpus.ts'
import { missing, run } from '../support/dcmtk.ts'
import { buildInstance } from '../support/dicom-builder.ts'
import { missingOrthanc, startOrthanc } from '../support/orthanc.ts'
import { until } from '../support/until.ts'
import { type UnzippedFile, unzip } from '../support/unzip.ts'
import { quietLog } from './job-app.ts'
import { type StoreApp, storeApp } from './store-app.ts'

const headers = { host: 'localhost' }

async function archiveApp(t: TestContext): Promise<StoreApp> {
  const pixels = await testPixels(t)
  return await storeApp(t, {
    routes: async (app, { db, blobs, dir }) => {
      const queue = await openQueue({ db, log: quietLog })
      onEnd(t, () => queue.close())
      const jobs = openBackgroundJobs({ db, queue, log: quietLog, dataDir: dir, concurrency: 1, historySize: 10 })
      orthancJobRoutes(app, { jobs })
      const archives = openZipArchives({ db, blobs, pixels })
      await archiveRoutes(app, { archives, jobs, assertRoom: bytes => blobs.assertRoom(bytes) })
      jobs.start()
    },
  })
}

interface Answer {
  readonly status: number
  readonly files: UnzippedFile[]
  readonly zip: Buffer
}

async function fetchZip({ app }: StoreApp, url: string, body?: unknown): Promise<Answer> {
  const payload = body === undefined ? {} : { payload: JSON.stringify(body) }
  const answer = await app.inject({ method: body === undefined ? 'GET' : 'POST', url, headers, ...payload })
  const zip = answer.rawPayload
  return { status: answer.statusCode, zip, files: answer.statusCode === 200 ? await unzip(zip) : [] }
}

/** Two series of a study, and another patient. */
async function withStudy(store: StoreApp): Promise<{ study: string; patient: string; instances: Uint8Array[] }> {
  const instances = [1, 2, 3, 4].map(
    seed =>
      buildInstance({
        seed,
        studyInstanceUid: '1.2.3',
        seriesInstanceUid: `1.2.3.${seed % 2}`,
        patientId: 'TEST-1',
        patientName: 'TEST^Müller',
      }).bytes,
  )
  let [study, patient] = ['', '']
  for (const bytes of instances) {
    const { body } = await store.upload(bytes)
    study = String(body['ParentStudy'])
    patient = String(body['ParentPatient'])
  }
  await store.upload(buildInstance({ seed: 9 }).bytes)
  return { study, patient, instances }
}

const sorted = (bytes: readonly Uint8Array[]): string[] =>
  bytes.map(each => Buffer.from(each).toString('base64')).sort()

test('an archive holds every instance of a study as it was stored, and is audited', async t => {
  const store = await archiveApp(t)
  const { study, instances } = await withStudy(store)

  const { files } = await fetchZip(store, `/studies/${study}/archive`)

  assert.deepEqual(sorted(files.map(({ bytes }) => bytes)), sorted(instances))
  assert.ok(files.every(({ method }) => method === 0))
  assert.match(files[0]?.name ?? '', /^TEST1 TEST Mller\/A\d Synthetic study\/CT Synthetic series\/CT000000\.dcm$/)
  const events = await store.db.pool.query<{ payload: string }>(
    `select payload from audit_events where payload::jsonb ->> 'event' = '110106'`,
  )
  assert.equal(events.rows.length, 1)
})

test('fast compression deflates what becomes smaller, with the same bytes inside', async t => {
  const store = await archiveApp(t)
  const { study, instances } = await withStudy(store)

  const { files, zip } = await fetchZip(store, `/studies/${study}/archive`, { Compression: 'fast' })

  assert.deepEqual(sorted(files.map(({ bytes }) => bytes)), sorted(instances))
  assert.ok(files.every(({ method }) => method === 8))
  assert.ok(zip.length < instances.reduce((sum, { length }) => sum + length, 0) * 0.8)
})

test('an asynchronous archive is a job, from which it is fetched', async t => {
  const store = await archiveApp(t)
  const { study, instances } = await withStudy(store)
  const payload = JSON.stringify({ Asynchronous: true, Priority: 2 })

  const answer = await store.app.inject({ method: 'POST', url: `/studies/${study}/archive`, headers, payload })
  const job: { ID: string; Path: string } = answer.json()
  const ended = await until('the job', 30_000, async () => {
    const { body } = await store.get(job.Path)
    return isObject(body) && body['State'] === 'Success' ? body : undefined
  })
  const { files } = await fetchZip(store, `${job.Path}/archive`)

  assert.equal(ended['Type'], 'Archive')
  assert.deepEqual(sorted(files.map(({ bytes }) => bytes)), sorted(instances))
})

test('large instances are streamed, stored or deflated', async t => {
  const store = await archiveApp(t)
  const { bytes } = buildInstance({ rows: 512, cols: 512, frames: 9 })
  const { body } = await store.upload(bytes)
  const series = String(body['ParentSeries'])

  const stored = await fetchZip(store, `/series/${series}/archive`)
  const deflated = await fetchZip(store, `/series/${series}/archive?compression=fast`)

  assert.ok(stored.files[0]?.bytes.equals(bytes))
  assert.ok(deflated.files[0]?.bytes.equals(bytes))
  assert.deepEqual([stored.files[0]?.method, deflated.files[0]?.method], [0, 8])
})

test('instances leave in the transfer syntax that is asked for', { skip: missing('dcmdump') }, async t => {
  const store = await archiveApp(t)
  const { study } = await withStudy(store)
  const path = join(await temporaryDir(t), 'a.dcm')

  const { files } = await fetchZip(store, `/studies/${study}/archive?transcode=1.2.840.10008.1.2.4.70`)
  await writeFile(path, files[0]?.bytes ?? '')
  const dump = await run(t, 'dcmdump', ['+P', 'TransferSyntaxUID', path])
  const unknown = await fetchZip(store, `/studies/${study}/archive?transcode=1.2.3`)

  assert.match(dump.output, /JPEGLossless/)
  assert.equal(unknown.status, 400)
})

test('what is unknown is not found, at the level of the path', async t => {
  const store = await archiveApp(t)
  const { study } = await withStudy(store)

  const answers = await Promise.all([
    fetchZip(store, `/studies/nope/archive`),
    fetchZip(store, `/series/${study}/media`),
    fetchZip(store, '/tools/create-archive', ['nope']),
    fetchZip(store, '/tools/create-archive', { Resources: 'x' }),
    fetchZip(store, '/tools/create-archive', {}),
    fetchZip(store, '/tools/create-archive', []),
  ])

  assert.deepEqual(
    answers.map(({ status }) => status),
    [404, 404, 404, 400, 400, 200],
  )
})

test('a damaged or missing blob breaks the connection instead of leaving a file out', async t => {
  const store = await archiveApp(t)
  const { study } = await withStudy(store)
  const { rows } = await store.db.pool.query<{ file_sha256: Buffer }>('select file_sha256 from instances order by id')
  const url = `${await store.app.listen({ port: 0, host: '127.0.0.1' })}/studies/${study}/archive`
  const damaged = store.blobs.path(rows[3]?.file_sha256 ?? Buffer.alloc(32))

  const broken = readFileSync(damaged)
  broken[broken.length - 1] = (broken.at(-1) ?? 0) ^ 1
  await writeFile(damaged, broken)
  await assert.rejects(downloaded(url))
  await truncate(damaged, broken.length - 2)
  await assert.rejects(downloaded(url))
})

async function downloaded(url: string): Promise<Buffer> {
  const [answer] = (await once(httpGet(url), 'response')) as [IncomingMessage]
  return await buffer(answer)
}

test('a medium has a DICOMDIR that DCMTK reads, with a record for each kind of object', {
  skip: missing('dcmdump', 'dcmmkdir', 'unzip'),
}, async t => {
  const files = openCorpus(t)?.filter(({ name }) => /^(non-image|rt)\//.test(name))
  if (files === undefined) return
  const store = await archiveApp(t)
  const patients = new Set<string>()
  for (const file of files) {
    const { status, body } = await store.upload(await file.bytes())
    if (status === 200) patients.add(String(body['ParentPatient']))
  }
  const dir = await temporaryDir(t)

  const { zip, files: unzipped } = await fetchZip(store, '/tools/create-media-extended', [...patients])
  await writeFile(join(dir, 'media.zip'), zip)
  const tested = await run(t, 'unzip', ['-q', join(dir, 'media.zip'), '-d', dir])
  const dump = await run(t, 'dcmdump', ['+L', join(dir, 'DICOMDIR')])
  const extra = buildInstance({ seed: 5 })
  await writeFile(join(dir, 'IMAGES', 'EXTRA'), extra.bytes)
  const appended = await run(t, 'dcmmkdir', [
    '-Nec',
    '--append',
    '+id',
    dir,
    '+D',
    join(dir, 'DICOMDIR'),
    'IMAGES/EXTRA',
  ])

  assert.equal(tested.code, 0, tested.output)
  assert.equal(unzipped.at(-1)?.name, 'DICOMDIR')
  assert.equal(dump.code, 0, dump.output)
  assert.doesNotMatch(dump.output, /^[EW]: /m)
  const count = (type: string): number => dump.output.match(new RegExp(`\\[${type} *\\]`, 'g'))?.length ?? 0
  assert.equal(count('PATIENT'), patients.size)
  const types = [
    'IMAGE',
    'RT DOSE',
    'RT PLAN',
    'RT STRUCTURE SET',
    'SR DOCUMENT',
    'PRESENTATION',
    'WAVEFORM',
    'ENCAP DOC',
  ]
  for (const type of types) assert.ok(count(type) > 0, type)
  assert.equal(appended.code, 0, appended.output)
})

test('folders and files are named as Orthanc names them', { skip: missingOrthanc }, async t => {
  const all = openCorpus(t)
  if (all === undefined) return
  const store = await archiveApp(t)
  const orthanc = await startOrthanc(t, {})
  // Orthanc 1.10 does not decode ISO 2022 IR 87.
  const usable = all.filter(
    ({ name }) => /^(charsets|modalities|rt|series\/mr-mini)/.test(name) && !/chrH32|chrX[12]/.test(name),
  )
  const patients = new Set<string>()
  for (const file of usable) {
    const bytes = await file.bytes()
    if (bytes.length > 600_000) continue
    const theirs = await fetch(`${orthanc.url}/instances`, { method: 'POST', body: bytes })
    if (!theirs.ok) continue
    const { body } = await store.upload(bytes)
    if (body['Status'] === 'Success') patients.add(String(body['ParentPatient']))
  }
  const nameAndSize = (files: readonly UnzippedFile[]): string[] =>
    files.map(({ name, bytes }) => `${bytes.length} ${name}`)
  let compared = 0

  for (const patient of patients) {
    const answer = await fetch(`${orthanc.url}/patients/${patient}/archive`)
    // Patients of a foreign issuer have another identifier with us.
    if (!answer.ok) continue
    const theirs = await unzip(Buffer.from(await answer.arrayBuffer()))
    const { files } = await fetchZip(store, `/patients/${patient}/archive`)
    assert.deepEqual(nameAndSize(files), nameAndSize(theirs))
    compared += files.length
  }

  assert.ok(compared > 50, `${compared}`)
})
