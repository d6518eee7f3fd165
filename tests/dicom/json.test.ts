import assert from 'node:assert/strict'
import { test } from 'node:test'
import { bufferSource } from '../../gateway/dicom/byte-source.ts'
import { fromJson, toJson } from '../../gateway/dicom/json.ts'
import { readPart10 } from '../../gateway/dicom/part10-reader.ts'
import type { NewElement } from '../../gateway/dicom/part10-writer.ts'
import { isGatewayError } from '../../gateway/errors.ts'
import { buildInstance } from '../support/dicom-builder.ts'

const bigEndian = '1.2.840.10008.1.2.2'

async function jsonOf(extra: readonly NewElement[], transferSyntaxUid = '1.2.840.10008.1.2.1') {
  const { bytes } = buildInstance({ extra, transferSyntaxUid, rows: 2, cols: 2 })
  const { dataset } = await readPart10(bufferSource(bytes))
  return (options = {}) => toJson(dataset, options)
}

test('each kind of value has its JSON form (PS3.18 Table F.2.3-1)', async () => {
  const extra: NewElement[] = [
    { tag: 0x00100010, value: 'Yamada^Tarou=山田^太郎=やまだ^たろう' },
    { tag: 0x00101001, value: ['=山田', ''] },
    { tag: 0x00280009, value: 0x00181063 },
    { tag: 0x00189073, value: [0.1, Number.NaN] },
    { tag: 0x0008040c, value: 2n ** 60n },
    { tag: 0x00200032, value: ['1.50', '', 'x'] },
    { tag: 0x00081140, items: [[], [{ tag: 0x00081155, value: '1.2' }]] },
    { tag: 0x00102000, value: '' },
    { tag: 0x00281201, vr: 'OW', value: Uint8Array.of(1, 2) },
  ]

  const json = (await jsonOf(extra))()

  const name = { Alphabetic: 'Yamada^Tarou', Ideographic: '山田^太郎', Phonetic: 'やまだ^たろう' }
  assert.deepEqual(json['00100010'], { vr: 'PN', Value: [name] })
  assert.deepEqual(json['00101001'], { vr: 'PN', Value: [{ Ideographic: '山田' }, null] })
  assert.deepEqual(json['00280009'], { vr: 'AT', Value: ['00181063'] })
  assert.deepEqual(json['00189073'], { vr: 'FD', Value: [0.1, 'NaN'] })
  assert.deepEqual(json['0008040C'], { vr: 'UV', Value: ['1152921504606846976'] })
  assert.deepEqual(json['00200032'], { vr: 'DS', Value: [1.5, null, 'x'] })
  assert.deepEqual(json['00081140'], { vr: 'SQ', Value: [{}, { '00081155': { vr: 'UI', Value: ['1.2'] } }] })
  assert.deepEqual(json['00102000'], { vr: 'LO' })
  assert.deepEqual(json['00281201'], { vr: 'OW', InlineBinary: 'AQI=' })
})

test('decimals keep their text on request', async () => {
  const json = (await jsonOf([{ tag: 0x00200032, value: ['1.50', '2', '-0.0'] }]))({ decimals: 'text' })

  assert.deepEqual(json['00200032'], { vr: 'DS', Value: ['1.50', 2, '-0.0'] })
})

test('inline words of a big endian file are little endian', async () => {
  const json = (await jsonOf([{ tag: 0x00281201, vr: 'OW', value: Uint8Array.of(1, 2) }], bigEndian))()

  assert.deepEqual(json['00281201'], { vr: 'OW', InlineBinary: 'AQI=' })
})

test('bulk data is referred to where a URI is given, and left out where it is not at hand', async () => {
  const { bytes } = buildInstance({ transferSyntaxUid: '1.2.840.10008.1.2.4.90' })
  const { dataset } = await readPart10(bufferSource(bytes))

  assert.equal(toJson(dataset)['7FE00010'], undefined)
  assert.deepEqual(toJson(dataset, { bulkDataUri: () => 'bulk/1' })['7FE00010'], { vr: 'OB', BulkDataURI: 'bulk/1' })
})

test('malformed JSON is refused with its path and without its value', () => {
  const cases: [json: unknown, path: string][] = [
    [[], 'data set'],
    [{ PatientName: {} }, 'data set'],
    [{ '00100010': 'DOE^JOHN' }, '00100010'],
    [{ '00100010': { vr: 'XX' } }, '00100010'],
    [{ '00100010': { vr: 'PN', Value: 'DOE^JOHN' } }, '00100010'],
    [{ '00100010': { vr: 'PN', Value: [{ Alphabetic: 7 }] } }, '00100010[0]'],
    [{ '00280010': { vr: 'US', Value: [70_000] } }, '00280010[0]'],
    [{ '00280010': { vr: 'US', Value: [1.5] } }, '00280010[0]'],
    [{ '00200013': { vr: 'IS', Value: [{}] } }, '00200013[0]'],
    [{ '00080060': { vr: 'CS', Value: ['A\\B'] } }, '00080060[0]'],
    [{ '00280009': { vr: 'AT', Value: ['xyz'] } }, '00280009[0]'],
    [{ '00081140': { vr: 'SQ', Value: [{ '00081155': 3 }] } }, '00081140[0].00081155'],
    [{ '7FE00010': { vr: 'OW', BulkDataURI: 'http://x' } }, '7FE00010'],
    [{ '7FE00010': { vr: 'OW', InlineBinary: '???' } }, '7FE00010'],
    [{ '7FE00010': { vr: 'OW', Value: ['a'] } }, '7FE00010[0]'],
  ]
  for (const [json, path] of cases) {
    assert.throws(
      () => fromJson(json),
      error =>
        isGatewayError(error, 'BAD_REQUEST') && error.message.startsWith(`${path}: `) && !error.message.includes('DOE'),
      JSON.stringify(json),
    )
  }
})

test('JSON nested beyond reason is refused', () => {
  let json: unknown = {}
  for (let depth = 0; depth < 100; depth++) json = { '00081140': { vr: 'SQ', Value: [json] } }

  assert.throws(
    () => fromJson(json),
    error => isGatewayError(error, 'BAD_REQUEST'),
  )
})
