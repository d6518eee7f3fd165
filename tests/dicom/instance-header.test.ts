import assert from 'node:assert/strict'
import { test } from 'node:test'
import { type ByteSource, bufferSource } from '../../gateway/dicom/byte-source.ts'
import { foldName, maxAttributesBytes, readInstanceHeader } from '../../gateway/dicom/instance-header.ts'
import type { NewElement } from '../../gateway/dicom/part10-writer.ts'
import { isGatewayError } from '../../gateway/errors.ts'
import { buildInstance } from '../support/dicom-builder.ts'

test('identity, keys and attributes by level are read', async () => {
  const built = buildInstance({ patientName: 'Müller^Jürgen', charset: 'ISO_IR 100', seed: 9 })

  const header = await readInstanceHeader(bufferSource(built.bytes))

  assert.equal(header.sopInstanceUid, built.sopInstanceUid)
  assert.equal(header.datasetOffset, built.bytes.length - built.dataset.length)
  assert.equal(header.patientName, 'Müller^Jürgen')
  assert.equal(header.nameFolded, 'muller^jurgen')
  assert.equal(header.specificCharacterSet, 'ISO_IR 100')
  assert.equal(header.studyDate, '20260102')
  const { patient, study, series, instance } = header.attributes
  assert.deepEqual(patient['00100010'], { vr: 'PN', Value: [{ Alphabetic: 'Müller^Jürgen' }] })
  assert.deepEqual(study['00081030'], { vr: 'LO', Value: ['Synthetic study'] })
  assert.deepEqual(series['00080060'], { vr: 'CS', Value: ['CT'] })
  assert.deepEqual(instance['00280010'], { vr: 'US', Value: [64] })
  assert.equal(instance['7FE00010'], undefined)
})

test('a data set without file meta is read where the caller knows its syntax', async () => {
  for (const transferSyntaxUid of ['1.2.840.10008.1.2', '1.2.840.10008.1.2.2', '1.2.840.10008.1.2.1.99']) {
    const { dataset, sopInstanceUid } = buildInstance({ transferSyntaxUid })
    const prefixed = Buffer.concat([Buffer.from('anything'), dataset])

    const header = await readInstanceHeader(bufferSource(prefixed), { datasetOffset: 8, transferSyntaxUid })

    assert.equal(header.sopInstanceUid, sopInstanceUid)
    assert.equal(header.transferSyntaxUid, transferSyntaxUid)
    assert.equal(header.datasetOffset, 8)
  }
})

test('a missing or malformed identifying UID is unreadable and named, without its value', async () => {
  for (const [tag, attribute] of [
    [0x00080016, 'SOPClassUID'],
    [0x00080018, 'SOPInstanceUID'],
    [0x0020000d, 'StudyInstanceUID'],
    [0x0020000e, 'SeriesInstanceUID'],
  ] as const) {
    for (const value of ['', 'DOE^JOHN']) {
      const { bytes } = buildInstance({ extra: [{ tag, value }] })
      await assert.rejects(readInstanceHeader(bufferSource(bytes)), error => {
        assert.ok(isGatewayError(error, 'DICOM_UNREADABLE'))
        const said = error.message + JSON.stringify(error.context)
        return said.includes(attribute) && !said.includes('DOE')
      })
    }
  }
})

test('padding around UIDs is removed', async () => {
  const { bytes } = buildInstance({ extra: [{ tag: 0x0020000d, value: '1.2.3 ' }] })

  assert.equal((await readInstanceHeader(bufferSource(bytes))).studyInstanceUid, '1.2.3')
})

test('the issuer is that of the patient id, or of its qualifiers', async () => {
  const plain = buildInstance({ extra: [{ tag: 0x00100021, value: 'SITE-B' }] })
  const qualified = buildInstance({ extra: [{ tag: 0x00100024, items: [[{ tag: 0x00400032, value: '2.16.1' }]] }] })

  assert.equal((await readInstanceHeader(bufferSource(plain.bytes))).issuer, 'SITE-B')
  assert.equal((await readInstanceHeader(bufferSource(qualified.bytes))).issuer, '2.16.1')
})

test('bulk data, private elements and group lengths stay out of the attributes', async () => {
  const extra: NewElement[] = [
    { tag: 0x00080000, value: 1234 },
    { tag: 0x00090010, value: 'CREATOR' },
    { tag: 0x00091001, vr: 'LO', value: 'private' },
    { tag: 0x00281201, vr: 'OW', value: new Uint8Array(512) },
    { tag: 0x00420010, value: 'x'.repeat(1000) },
  ]
  const { bytes } = buildInstance({ extra })

  const { attributes } = await readInstanceHeader(bufferSource(bytes))

  const tags = Object.keys(attributes.instance)
  for (const tag of ['00080000', '00090010', '00091001', '00281201']) assert.ok(!tags.includes(tag), tag)
  assert.ok(tags.includes('00420010'))
})

test('hostile values are bounded: attributes below their cap, keys short and still distinct', async () => {
  const items = Array.from({ length: 2000 }, (_, i): NewElement[] => [{ tag: 0x00081155, value: `1.2.${i}` }])
  const texts = Array.from(
    { length: 60 },
    (_, i): NewElement => ({ tag: 0x00400e00 + i, vr: 'LT', value: '\u0001'.repeat(4000) }),
  )
  const extra: NewElement[] = [{ tag: 0x00081140, items }, ...texts]
  const built = ['a', 'b'].map(end =>
    buildInstance({ patientId: 'X'.repeat(5000) + end, patientName: 'N'.repeat(900), extra }),
  )

  const [first, second] = await Promise.all(built.map(({ bytes }) => readInstanceHeader(bufferSource(bytes))))

  assert.ok(first && second)
  assert.ok(JSON.stringify(first.attributes.instance).length <= maxAttributesBytes)
  assert.ok(first.patientId.length <= 256 && first.nameFolded.length <= 256)
  assert.notEqual(first.patientId, second.patientId)
})

test('NUL never reaches a value', async () => {
  const { bytes } = buildInstance({ patientName: 'TEST\0^A', extra: [{ tag: 0x00204000, value: 'x\0y' }] })

  const header = await readInstanceHeader(bufferSource(bytes))

  assert.ok(!JSON.stringify(header).includes('\\u0000'))
})

test('a sequence of undefined length in front of the pixels is passed over in small reads', async () => {
  const frames = Array.from({ length: 5000 }, (_, i): NewElement[] => [
    { tag: 0x00209113, items: [[{ tag: 0x00200032, value: ['0', '0', String(i)] }]] },
  ])
  const { bytes, sopInstanceUid } = buildInstance({
    extra: [{ tag: 0x52009230, items: frames }],
    rows: 1024,
    cols: 1024,
  })
  let readBytes = 0
  const inner = bufferSource(bytes)
  const counting: ByteSource = {
    sizeBytes: inner.sizeBytes,
    read(offset, length) {
      readBytes += length
      return inner.read(offset, length)
    },
  }

  const header = await readInstanceHeader(counting)

  assert.equal(header.sopInstanceUid, sopInstanceUid)
  assert.ok(readBytes < 100_000, `${readBytes} bytes read of ${bytes.length}`)
})

test('names are folded for matching', () => {
  assert.equal(foldName('DOE^John  F.^^^'), 'doe^john f.')
  assert.equal(foldName('Müller^Jürgen'), 'muller^jurgen')
  assert.equal(foldName('Strauß'), 'strauss')
  assert.equal(foldName('Yamada^Tarou=山田^太郎='), 'yamada^tarou=山田^太郎')
  assert.equal(foldName('が'), 'が')
  assert.equal(foldName(''), '')
})

test('an upload that was cut inside its pixel data is refused, one with trailing bytes is not', async () => {
  const { bytes } = buildInstance({ seed: 5 })

  await assert.rejects(readInstanceHeader(bufferSource(bytes.subarray(0, bytes.length - 2))), (error: unknown) =>
    isGatewayError(error, 'DICOM_UNREADABLE'),
  )
  const header = await readInstanceHeader(bufferSource(Buffer.concat([bytes, Buffer.alloc(64)])))

  assert.equal(header.modality, 'CT')
})
