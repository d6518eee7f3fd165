import assert from 'node:assert/strict'
import { test } from 'node:test'
import { crc32, deflateSync } from 'node:zlib'
import { isObject } from '../../gateway/decode.ts'
import { findElement, stringOf } from '../../gateway/dicom/dataset.ts'
import { toJson } from '../../gateway/dicom/json.ts'
import type { Part10 } from '../../gateway/dicom/part10-reader.ts'
import { buildInstance } from '../support/dicom-builder.ts'
import { missingOrthanc } from '../support/orthanc.ts'
import { idOf, modifyApp, orthancWith, read } from './modify-app.ts'

/** A PNG of 3 x 2 pixels whose samples count up (ISO/IEC 15948 §11). */
function png(colourType: 0 | 2 | 6, bits: 8 | 16): string {
  const chunk = (type: string, data: Buffer): Buffer => {
    const body = Buffer.concat([Buffer.from(type, 'latin1'), data])
    const [length, sum] = [Buffer.alloc(4), Buffer.alloc(4)]
    length.writeUInt32BE(data.length)
    sum.writeUInt32BE(crc32(body))
    return Buffer.concat([length, body, sum])
  }
  const header = Buffer.from([0, 0, 0, 3, 0, 0, 0, 2, bits, colourType, 0, 0, 0])
  const rowBytes = (3 * { 0: 1, 2: 3, 6: 4 }[colourType] * bits) / 8
  const rows = [0, 1].map(row =>
    Buffer.from([0, ...Array.from({ length: rowBytes }, (_, at) => 10 * row + 20 * at + 1)]),
  )
  const file = Buffer.concat([
    Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]),
    chunk('IHDR', header),
    chunk('IDAT', deflateSync(Buffer.concat(rows))),
    chunk('IEND', Buffer.alloc(0)),
  ])
  return uri('image/png', file)
}
const uri = (type: string, bytes: Uint8Array): string => `data:${type};base64,${Buffer.from(bytes).toString('base64')}`
const pdf = uri('application/pdf', Buffer.from('%PDF-1.4\n1 0 obj<<>>endobj\ntrailer<<>>\n%%EOF'))
const grey = png(0, 8)

const parentFile = buildInstance({
  seed: 1,
  studyInstanceUid: '1.2.1',
  seriesInstanceUid: '1.2.1.1',
  patientId: 'TEST-1',
  extra: [
    { tag: 0x00081030, value: 'Parent study' },
    { tag: 0x0008103e, value: 'Parent series' },
  ],
}).bytes

/**
 * What is made up anew; what makes an image a valid one and Orthanc leaves out (its SOP class, the length of a document);
 * and what the character set is.
 */
const apart = /^(0008001[2368]|000800(2|3)[0123]|0020000[DE]|00080005|00420015)$/

const valuesOf = ({ dataset }: Part10) =>
  Object.entries(toJson(dataset))
    .filter(([tag]) => !apart.test(tag))
    .map(([tag, { vr: _, ...value }]) => [tag, value])

test('instances are created as Orthanc creates them', { skip: missingOrthanc }, async t => {
  const [app, orthanc] = [await modifyApp(t), await orthancWith(t, [parentFile])]
  const instance = await app.upload(parentFile)
  const { body: study } = await app.ask('GET', '/studies')
  const { body: series } = await app.ask('GET', '/series')
  const { body: patients } = await app.ask('GET', '/patients')
  assert.ok(Array.isArray(study) && Array.isArray(series) && Array.isArray(patients))
  const make = async (body: unknown) => {
    const answers = await Promise.all([app, orthanc].map(each => each.bytes('POST', '/tools/create-dicom', body)))
    return await Promise.all(
      answers.map(async ({ status, bytes }, side) => {
        const from = side === 0 ? app : orthanc
        const answer: unknown = status === 200 ? JSON.parse(bytes.toString()) : undefined
        if (!isObject(answer)) return { status, files: [], keys: [], about: bytes.toString() }
        let ids = [idOf(answer)]
        if (String(answer['Path']).startsWith('/series/')) {
          const inner = JSON.parse((await from.bytes('GET', `${answer['Path']}`)).bytes.toString())
          ids = inner.Instances
        }
        const files = []
        for (const id of ids) files.push(await read((await from.bytes('GET', `/instances/${id}/file`)).bytes))
        files.sort((a, b) => Number(stringOf(a.dataset, 0x00200013)) - Number(stringOf(b.dataset, 0x00200013)))
        return { status, files, keys: Object.keys(answer).sort(), about: '' }
      }),
    )
  }
  const requests = [
    { Tags: { PatientID: 'P', PatientName: 'TEST^A', Modality: 'CT' } },
    { Tags: { PatientID: 'P' }, Content: grey },
    { PatientID: 'P', PatientName: 'TEST^OLD', Modality: 'CT', PixelData: grey },
    { Tags: { PatientID: 'P' }, Content: png(0, 16) },
    { Tags: { PatientID: 'P' }, Content: png(2, 8) },
    { Tags: { PatientID: 'P' }, Content: png(6, 8) },
    { Tags: { PatientID: 'P', DocumentTitle: 'Report' }, Content: pdf },
    { Tags: { PatientID: 'P' }, Content: uri('image/png', Buffer.from('no image')) },
    { Tags: { PatientID: 'P' }, Content: 'nothing' },
    { Tags: { PatientID: 'P' }, Content: [grey, png(2, 8)] },
    {
      Tags: { PatientID: 'P' },
      Content: [
        { Content: grey, Tags: { ImageComments: 'x' } },
        { Content: grey, Tags: {} },
      ],
    },
    { Tags: { SeriesDescription: 'x' }, Parent: study[0], Content: grey },
    { Tags: { ImageComments: 'x' }, Parent: series[0] },
    { Tags: { ImageComments: 'x' }, Parent: patients[0] },
    { Tags: { StudyDescription: 'x' }, Parent: study[0] },
    { Tags: {}, Parent: 'nope' },
    { Tags: {}, Parent: instance },
    { Tags: { SOPInstanceUID: '1.2.3.4.5' } },
    { Tags: { PatientID: 'P', SOPInstanceUID: '1.2.3.4.5', StudyInstanceUID: '1.2.3' }, Force: true },
    { Tags: { PatientID: 'P', RequestAttributesSequence: [{ ScheduledProcedureStepID: '1' }] } },
    { Tags: { PatientID: 'P', ImageComments: grey }, InterpretBinaryTags: false },
    { Tags: { PatientName: 5 } },
    { Tags: { PixelData: grey } },
    { Tags: 'x' },
  ]

  for (const body of requests) {
    const [ours, theirs] = await make(body)
    assert.ok(ours && theirs)
    const about = JSON.stringify(body).slice(0, 200)
    assert.equal(ours.status, theirs.status, `${about} ${ours.about}`)
    assert.deepEqual(ours.keys, theirs.keys, about)
    assert.equal(ours.files.length, theirs.files.length, about)
    for (const [at, mine] of ours.files.entries()) {
      const other: Part10 | undefined = theirs.files[at]
      assert.ok(other)
      assert.deepEqual(valuesOf(mine), valuesOf(other), about)
    }
  }
})

test('what is created is a valid secondary capture, in UTF-8 where its text needs that', async t => {
  const app = await modifyApp(t)
  const create = async (body: unknown) => {
    const { status, body: answer } = await app.ask('POST', '/tools/create-dicom', body)
    assert.equal(status, 200, JSON.stringify(answer))
    return (await read((await app.bytes('GET', `/instances/${idOf(answer)}/file`)).bytes)).dataset
  }

  const dataset = await create({
    Tags: { PatientName: 'TEST^山田', '0009,1001': 'private' },
    PrivateCreator: 'SITE',
    Content: grey,
  })
  assert.deepEqual(
    [0x00080016, 0x00080005, 0x00100010, 0x00090010].map(tag => stringOf(dataset, tag)),
    ['1.2.840.10008.5.1.4.1.1.7', 'ISO_IR 192', 'TEST^山田', 'SITE'],
  )
  assert.deepEqual([...(findElement(dataset, 0x7fe00010)?.value ?? [])], [1, 21, 41, 11, 31, 51])
  const { body } = await app.ask('POST', '/tools/create-dicom', {
    Tags: {},
    Content: uri('text/plain', Buffer.from('x')),
  })
  assert.ok(isObject(body) && body['status'] === 400)
})
