import assert from 'node:assert/strict'
import { test } from 'node:test'
import { isObject } from '../../gateway/decode.ts'
import { findElement, itemsOf, stringOf } from '../../gateway/dicom/dataset.ts'
import { buildInstance } from '../support/dicom-builder.ts'
import { missingOrthanc } from '../support/orthanc.ts'
import { modifyApp, orthancWith, read, textsOf } from './modify-app.ts'

const files = [1, 2].map(
  number =>
    buildInstance({
      seed: number,
      studyInstanceUid: '1.2.3',
      seriesInstanceUid: '1.2.3.1',
      patientId: 'TEST-4711',
      patientName: 'TEST^Secret',
      instanceNumber: number,
      extra: [
        { tag: 0x00081030, value: 'Thorax of Secret' },
        { tag: 0x0008103e, value: 'Series' },
        { tag: 0x00100030, value: '19700101' },
        { tag: 0x00090010, vr: 'LO', value: 'ACME' },
        { tag: 0x00091001, vr: 'LO', value: 'private' },
      ],
    }).bytes,
)
const first = files[0] ?? new Uint8Array()

test('resources are anonymized with the answers of Orthanc', { skip: missingOrthanc }, async t => {
  const [app, orthanc] = [await modifyApp(t), await orthancWith(t, files)]
  const ids = []
  for (const file of files) ids.push(await app.upload(file))
  const { body: studies } = await app.ask('GET', '/studies?expand')
  assert.ok(Array.isArray(studies))
  const { ID: study, ParentPatient: patient, Series: series } = studies[0]
  const shape = ({ status, bytes }: { status: number; bytes: Buffer }) => {
    const body: unknown = status === 200 && bytes[0] === 0x7b ? JSON.parse(bytes.toString()) : undefined
    if (!isObject(body)) return { status, size: status === 200 ? bytes.length > 8000 : undefined }
    const { Resources: resources, ID: _, Path: __, PatientID: ___, ...rest } = body
    return { status, rest, resources: Array.isArray(resources) ? resources.map(each => each.Type) : undefined }
  }
  const requests: [string, unknown][] = [
    [`/instances/${ids[0]}/anonymize`, {}],
    [`/series/${series[0]}/anonymize`, {}],
    [`/patients/${patient}/anonymize`, { Replace: { PatientName: 'TEST^Anonymous' }, Permissive: true }],
    [`/studies/${study}/anonymize`, { DicomVersion: '2008' }],
    [`/studies/${study}/anonymize`, { DicomVersion: 'nope' }],
    [`/studies/${study}/anonymize`, { Replace: { PatientID: 'x' } }],
    [`/studies/${study}/anonymize`, { Keep: ['StudyInstanceUID'] }],
    [`/studies/${study}/anonymize`, { Keep: ['PatientID'], Force: true }],
    [`/studies/${study}/anonymize`, { KeepPrivateTags: 'x' }],
    [`/studies/nope/anonymize`, {}],
    ['/tools/bulk-anonymize', { Resources: [ids[0]] }],
    ['/tools/bulk-anonymize', {}],
  ]

  for (const [url, body] of requests) {
    const [ours, theirs] = await Promise.all([app, orthanc].map(each => each.bytes('POST', url, body)))
    assert.ok(ours && theirs)
    const [a, b] = [shape(ours), shape(theirs)]
    // Orthanc counts what its earlier jobs have added to a patient; so do we, by the same count.
    assert.deepEqual(a, b, `${url} ${JSON.stringify(body)} ${ours.bytes.subarray(0, 300)}`)
  }
})

test('nothing of the patient stays but what is asked for, and what is replaced stands there', async t => {
  const app = await modifyApp(t)
  const id = await app.upload(first)
  const anonymize = async (body: unknown) => {
    const answer = await app.bytes('POST', `/instances/${id}/anonymize`, body)
    assert.equal(answer.status, 200, answer.bytes.toString())
    return answer.bytes
  }

  const plain = await anonymize({})
  for (const secret of ['Secret', '4711', '19700101', 'ACME', 'private', 'Thorax'])
    assert.equal(plain.includes(secret), false, secret)
  assert.deepEqual(await textsOf(plain, 'PatientIdentityRemoved'), ['YES'])
  const wanted = await anonymize({
    Replace: { PatientName: 'TEST^山田', PatientID: 'SUBJECT-1', StudyDescription: 'Trial' },
    Keep: ['SeriesDescription', 'StudyInstanceUID'],
    Remove: ['InstanceNumber'],
    Force: true,
  })
  const { dataset } = await read(wanted)
  assert.deepEqual(
    [0x00100010, 0x00100020, 0x00081030, 0x0008103e, 0x0020000d].map(tag => stringOf(dataset, tag)),
    ['TEST^山田', 'SUBJECT-1', 'Trial', 'Series', '1.2.3'],
  )
  assert.equal(findElement(dataset, 0x00200013), undefined)
  assert.notEqual(stringOf(dataset, 0x00080018), stringOf((await read(first)).dataset, 0x00080018))
  const whole = await anonymize({ Keep: ['StudyInstanceUID', 'SeriesInstanceUID', 'SOPInstanceUID'], Force: true })
  assert.equal(
    await stringOf((await read(whole)).dataset, 0x00080018),
    stringOf((await read(first)).dataset, 0x00080018),
  )
})

test('private elements, sequences and places inside of them are kept as they are where a request says so', async t => {
  const app = await modifyApp(t)
  const item = [
    { tag: 0x00080020, value: '20200101' },
    { tag: 0x00081155, value: '1.2.3.4' },
    { tag: 0x00100020, value: 'TEST-4711' },
  ]
  const { bytes } = buildInstance({
    seed: 3,
    patientId: 'TEST-4711',
    extra: [
      { tag: 0x00081110, items: [item, item] },
      { tag: 0x00090010, vr: 'LO', value: 'ACME' },
      { tag: 0x00091001, vr: 'LO', value: 'private' },
      { tag: 0x00091002, vr: 'LO', value: 'other' },
    ],
  })
  const id = await app.upload(bytes)
  const kept = async (verb: string, body: unknown) => {
    const answer = await app.bytes('POST', `/instances/${id}/${verb}`, body)
    assert.equal(answer.status, 200, answer.bytes.toString())
    const { dataset } = await read(answer.bytes)
    return {
      private: [0x00090010, 0x00091001, 0x00091002].map(tag => stringOf(dataset, tag)),
      items: itemsOf(dataset, 0x00081110).map(each => item.map(({ tag }) => stringOf(each, tag))),
    }
  }
  const whole = ['20200101', '1.2.3.4', 'TEST-4711']

  assert.deepEqual(await kept('anonymize', { Keep: ['ReferencedStudySequence'] }), {
    private: [undefined, undefined, undefined],
    items: [whole, whole],
  })
  for (const name of ['AcmeNote', '0009,1001', '0009-1001']) {
    assert.deepEqual((await kept('anonymize', { Keep: [name] })).private, ['ACME', 'private', undefined])
  }
  const nested = await kept('anonymize', {
    Keep: ['ReferencedStudySequence', '(0008,1110)[*].(0010,0020)', 'AcmeNote'],
    Replace: { AcmeNote: 'new', 'ReferencedStudySequence[1].StudyDate': '19990101' },
  })
  assert.deepEqual(nested.private, ['ACME', 'new', undefined])
  assert.deepEqual((await kept('modify', { Replace: { AcmeNote: 'new' }, PrivateCreator: 'ACME' })).private, [
    'ACME',
    'new',
    'other',
  ])
  assert.deepEqual((await kept('modify', { Remove: ['AcmeNote'] })).private, ['ACME', undefined, 'other'])
})

test('who forces it may have any word for a UID, and the method names the interface', async t => {
  const app = await modifyApp(t)
  const id = await app.upload(first)
  for (const verb of ['anonymize', 'modify']) {
    const Replace = { SOPInstanceUID: 'instance', SeriesInstanceUID: 'series', StudyInstanceUID: 'study' }
    const { status, bytes } = await app.bytes('POST', `/instances/${id}/${verb}`, { Replace, Force: true })
    assert.equal(status, 200)
    const { dataset } = await read(bytes)
    assert.deepEqual(
      [0x00080018, 0x0020000e, 0x0020000d].map(tag => stringOf(dataset, tag)),
      ['instance', 'series', 'study'],
    )
    const bad = { Replace: { SOPInstanceUID: 'two\\values' }, Force: true }
    assert.equal((await app.bytes('POST', `/instances/${id}/${verb}`, bad)).status, 400)
  }
  const { bytes } = await app.bytes('POST', `/instances/${id}/anonymize`, {})
  assert.match(
    (await textsOf(bytes, 'DeidentificationMethod')).join(' '),
    /^Orthanc API DICOM PS3.15 \S+ Annex E Profile/,
  )
})

test('an instance that cannot be anonymized fails the job with its reason, or is counted', async t => {
  const app = await modifyApp(t)
  for (const file of files) await app.upload(file)
  const burnedIn = buildInstance({
    seed: 9,
    modality: 'US',
    studyInstanceUid: '1.2.3',
    seriesInstanceUid: '1.2.3.9',
    patientId: 'TEST-4711',
    patientName: 'TEST^Secret',
    extra: [{ tag: 0x00280301, value: 'YES' }],
  })
  await app.upload(burnedIn.bytes)
  const { body: studies } = await app.ask('GET', '/studies')
  assert.ok(Array.isArray(studies))

  const failed = await app.ask('POST', `/studies/${studies[0]}/anonymize`, {})
  assert.equal(failed.status, 409)
  assert.ok(isObject(failed.body))
  assert.match(String(failed.body['detail']), /cannot be anonymized: /)
  assert.doesNotMatch(JSON.stringify(failed.body), /Secret|4711/)
  const { body } = await app.ask('POST', `/studies/${studies[0]}/anonymize`, { Permissive: true, KeepSource: false })
  assert.ok(isObject(body))
  assert.deepEqual([body['InstancesCount'], body['FailedInstancesCount']], [3, 1])
  const { body: rest } = await app.ask('GET', `/studies/${studies[0]}`)
  assert.ok(isObject(rest) && Array.isArray(rest['Series']) && rest['Series'].length === 1)
})
