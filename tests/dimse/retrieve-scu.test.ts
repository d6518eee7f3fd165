import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { test } from 'node:test'
import { stringOf } from '../../gateway/dicom/dataset.ts'
import { findScu } from '../../gateway/dimse/find-scu.ts'
import { getScu } from '../../gateway/dimse/get-scu.ts'
import { moveScu } from '../../gateway/dimse/move-scu.ts'
import { queryRetrieveSopClass } from '../../gateway/dimse/query-retrieve.ts'
import { isGatewayError } from '../../gateway/errors.ts'
import { temporaryDir } from '../support/blobs.ts'
import { dcmqrscpAe, startDcmqrscp } from '../support/dcmqrscp.ts'
import { missing } from '../support/dcmtk.ts'
import { type BuiltInstance, buildInstance, seededUid } from '../support/dicom-builder.ts'
import { fileStore, startScp } from './fixture.ts'

const skip = missing('dcmqrscp', 'dcmqridx')

const target = (port: number) => ({ host: '127.0.0.1', port, callingAe: 'HANSE', calledAe: dcmqrscpAe })

const studyInstanceUid = seededUid('study', 7)
const study = (count: number): BuiltInstance[] =>
  Array.from({ length: count }, (_, index) =>
    buildInstance({
      seed: index + 1,
      studyInstanceUid,
      seriesInstanceUid: seededUid('series', 7),
      patientId: 'TEST-7',
    }),
  )

const byStudy = [
  { tag: 0x00080052, value: 'STUDY' },
  { tag: 0x0020000d, value: studyInstanceUid },
]

test('a query gives what matches, and its end', { skip }, async t => {
  const other = buildInstance({ seed: 99 })
  const { port } = await startDcmqrscp(t, { files: [...study(3), other].map(({ bytes }) => bytes) })

  const found: (string | undefined)[] = []
  const sopClassUid = queryRetrieveSopClass('study-root', 'find')
  const identifier = [
    { tag: 0x00080052, value: 'STUDY' },
    { tag: 0x00100020, value: 'TEST-*' },
    { tag: 0x0020000d, value: '' },
  ]
  for await (const match of findScu(target(port), { sopClassUid, identifier })) {
    found.push(`${stringOf(match, 0x00100020)} ${stringOf(match, 0x0020000d)}`)
  }

  assert.deepEqual(found.sort(), [`TEST-7 ${studyInstanceUid}`, `${other.patientId} ${other.studyInstanceUid}`].sort())
})

test('who stops reading a query ends it, and the association in order', { skip }, async t => {
  const { port } = await startDcmqrscp(t, { files: study(20).map(({ bytes }) => bytes) })
  const sopClassUid = queryRetrieveSopClass('study-root', 'find')
  const identifier = [
    { tag: 0x00080052, value: 'IMAGE' },
    { tag: 0x0020000d, value: studyInstanceUid },
    { tag: 0x0020000e, value: seededUid('series', 7) },
    { tag: 0x00080018, value: '' },
  ]
  let count = 0

  for await (const _ of findScu(target(port), { sopClassUid, identifier })) {
    count += 1
    if (count === 3) break
  }

  assert.equal(count, 3)
})

test('C-GET stores each instance with the bytes that the node holds', { skip }, async t => {
  const instances = study(30)
  const { port } = await startDcmqrscp(t, { files: instances.map(({ bytes }) => bytes) })
  const { service, received } = await fileStore(await temporaryDir(t))
  const progress: number[] = []

  const result = await getScu(
    target(port),
    { sopClassUid: queryRetrieveSopClass('study-root', 'get'), identifier: byStudy, store: service },
    ({ completed }) => progress.push(completed),
  )

  assert.deepEqual(result, {
    status: 0,
    remaining: undefined,
    completed: 30,
    failed: 0,
    warning: 0,
    failedSopInstanceUids: [],
  })
  assert.ok(progress.length > 0)
  const sent = new Map(instances.map(instance => [instance.sopInstanceUid, instance]))
  assert.equal(received.length, 30)
  for (const { request, path } of received) {
    const instance = sent.get(request.sopInstanceUid)
    assert.ok(instance)
    assert.equal(request.association.callingAe, dcmqrscpAe)
    assert.deepEqual(await readFile(path), Buffer.from(instance.dataset))
  }
})

test('C-GET counts what our store refuses as failed', { skip }, async t => {
  const instances = study(5)
  const { port } = await startDcmqrscp(t, { files: instances.map(({ bytes }) => bytes) })
  const { service } = await fileStore(await temporaryDir(t))
  const refused = instances[2]?.sopInstanceUid

  const result = await getScu(
    target(port),
    {
      sopClassUid: queryRetrieveSopClass('study-root', 'get'),
      identifier: byStudy,
      store: {
        begin: async request => {
          if (request.sopInstanceUid === refused) throw new Error('refused by the test')
          return await service.begin(request)
        },
      },
    },
    () => undefined,
  )

  assert.equal(result.completed, 4)
  assert.equal(result.failed, 1)
  assert.notEqual(result.status, 0)
})

test('C-MOVE lets the node send to our SCP', { skip }, async t => {
  const instances = study(12)
  const scp = await startScp(t)
  const { port } = await startDcmqrscp(t, {
    files: instances.map(({ bytes }) => bytes),
    destinations: { HANSE: scp.port },
  })

  const result = await moveScu(
    target(port),
    { sopClassUid: queryRetrieveSopClass('study-root', 'move'), identifier: byStudy, destination: 'HANSE' },
    () => undefined,
  )

  assert.equal(result.status, 0)
  assert.equal(result.completed, 12)
  assert.deepEqual(
    scp.received.map(({ request }) => request.sopInstanceUid).sort(),
    instances.map(({ sopInstanceUid }) => sopInstanceUid).sort(),
  )
})

test('a destination that the node does not know, and a class it does not offer, are told', { skip }, async t => {
  const { port } = await startDcmqrscp(t, { files: study(1).map(({ bytes }) => bytes) })

  const result = await moveScu(
    target(port),
    { sopClassUid: queryRetrieveSopClass('study-root', 'move'), identifier: byStudy, destination: 'NOBODY' },
    () => undefined,
  )
  assert.equal(result.status, 0xa801)

  const worklist = findScu(target(port), { sopClassUid: '1.2.840.10008.5.1.4.31', identifier: [] })
  await assert.rejects(worklist.next(), error => isGatewayError(error, 'ASSOCIATION_REFUSED'))
})

test('a cancelled C-GET ends early, and keeps what has come', { skip }, async t => {
  const instances = study(60)
  const { port } = await startDcmqrscp(t, { files: instances.map(({ bytes }) => bytes) })
  const { service, received } = await fileStore(await temporaryDir(t))
  const cancel = new AbortController()

  const result = await getScu(
    target(port),
    {
      sopClassUid: queryRetrieveSopClass('study-root', 'get'),
      identifier: byStudy,
      store: service,
      cancel: cancel.signal,
    },
    ({ completed }) => completed >= 3 && cancel.abort(new Error('enough')),
  )

  assert.equal(result.status, 0xfe00)
  assert.ok(received.length >= 3 && received.length < 60, `${received.length} received`)
})
