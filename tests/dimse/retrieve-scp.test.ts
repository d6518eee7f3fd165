import assert from 'node:assert/strict'
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { bufferSource } from '../../gateway/dicom/byte-source.ts'
import { getScu } from '../../gateway/dimse/get-scu.ts'
import { moveScu } from '../../gateway/dimse/move-scu.ts'
import { queryRetrieveSopClass } from '../../gateway/dimse/query-retrieve.ts'
import { openAssociation } from '../../gateway/dimse/scu-association.ts'
import { isGatewayError } from '../../gateway/errors.ts'
import { temporaryDir } from '../support/blobs.ts'
import { missing, run, runOk, startStorescp } from '../support/dcmtk.ts'
import { type BuiltInstance, buildInstance, seededUid } from '../support/dicom-builder.ts'
import { datasetOffsetOf, fileStore, startScp } from './fixture.ts'
import { startArchive } from './retrieve-fixture.ts'

const skip = missing('getscu', 'movescu', 'storescp')
const studyInstanceUid = seededUid('study', 70)
const seriesInstanceUid = seededUid('series', 70)
const patientId = 'TEST-70'

const study = (count: number): BuiltInstance[] =>
  Array.from({ length: count }, (_, index) =>
    buildInstance({ seed: 700 + index, rows: 128, cols: 128, studyInstanceUid, seriesInstanceUid, patientId }),
  )
const bytesOf = (instances: readonly BuiltInstance[]): Uint8Array[] => instances.map(({ bytes }) => bytes)
const target = (port: number) => ({ host: '127.0.0.1', port, callingAe: 'ASKER', calledAe: 'HANSE' })
const byStudy = [
  { tag: 0x00080052, value: 'STUDY' },
  { tag: 0x0020000d, value: studyInstanceUid },
]
const get = queryRetrieveSopClass('study-root', 'get')
const move = queryRetrieveSopClass('study-root', 'move')
const nothing = (): void => undefined

/** Data sets of Part 10 files in a directory, by SOP Instance UID as far as DCMTK's file names tell it. */
async function filesIn(directory: string): Promise<Map<string, Buffer>> {
  const found = new Map<string, Buffer>()
  for (const name of await readdir(directory)) {
    const file = await readFile(join(directory, name))
    found.set(name.replace(/^[A-Za-z]+\./, ''), file.subarray(datasetOffsetOf(file)))
  }
  return found
}

function assertSame(found: ReadonlyMap<string, Buffer>, expected: readonly BuiltInstance[]): void {
  assert.deepEqual([...found.keys()].sort(), expected.map(({ sopInstanceUid }) => sopInstanceUid).sort())
  for (const { sopInstanceUid, dataset } of expected) {
    assert.ok(found.get(sopInstanceUid)?.equals(Buffer.from(dataset)), `${sopInstanceUid} differs`)
  }
}

test('getscu gets a study, a series, one instance and a list, byte for byte', { skip }, async t => {
  const archive = await startArchive(t)
  const instances = study(8)
  await archive.add(bytesOf([...instances, buildInstance({ seed: 1 })]))
  const two = instances.slice(2, 4)
  const cases = [
    { model: '-S', keys: ['0008,0052=STUDY', `0020,000D=${studyInstanceUid}`], expected: instances },
    {
      model: '-P',
      keys: [
        '0008,0052=SERIES',
        `0010,0020=${patientId}`,
        `0020,000D=${studyInstanceUid}`,
        `0020,000E=${seriesInstanceUid}`,
      ],
      expected: instances,
    },
    { model: '-P', keys: ['0008,0052=PATIENT', `0010,0020=${patientId}`], expected: instances },
    { model: '-O', keys: ['0008,0052=PATIENT', `0010,0020=${patientId}`], expected: instances },
    {
      model: '-S',
      keys: [
        '0008,0052=IMAGE',
        `0020,000D=${studyInstanceUid}`,
        `0020,000E=${seriesInstanceUid}`,
        `0008,0018=${two.map(({ sopInstanceUid }) => sopInstanceUid).join('\\')}`,
      ],
      expected: two,
    },
  ]
  for (const { model, keys, expected } of cases) {
    const directory = await temporaryDir(t)
    const args = ['-v', model, '+B', '-od', directory, '-aec', 'HANSE', ...keys.flatMap(key => ['-k', key])]

    const output = await runOk(t, 'getscu', [...args, '127.0.0.1', String(archive.port)])

    assert.match(output, /Final status report from last C-GET message:|Received final C-GET/i)
    assertSame(await filesIn(directory), expected)
  }
})

test('movescu lets a study go to storescp, byte for byte, with its originator', { skip }, async t => {
  const archive = await startArchive(t)
  const instances = study(20)
  await archive.add(bytesOf(instances))
  const directory = await temporaryDir(t)
  const { port } = await startStorescp(t, ['+B', '-od', directory])
  archive.destinations.set('STORESCP', port)

  await runOk(t, 'movescu', [
    ...['-S', '-aet', 'MOVESCU', '-aec', 'HANSE', '-aem', 'STORESCP', '-k', '0008,0052=STUDY'],
    ...['-k', `0020,000D=${studyInstanceUid}`, '127.0.0.1', String(archive.port)],
  ])

  assertSame(await filesIn(directory), instances)
})

test('our own C-MOVE and C-GET get the same, and who asked shows at the destination', async t => {
  const archive = await startArchive(t)
  const instances = study(6)
  await archive.add(bytesOf(instances))
  const destination = await startScp(t)
  archive.destinations.set('DEST', destination.port)
  const { service, received } = await fileStore(await temporaryDir(t))

  const moved = await moveScu(
    target(archive.port),
    { sopClassUid: move, identifier: byStudy, destination: 'DEST', messageId: 77 },
    nothing,
  )
  const got = await getScu(target(archive.port), { sopClassUid: get, identifier: byStudy, store: service }, nothing)

  const all = { status: 0, remaining: undefined, completed: 6, failed: 0, warning: 0, failedSopInstanceUids: [] }
  assert.deepEqual(moved, all)
  assert.deepEqual(got, all)
  for (const { request, path } of [...destination.received, ...received]) {
    const instance = instances.find(each => each.sopInstanceUid === request.sopInstanceUid)
    assert.deepEqual(await readFile(path), Buffer.from(instance?.dataset ?? []))
  }
  assert.deepEqual(destination.received[0]?.request.originator, { aeTitle: 'ASKER', messageId: 77 })
  assert.equal(destination.received.length + received.length, 12)
})

test('what fails is named exactly, what is refused at all has its status', async t => {
  const archive = await startArchive(t)
  const instances = study(5)
  await archive.add(bytesOf(instances))
  const refused = instances[3]?.sopInstanceUid ?? ''
  const { service } = await fileStore(await temporaryDir(t))
  const picky = await startScp(t, {
    store: {
      begin: request =>
        request.sopInstanceUid === refused ? Promise.reject(new Error('refused')) : service.begin(request),
    },
  })
  archive.destinations.set('PICKY', picky.port)
  archive.destinations.set('CLOSED', 1)
  const ask = (identifier: typeof byStudy, destination: string) =>
    moveScu(target(archive.port), { sopClassUid: move, identifier, destination }, nothing)

  const partly = await ask(byStudy, 'PICKY')
  const unreachable = await ask(byStudy, 'CLOSED')
  const unknown = await ask(byStudy, 'NOBODY')
  const noLevel = await ask([{ tag: 0x0020000d, value: studyInstanceUid }], 'PICKY')
  const wrongLevel = await ask([{ tag: 0x00080052, value: 'PATIENT' }], 'PICKY')
  const missingKey = await ask(
    [
      { tag: 0x00080052, value: 'SERIES' },
      { tag: 0x0020000e, value: seriesInstanceUid },
    ],
    'PICKY',
  )
  const none = await ask(
    [
      { tag: 0x00080052, value: 'STUDY' },
      { tag: 0x0020000d, value: '1.2.3' },
    ],
    'PICKY',
  )

  assert.equal(partly.status, 0xb000)
  assert.deepEqual([partly.completed, partly.failed, partly.failedSopInstanceUids], [4, 1, [refused]])
  assert.equal(unreachable.status, 0xa702)
  assert.equal(unreachable.failedSopInstanceUids.length, 5)
  assert.equal(unknown.status, 0xa801)
  assert.equal(wrongLevel.status, 0xa900)
  // Its lowest key says the level, and UIDs name one thing without those above them.
  for (const { status } of [noLevel, missingKey]) assert.equal(status, 0xb000)
  assert.deepEqual([none.status, none.completed], [0, 0])
})

test('a cancelled C-MOVE and C-GET end with what remains', async t => {
  const archive = await startArchive(t)
  await archive.add(bytesOf(study(40)))
  const { service } = await fileStore(await temporaryDir(t))
  const cancel = new AbortController()
  let count = 0
  const stopping = {
    begin: async (request: Parameters<typeof service.begin>[0]) => {
      count += 1
      if (count === 5) cancel.abort(new Error('enough'))
      return await service.begin(request)
    },
  }
  const destination = await startScp(t, { store: stopping })
  archive.destinations.set('DEST', destination.port)

  const moved = await moveScu(
    target(archive.port),
    { sopClassUid: move, identifier: byStudy, destination: 'DEST', cancel: cancel.signal },
    nothing,
  )

  assert.equal(moved.status, 0xfe00)
  assert.ok(moved.completed >= 5 && moved.completed < 40)
  assert.equal(moved.completed + (moved.remaining ?? 0), 40)

  const again = new AbortController()
  const got = await getScu(
    target(archive.port),
    {
      sopClassUid: get,
      identifier: byStudy,
      cancel: again.signal,
      store: {
        begin: async request => {
          if (request.sopInstanceUid !== '') again.abort(new Error('enough'))
          return await service.begin(request)
        },
      },
    },
    nothing,
  )
  assert.equal(got.status, 0xfe00)
  assert.equal(got.completed + (got.remaining ?? 0), 40)
})

test('who is not registered gets nothing; who may only get, receives and may not store', async t => {
  const archive = await startArchive(t)
  const instances = study(3)
  await archive.add(bytesOf(instances))
  const { service, received } = await fileStore(await temporaryDir(t))
  const getOnly = { ...target(archive.port), callingAe: 'GETONLY' }

  const stranger = getScu(
    { ...target(archive.port), callingAe: 'STRANGER' },
    { sopClassUid: get, identifier: byStudy, store: service },
    nothing,
  )
  await assert.rejects(stranger, error => isGatewayError(error, 'ASSOCIATION_REFUSED'))
  const { completed } = await getScu(getOnly, { sopClassUid: get, identifier: byStudy, store: service }, nothing)

  assert.equal(completed, 3)
  assert.equal(received.length, 3)
  const [first] = instances
  assert.ok(first)
  const association = await openAssociation(getOnly, [
    { sopClassUid: get, transferSyntaxUids: ['1.2.840.10008.1.2'] },
    { sopClassUid: first.sopClassUid, transferSyntaxUids: [first.transferSyntaxUid], role: 'both' },
  ])
  const dataset = { source: bufferSource(first.bytes), datasetOffset: first.bytes.length - first.dataset.length }
  const { status } = await association.store(first, dataset, first.dataset)
  await association.release()
  assert.equal(status, 0x0124)
})

test('what leaves is in the audit log before it leaves, and its end', async t => {
  const archive = await startArchive(t)
  await archive.add(bytesOf(study(3)))
  const seen: string[] = []
  const events = async (): Promise<string[]> => {
    const { rows } = await archive.db.pool.query('select payload from audit_events order by id')
    return rows.map(row => JSON.parse(row.payload).event)
  }
  const { service } = await fileStore(await temporaryDir(t))
  const watching = {
    begin: async (request: Parameters<typeof service.begin>[0]) => {
      if (seen.length === 0) seen.push(...(await events()))
      return await service.begin(request)
    },
  }

  await getScu(target(archive.port), { sopClassUid: get, identifier: byStudy, store: watching }, nothing)

  assert.equal(seen.filter(event => event === '110102').length, 1)
  const after = await events()
  assert.equal(after.filter(event => event === '110104').length - seen.filter(event => event === '110104').length, 1)
})

test('a store without the wanted syntax, and a C-GET without roles, fail by instance', { skip }, async t => {
  const archive = await startArchive(t)
  const instances = study(2)
  await archive.add(bytesOf(instances))
  const directory = await temporaryDir(t)
  const { port } = await startStorescp(t, ['+xi', '-od', directory])
  archive.destinations.set('IMPLICIT', port)

  const { output } = await run(t, 'movescu', [
    ...['-d', '-S', '-aec', 'HANSE', '-aem', 'IMPLICIT', '-k', '0008,0052=STUDY'],
    ...['-k', `0020,000D=${studyInstanceUid}`, '127.0.0.1', String(archive.port)],
  ])

  assert.match(output, /Failed Suboperations\s*: 2/)
  assert.deepEqual(await readdir(directory), [])
})
