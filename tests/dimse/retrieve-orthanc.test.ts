import assert from 'node:assert/strict'
import { existsSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { type TestContext, test } from 'node:test'
import { getScu } from '../../gateway/dimse/get-scu.ts'
import { moveScu } from '../../gateway/dimse/move-scu.ts'
import { queryRetrieveSopClass } from '../../gateway/dimse/query-retrieve.ts'
import { orthancBinary, startOrthanc } from '../bench/orthanc.ts'
import { temporaryDir } from '../support/blobs.ts'
import { onEnd } from '../support/cleanup.ts'
import { type BuiltInstance, buildInstance, seededUid } from '../support/dicom-builder.ts'
import { until } from '../support/until.ts'
import { fileStore, startScp } from './fixture.ts'
import { startArchive } from './retrieve-fixture.ts'

const skip = !existsSync(orthancBinary()) && 'needs orthanc (apt-get install orthanc)'
const studyInstanceUid = seededUid('study', 80)
const patientId = 'TEST-80'
const instances: readonly BuiltInstance[] = Array.from({ length: 10 }, (_, index) =>
  buildInstance({ seed: 800 + index, studyInstanceUid, seriesInstanceUid: seededUid('series', 80), patientId }),
)
const uids = instances.map(({ sopInstanceUid }) => sopInstanceUid).sort()
const byStudy = [
  { tag: 0x00080052, value: 'STUDY' },
  { tag: 0x0020000d, value: studyInstanceUid },
]

async function start(t: TestContext) {
  const orthanc = await startOrthanc(await temporaryDir(t))
  onEnd(t, () => orthanc.stop())
  const call = async (method: string, path: string, body?: unknown): Promise<unknown> => {
    const answer = await fetch(`${orthanc.url}${path}`, {
      method,
      ...(body !== undefined && { body: Buffer.isBuffer(body) ? new Uint8Array(body) : JSON.stringify(body) }),
    })
    const text = await answer.text()
    if (!answer.ok) throw new Error(`${method} ${path}: ${answer.status} ${text}`)
    return text === '' ? undefined : JSON.parse(text)
  }
  const register = (name: string, aeTitle: string, port: number): Promise<unknown> =>
    call('PUT', `/modalities/${name}`, { AET: aeTitle, Host: '127.0.0.1', Port: port })
  const held = async (): Promise<string[]> => {
    const list = await call('GET', '/instances?expand')
    assert.ok(Array.isArray(list))
    return list.map(each => String(each.MainDicomTags.SOPInstanceUID)).sort()
  }
  return { orthanc, call, register, held }
}

test('Orthanc moves a study from us to itself, and retrieves what its query has found', { skip }, async t => {
  const archive = await startArchive(t)
  await archive.add(instances.map(({ bytes }) => bytes))
  const { orthanc, call, register, held } = await start(t)
  await register('hanse', 'HANSE', archive.port)
  archive.destinations.set('ORTHANC', orthanc.dicomPort)

  await call('POST', '/modalities/hanse/move', {
    Level: 'Study',
    Resources: [{ StudyInstanceUID: studyInstanceUid, PatientID: patientId }],
    TargetAet: 'ORTHANC',
  })
  assert.deepEqual(await held(), uids)

  for (const id of Object(await call('GET', '/studies'))) await call('DELETE', `/studies/${id}`)
  const query = Object(
    await call('POST', '/modalities/hanse/query', { Level: 'Study', Query: { PatientID: patientId } }),
  )
  assert.deepEqual(await call('GET', `${query.Path}/answers`), ['0'])
  await call('POST', `${query.Path}/answers/0/retrieve`, { TargetAet: 'ORTHANC' })
  await until('Orthanc has it', 60_000, async () => (await held()).length === uids.length)
  assert.deepEqual(await held(), uids)
})

test('we get and move a study from Orthanc', { skip }, async t => {
  const { orthanc, call, register } = await start(t)
  for (const { bytes } of instances) await call('POST', '/instances', Buffer.from(bytes))
  const scp = await startScp(t)
  await register('asker', 'ASKER', scp.port)
  const target = { host: '127.0.0.1', port: orthanc.dicomPort, callingAe: 'ASKER', calledAe: 'ORTHANC' }
  const { service, received } = await fileStore(await temporaryDir(t))

  const got = await getScu(
    target,
    { sopClassUid: queryRetrieveSopClass('study-root', 'get'), identifier: byStudy, store: service },
    () => undefined,
  )
  const moved = await moveScu(
    target,
    { sopClassUid: queryRetrieveSopClass('study-root', 'move'), identifier: byStudy, destination: 'ASKER' },
    () => undefined,
  )

  assert.deepEqual([got.status, moved.status], [0, 0])
  for (const list of [received, scp.received]) {
    assert.deepEqual(list.map(({ request }) => request.sopInstanceUid).sort(), uids)
    for (const { request, path } of list) {
      const instance = instances.find(each => each.sopInstanceUid === request.sopInstanceUid)
      assert.ok(Buffer.from(instance?.dataset ?? []).equals(await readFile(path)))
    }
  }
})
