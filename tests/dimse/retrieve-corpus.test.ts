/** What is stored leaves as it is stored: a whole CT study, every transfer syntax of the corpus, a large object. */
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { encodeDataset } from '../../gateway/dicom/part10-writer.ts'
import { commandField, encodeQueryRequest } from '../../gateway/dimse/command.ts'
import { pixelConverter } from '../../gateway/dimse/converter.ts'
import { getScu } from '../../gateway/dimse/get-scu.ts'
import { moveScu } from '../../gateway/dimse/move-scu.ts'
import { queryRetrieveSopClass } from '../../gateway/dimse/query-retrieve.ts'
import type { RetrieveResult } from '../../gateway/dimse/retrieve-scu.ts'
import { followRetrieve } from '../../gateway/dimse/retrieve-scu.ts'
import type { StoreService } from '../../gateway/dimse/scp.ts'
import { openAssociation } from '../../gateway/dimse/scu-association.ts'
import { isGatewayError } from '../../gateway/errors.ts'
import { openPixels } from '../../gateway/pixels/pixels.ts'
import { writeLargeObject } from '../interop/large-object.ts'
import { temporaryDir } from '../support/blobs.ts'
import { onEnd } from '../support/cleanup.ts'
import { openCorpus } from '../support/corpus.ts'
import { buildInstance, seededUid } from '../support/dicom-builder.ts'
import { startScp } from './fixture.ts'
import { type Archive, startArchive } from './retrieve-fixture.ts'

const implicitLittleEndian = '1.2.840.10008.1.2'
const get = queryRetrieveSopClass('study-root', 'get')

/** A store that keeps of each data set its digest and transfer syntax. */
function digestStore() {
  const received = new Map<string, { readonly sha256: string; readonly transferSyntaxUid: string }>()
  const service: StoreService = {
    begin: async ({ sopInstanceUid, transferSyntaxUid }) => {
      const hash = createHash('sha256')
      return {
        write: async chunks => {
          for (const chunk of chunks) hash.update(chunk)
        },
        finish: async () => {
          received.set(sopInstanceUid, { sha256: hash.digest('hex'), transferSyntaxUid })
          return { status: 0 }
        },
        discard: async () => undefined,
      }
    },
  }
  return { service, received }
}

/** Retrieves below the keys by both services. */
async function both(
  t: TestContext,
  archive: Archive,
  identifier: readonly { readonly tag: number; readonly value: string }[],
  sopClassUids?: readonly string[],
) {
  const target = { host: '127.0.0.1', port: archive.port, callingAe: 'ASKER', calledAe: 'HANSE', timeoutMs: 120_000 }
  const got = digestStore()
  const moved = digestStore()
  const { port } = await startScp(t, { store: moved.service })
  archive.destinations.set('DEST', port)
  const getting = { sopClassUid: get, identifier, store: got.service, sopClassUids }
  const move = { sopClassUid: queryRetrieveSopClass('study-root', 'move'), identifier, destination: 'DEST' }
  const results: readonly RetrieveResult[] = [
    await getScu(target, getting, () => undefined),
    await moveScu(target, move, () => undefined),
  ]
  return { results, received: [got.received, moved.received] }
}

const ofStudy = (uid: string) => [
  { tag: 0x00080052, value: 'STUDY' },
  { tag: 0x0020000d, value: uid },
]

test('300 instances of a CT study go by C-GET and C-MOVE, byte for byte', async t => {
  const archive = await startArchive(t)
  const studyInstanceUid = seededUid('study', 90)
  const instances = Array.from({ length: 300 }, (_, index) =>
    buildInstance({
      seed: 9_000 + index,
      rows: 256,
      cols: 256,
      studyInstanceUid,
      seriesInstanceUid: seededUid('series', 90),
      patientId: 'TEST-90',
    }),
  )
  await archive.add(instances.map(({ bytes }) => bytes))

  const { results, received } = await both(t, archive, ofStudy(studyInstanceUid))

  for (const { status, completed, failed } of results) assert.deepEqual([status, completed, failed], [0, 300, 0])
  for (const found of received) {
    assert.equal(found.size, 300)
    for (const { sopInstanceUid, dataset } of instances) {
      assert.equal(found.get(sopInstanceUid)?.sha256, createHash('sha256').update(dataset).digest('hex'))
    }
  }
})

test('every transfer syntax of the corpus leaves as it is stored', async t => {
  const corpus = openCorpus(t)
  if (!corpus) return
  const archive = await startArchive(t)
  // Of each syntax a few: what differs between them is looked at by the tests of reading.
  const bySyntax = new Map<string, number>()
  for (const file of corpus) {
    const count = bySyntax.get(file.transferSyntax) ?? 0
    if (file.isMalformed || count >= 4) continue
    const isTaken = await archive.add([await file.bytes()]).then(
      () => true,
      error => {
        if (!isGatewayError(error)) throw error
        return false
      },
    )
    if (isTaken) bySyntax.set(file.transferSyntax, count + 1)
  }
  const { rows } = await archive.db.pool.query<{
    study: string
    uid: string
    syntax: string
    sha: string
    class: string
  }>(`
    select s.study_instance_uid as study, i.sop_instance_uid as uid, i.transfer_syntax_uid as syntax,
           i.sop_class_uid as class, encode(i.file_sha256, 'hex') as sha
      from instances i join series c on c.id = i.series join studies s on s.id = c.study`)
  const syntaxes = new Set(rows.map(row => row.syntax))
  assert.ok(syntaxes.size >= 15, `${syntaxes.size} transfer syntaxes`)

  for (const study of new Set(rows.map(row => row.study))) {
    const members = rows.filter(row => row.study === study)
    const classes = [...new Set(members.map(row => row.class))]
    const { results, received } = await both(t, archive, ofStudy(study), classes)
    for (const { status, completed } of results) assert.deepEqual([status, completed], [0, members.length], study)
    for (const found of received) {
      for (const { uid, syntax, sha } of members) {
        const arrived = found.get(uid)
        assert.equal(arrived?.transferSyntaxUid, syntax)
        const stored = await datasetDigest(archive, sha)
        assert.equal(arrived?.sha256, stored, `${uid} in ${syntax}`)
      }
    }
  }
})

test('what the receiver does not take as it is stored is converted for it', async t => {
  const pixels = await openPixels({ dir: await temporaryDir(t) })
  onEnd(t, () => pixels.close())
  const converter = pixelConverter(pixels, new AbortController().signal)
  const archive = await startArchive(t, { converter })
  const instance = buildInstance({ seed: 91, rows: 64, cols: 64 })
  await archive.add([instance.bytes])
  const converted = digestStore()
  // An association that takes implicit VR only.
  const target = { host: '127.0.0.1', port: archive.port, callingAe: 'ASKER', calledAe: 'HANSE', timeoutMs: 120_000 }
  const association = await openAssociation(
    target,
    [
      { sopClassUid: get, transferSyntaxUids: [implicitLittleEndian] },
      { sopClassUid: instance.sopClassUid, transferSyntaxUids: [implicitLittleEndian], role: 'scp' },
    ],
    { store: converted.service },
  )
  const responses = association.request({
    context: { sopClassUid: get, transferSyntaxUid: implicitLittleEndian },
    command: messageId => encodeQueryRequest(commandField.getRequest, messageId, get),
    dataset: encodeDataset(ofStudy(instance.studyInstanceUid), implicitLittleEndian),
  })
  const result = await followRetrieve(responses, () => undefined)
  await association.release()

  assert.deepEqual([result.status, result.completed], [0, 1])
  const expected = buildInstance({ seed: 91, rows: 64, cols: 64, transferSyntaxUid: implicitLittleEndian })
  const sha256 = createHash('sha256').update(expected.dataset).digest('hex')
  assert.deepEqual(converted.received.get(instance.sopInstanceUid), { sha256, transferSyntaxUid: implicitLittleEndian })
})

test('a large multi-frame object leaves in bounded memory', async t => {
  const frames = process.env['HANSE_SOAK'] ? 4_096 : 600
  const archive = await startArchive(t)
  const object = await writeLargeObject(join(await temporaryDir(t), 'large'), frames, 1)
  await archive.addFile(object.path)
  const hash = createHash('sha256')
  for await (const chunk of createReadStream(object.path, { start: object.datasetOffset })) hash.update(chunk)
  const expected = hash.digest('hex')
  const before = process.memoryUsage().rss
  let peak = before
  const watch = setInterval(() => {
    peak = Math.max(peak, process.memoryUsage().rss)
  }, 20)

  const { results, received } = await both(t, archive, ofStudy(seededUid('large-study', 1)))

  clearInterval(watch)
  for (const { status, completed } of results) assert.deepEqual([status, completed], [0, 1])
  for (const found of received) assert.equal(found.get(object.sopInstanceUid)?.sha256, expected)
  const grownMiB = (peak - before) / 1024 ** 2
  t.diagnostic(`memory of sender and receiver together grew by ${Math.round(grownMiB)} MiB`)
  assert.ok(grownMiB < 200, `grew by ${Math.round(grownMiB)} MiB`)
})

/** SHA-256 of the data set of a blob that ingest has written or taken over. */
async function datasetDigest(archive: Archive, sha: string): Promise<string> {
  const { rows } = await archive.db.pool.query<{ digest: string }>(
    `select encode(dataset_sha256, 'hex') as digest from instances where file_sha256 = decode($1, 'hex')`,
    [sha],
  )
  return rows[0]?.digest ?? ''
}
