import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { isObject } from '../../gateway/decode.ts'
import { buildInstance } from '../support/dicom-builder.ts'
import { missingOrthanc } from '../support/orthanc.ts'
import { orthancPair } from './orthanc-pair.ts'
import { storeApp } from './store-app.ts'

test('queries find in both servers the same', { skip: missingOrthanc }, async t => {
  const people = ['MÜLLER^JÜRGEN', 'Smith^John', 'smith^jane', 'SMITHERS^A']
  const built = people.map(
    (patientName, at) =>
      buildInstance({ seed: at + 20, patientName, patientId: `P${at}`, modality: at % 2 ? 'MR' : 'CT' }).bytes,
  )
  const pair = await orthancPair(t)
  for (const bytes of built) await pair.both(bytes)
  const find = (body: unknown) => pair.same({ method: 'POST', path: '/tools/find', body: JSON.stringify(body) })

  for (const Level of ['Patient', 'Study', 'Series', 'Instance', 'studies', 'Image']) {
    await find({ Level, Query: {} })
    await find({ Level, Query: {}, Expand: true })
    for (const PatientName of ['*', 'smith*', 'SMITH^JOHN', '*^J*', 'sm?th*', 'nobody'])
      await find({ Level, Query: { PatientName } })
    for (const PatientID of ['P1', 'p1', 'P?', 'P1\\P2']) {
      await find({ Level, Query: { PatientID } })
      await find({ Level, Query: { PatientID }, CaseSensitive: true })
    }
    await find({ Level, Query: { PatientName: 'smith*' }, CaseSensitive: true })
    await find({ Level, Query: { '0010,0020': 'P1', PatientName: 'smith*' }, Expand: true, Full: true })
    await find({ Level, Query: { PatientID: 'P1' }, Expand: true, Short: true })
  }
  for (const Level of ['Study', 'Series', 'Instance']) {
    for (const StudyDate of ['20260102', '20000101-', '20000101-20100101', '20260101-20261231', '2026*', '19000101']) {
      await find({ Level, Query: { StudyDate } })
    }
    await find({ Level, Query: { StudyInstanceUID: '1.2.3.4' } })
    for (const StudyInstanceUID of ['1.2.*', '']) await find({ Level, Query: { StudyInstanceUID } })
    await find({ Level, Query: { AccessionNumber: 'a2?', StudyDate: '20260102' } })
  }
  for (const Level of ['Series', 'Instance']) {
    for (const Modality of ['MR', 'mr', 'MR\\CT', 'M*', 'XX']) await find({ Level, Query: { Modality } })
  }
  for (const ModalitiesInStudy of ['MR', 'CT\\MR', 'XX']) await find({ Level: 'Study', Query: { ModalitiesInStudy } })
  await find({ Level: 'Instance', Query: { InstanceNumber: '2' } })
  await find({ Level: 'Instance', Query: { Rows: '64' } })
  for (const body of [
    { Level: 'Nonsense', Query: {} },
    { Level: 'Study' },
    { Query: {} },
    { Level: 'Study', Query: { PatientID: 5 } },
    { Level: 'Study', Query: {}, Limit: -1 },
    { Level: 'Study', Query: {}, Since: 'x' },
    [],
    'text',
  ]) {
    await find(body)
  }
  await pair.same({ method: 'POST', path: '/tools/find', body: '{' })
})

/** Three studies: A with two series, B and C. */
async function threeStudies(t: TestContext) {
  const app = await storeApp(t)
  const ids: Record<string, { patient: string; study: string; series: string; instance: string }> = {}
  for (const [name, seed, series] of [
    ['A', 1, 1],
    ['A2', 2, 2],
    ['B', 3, 3],
    ['C', 4, 4],
  ] as const) {
    const study = name === 'A2' ? 1 : seed
    const { body } = await app.upload(
      buildInstance({
        seed,
        studyInstanceUid: `1.2.${study}`,
        seriesInstanceUid: `1.2.${study}.${series}`,
        patientId: `P${study}`,
        patientName: `TEST^${name.charAt(0)}`,
        modality: name === 'A2' ? 'MR' : 'CT',
        extra: [{ tag: 0x00200011, vr: 'IS', value: [String(10 - seed)] }],
      }).bytes,
    )
    ids[name] = {
      patient: String(body['ParentPatient']),
      study: String(body['ParentStudy']),
      series: String(body['ParentSeries']),
      instance: String(body['ID']),
    }
  }
  const post = async (path: string, body: unknown) => {
    const answer = await app.app.inject({
      method: 'POST',
      url: path,
      headers: { host: 'localhost' },
      payload: JSON.stringify(body),
    })
    return { status: answer.statusCode, body: answer.json() }
  }
  const find = async (body: unknown) => (await post('/tools/find', body)).body
  return { ...app, ids, post, find, studies: ['A', 'B', 'C'].map(name => ids[name]?.study) }
}

test('results are paged, sorted and counted', async t => {
  const { find, post, studies, ids } = await threeStudies(t)
  const [a, b, c] = studies
  const order = (Key: string, Direction: string, Type = 'DicomTag') => [{ Type, Key, Direction }]

  assert.deepEqual(await find({ Level: 'Study', Query: {}, Since: 1, Limit: 1 }), [b])
  assert.deepEqual(await find({ Level: 'Study', Query: { PatientName: 'TEST*' }, Since: 1 }), [b, c])
  assert.deepEqual(await find({ Level: 'Study', Query: {}, OrderBy: order('PatientName', 'DESC') }), [c, b, a])
  assert.deepEqual(
    await find({ Level: 'Study', Query: {}, OrderBy: order('PatientName', 'DESC'), Since: 1, Limit: 1 }),
    [b],
  )
  assert.deepEqual(await find({ Level: 'Series', Query: {}, OrderBy: order('SeriesNumber', 'ASC', 'DicomTagAsInt') }), [
    ids['C']?.series,
    ids['B']?.series,
    ids['A2']?.series,
    ids['A']?.series,
  ])
  assert.equal(
    (await post('/tools/find', { Level: 'Study', Query: {}, OrderBy: [{ Type: 'Other', Key: 'x' }] })).status,
    400,
  )
  for (const [query, count] of [
    [{}, 3],
    [{ PatientName: '*B' }, 1],
    [{ Modality: 'CT' }, 3],
    [{ Modality: 'MR' }, 1],
  ] as const) {
    assert.deepEqual((await post('/tools/count-resources', { Level: 'Study', Query: query })).body, { Count: count })
  }
})

test('labels, metadata and parents limit what is found', async t => {
  const { app, find, post, studies, ids } = await threeStudies(t)
  const [a, b, c] = studies
  const put = async (url: string, payload = '') =>
    await app.inject({ method: 'PUT', url, headers: { host: 'localhost' }, payload })
  for (const [study, label] of [
    [a, 'red'],
    [b, 'red'],
    [b, 'blue'],
  ])
    await put(`/studies/${study}/labels/${label}`)
  await put(`/studies/${c}/metadata/1030`, 'Some Value')
  const labelled = (LabelsConstraint: string | undefined, ...Labels: string[]) =>
    find({ Level: 'Study', Query: {}, Labels, LabelsConstraint })

  assert.deepEqual(await labelled('All', 'red'), [a, b])
  assert.deepEqual(await labelled(undefined, 'red', 'blue'), [b])
  assert.deepEqual(await labelled('Any', 'red', 'blue'), [a, b])
  assert.deepEqual(await labelled('None', 'red', 'blue'), [c])
  assert.deepEqual((await post('/tools/count-resources', { Level: 'Study', Query: {}, Labels: ['red'] })).body, {
    Count: 2,
  })
  assert.deepEqual(await find({ Level: 'Study', Query: { Modality: 'MR' }, Labels: ['red'] }), [a])
  assert.deepEqual(await find({ Level: 'Study', Query: {}, MetadataQuery: { MyMetadata: 'some*' } }), [c])
  assert.deepEqual(await find({ Level: 'Study', Query: {}, MetadataQuery: { MyMetadata: 'other' } }), [])
  assert.deepEqual(await find({ Level: 'Series', Query: {}, ParentStudy: a }), [ids['A']?.series, ids['A2']?.series])
  assert.deepEqual(await find({ Level: 'Instance', Query: {}, ParentPatient: ids['B']?.patient }), [ids['B']?.instance])
  assert.equal((await post('/tools/find', { Level: 'Study', Query: {}, ParentSeries: 'x' })).status, 400)
  assert.equal((await labelled('Other', 'red')).status, 400)
})

test('a response holds what was asked for', async t => {
  const { find, studies, get, ids } = await threeStudies(t)
  const [a] = studies
  const RequestedTags = ['ModalitiesInStudy', 'PatientName', 'NumberOfStudyRelatedInstances', '0008,0005']

  const [plain] = await find({
    Level: 'Study',
    Query: {},
    ParentPatient: ids['A']?.patient,
    ResponseContent: ['Children', 'Labels', 'Metadata', 'Attachments'],
  })
  assert.deepEqual(Object.keys(plain).sort(), ['Attachments', 'ID', 'Labels', 'Metadata', 'Series', 'Type'])
  assert.deepEqual(Object.keys(plain.Metadata), ['LastUpdate'])
  const [tagged] = await find({ Level: 'Study', Query: { StudyInstanceUID: '1.2.1' }, Expand: true, RequestedTags })
  assert.deepEqual(tagged.RequestedTags, {
    ModalitiesInStudy: 'CT\\MR',
    PatientName: 'TEST^A',
    NumberOfStudyRelatedInstances: '2',
    SpecificCharacterSet: 'ISO_IR 192',
  })
  const { body } = await get(`/studies/${a}?requestedTags=ModalitiesInStudy;PatientName`)
  assert.deepEqual(isObject(body) && body['RequestedTags'], { ModalitiesInStudy: 'CT\\MR', PatientName: 'TEST^A' })
  const [instance] = await find({
    Level: 'Instance',
    Query: { SOPInstanceUID: '*' },
    Limit: 1,
    ResponseContent: ['Attachments', 'Metadata', 'Parent'],
  })
  assert.deepEqual(
    instance.Attachments.map((each: { ContentType: number }) => each.ContentType),
    [1],
  )
  assert.equal(instance.Metadata.Origin, 'RestApi')
  assert.equal(instance.ParentSeries, ids['A']?.series)
})

test('a find is an audit event that names keys and no values', async t => {
  const { find, db } = await threeStudies(t)

  await find({ Level: 'Study', Query: { PatientName: 'SECRET*' } })

  const { rows } = await db.pool.query('select payload from audit_events order by id desc limit 1')
  assert.match(rows[0].payload, /"event":"110112".*"keys":"00100010"/)
  assert.doesNotMatch(rows[0].payload, /SECRET/)
})
