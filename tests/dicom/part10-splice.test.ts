import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { bufferSource } from '../../gateway/dicom/byte-source.ts'
import { findElement, numbersOf, stringOf } from '../../gateway/dicom/dataset.ts'
import { type DicomJson, fromJson, toJson } from '../../gateway/dicom/json.ts'
import { readPart10 } from '../../gateway/dicom/part10-reader.ts'
import { type Edit, spliceEdits } from '../../gateway/dicom/part10-splice.ts'
import { encodeDataset, fileMeta, type NewElement } from '../../gateway/dicom/part10-writer.ts'
import { isGatewayError } from '../../gateway/errors.ts'
import { datasets } from '../support/arbitrary-dataset.ts'
import { gather } from '../support/bytes.ts'
import { buildInstance } from '../support/dicom-builder.ts'

const refused = (error: unknown): boolean => isGatewayError(error, 'BAD_REQUEST')

async function splice(bytes: Uint8Array, edits: readonly Edit[]): Promise<Buffer> {
  return gather(spliceEdits(bufferSource(bytes), edits))
}

for (const transferSyntaxUid of [
  '1.2.840.10008.1.2',
  '1.2.840.10008.1.2.1',
  '1.2.840.10008.1.2.2',
  '1.2.840.10008.1.2.4.90',
]) {
  test(`elements are set, inserted and removed in ${transferSyntaxUid}, all other bytes stay`, async () => {
    const { bytes } = buildInstance({ transferSyntaxUid })
    const edits: Edit[] = [
      { set: { tag: 0x00100020, value: 'OTHER' } },
      { set: { tag: 0x00104000, value: 'inserted' } },
      { remove: 0x00100040 },
    ]

    const edited = await splice(bytes, edits)

    const { dataset } = await readPart10(bufferSource(edited))
    assert.equal(stringOf(dataset, 0x00100020), 'OTHER')
    assert.equal(stringOf(dataset, 0x00104000), 'inserted')
    assert.equal(findElement(dataset, 0x00100040), undefined)
    const original = await readPart10(bufferSource(bytes))
    const before = findElement(original.dataset, 0x00100010)?.offset ?? 0
    const after = findElement(dataset, 0x00180050)?.offset ?? 0
    assert.ok(edited.subarray(0, before).equals(bytes.subarray(0, before)))
    assert.ok(edited.subarray(after).equals(bytes.subarray(findElement(original.dataset, 0x00180050)?.offset)))
  })
}

test('an edited deflated data set is deflated anew', async () => {
  const { bytes } = buildInstance({ transferSyntaxUid: '1.2.840.10008.1.2.1.99' })

  const edited = await splice(bytes, [{ set: { tag: 0x00100020, value: 'OTHER' } }])

  const { dataset, isDeflated } = await readPart10(bufferSource(edited))
  assert.ok(isDeflated)
  assert.equal(stringOf(dataset, 0x00100020), 'OTHER')
  assert.equal(edited.length % 2, 0)
})

test('file meta is edited with its group length, the data set stays', async () => {
  const { bytes, dataset } = buildInstance({ transferSyntaxUid: '1.2.840.10008.1.2.1.99' })

  const edited = await splice(bytes, [
    { set: { tag: 0x00020016, value: 'LONG_AE_TITLE' } },
    { set: { tag: 0x00020003, value: '1.2' } },
  ])

  const { meta } = await readPart10(bufferSource(edited))
  assert.equal(stringOf(meta, 0x00020016), 'LONG_AE_TITLE')
  assert.equal(stringOf(meta, 0x00020003), '1.2')
  assert.deepEqual(numbersOf(meta, 0x00020000), [edited.length - dataset.length - 144])
  assert.ok(edited.subarray(edited.length - dataset.length).equals(dataset))
})

test('group lengths of edited groups are corrected, also inside items', async () => {
  const item: NewElement[] = [
    { tag: 0x00080000, value: 14 },
    { tag: 0x00081155, value: '1.2.33' },
  ]
  const { bytes } = buildInstance({
    extra: [
      { tag: 0x00100000, value: 100 },
      { tag: 0x00081140, items: [item] },
    ],
  })

  const edited = await splice(bytes, [
    { set: { tag: 0x00100020, value: 'A-LONGER-PATIENT-ID!' } },
    { within: [0x00081140, 0], set: { tag: 0x00081155, value: '1.2.3344' } },
  ])

  const { dataset } = await readPart10(bufferSource(edited))
  assert.deepEqual(numbersOf(dataset, 0x00100000), [114])
  const nested = findElement(dataset, 0x00081140)?.items?.[0] ?? assert.fail()
  assert.deepEqual(numbersOf(nested, 0x00080000), [16])
})

test('every occurrence of a repeated element goes', async () => {
  const meta = fileMeta({ sopClassUid: '1.2', sopInstanceUid: '1.3', transferSyntaxUid: '1.2.840.10008.1.2.1' })
  const twice = Buffer.from(
    '0800600043530200435410001000504e0400444f4520 10001000504e0400444f4520'.replace(' ', ''),
    'hex',
  )
  const bytes = Buffer.concat([meta, twice])

  const removed = await splice(bytes, [{ remove: 0x00100010 }])
  const replaced = await splice(bytes, [{ set: { tag: 0x00100010, value: 'X' } }])

  assert.ok(!removed.includes('DOE'))
  assert.ok(!replaced.includes('DOE'))
  assert.equal((await readPart10(bufferSource(replaced))).dataset.elements.length, 2)
})

test('a removed sequence of undefined length goes with its items', async () => {
  const meta = fileMeta({ sopClassUid: '1.2', sopInstanceUid: '1.3', transferSyntaxUid: '1.2.840.10008.1.2.1' })
  const sequence =
    '0800401153510000fffffffffeff00e0ffffffff08005511554904003 12e3200feff0de000000000feffdde000000000'.replace(' ', '')
  const bytes = Buffer.concat([meta, Buffer.from(`${sequence}100020004c4f02005a31`, 'hex')])

  const edited = await splice(bytes, [{ remove: 0x00081140 }])

  assert.ok(edited.equals(Buffer.concat([meta, Buffer.from('100020004c4f02005a31', 'hex')])))
})

test('text is encoded in the character set of the data set, and refused where that has no such character', async () => {
  const { bytes } = buildInstance({ charset: ['', 'ISO 2022 IR 87'] })

  const edited = await splice(bytes, [{ set: { tag: 0x00100010, value: 'Yamada^Tarou=山田^太郎' } }])

  assert.equal(stringOf((await readPart10(bufferSource(edited))).dataset, 0x00100010), 'Yamada^Tarou=山田^太郎')
  await assert.rejects(splice(bytes, [{ set: { tag: 0x00100010, value: '홍길동' } }]), refused)
  await assert.rejects(splice(bytes, [{ set: { tag: 0x00080005, value: 'ISO_IR 192' } }]), refused)
})

test('an element cannot be set in an item that is not there; removing it there does nothing', async () => {
  const { bytes } = buildInstance({ extra: [{ tag: 0x00081140, items: [[]] }] })
  const set: NewElement = { tag: 0x00081155, value: '1.2' }

  await assert.rejects(splice(bytes, [{ within: [0x00081140, 1], set }]), refused)
  await assert.rejects(splice(bytes, [{ within: [0x00081115, 0], set }]), refused)
  await assert.rejects(splice(bytes, [{ within: [0x00081140], set }]), refused)
  assert.ok((await splice(bytes, [{ within: [0x00081115, 0], remove: 0x00081155 }])).equals(bytes))
})

test('edits agree with the same edits made on the JSON of the data set', async () => {
  const syntaxes = fc.constantFrom('1.2.840.10008.1.2', '1.2.840.10008.1.2.1', '1.2.840.10008.1.2.2')
  const property = fc.asyncProperty(
    datasets(),
    datasets(),
    syntaxes,
    fc.infiniteStream(fc.nat(5)),
    async (json, other, syntax, choices) => {
      const meta = fileMeta({ sopClassUid: '1.2', sopInstanceUid: '1.3', transferSyntaxUid: syntax })
      const bytes = Buffer.concat([meta, encodeDataset(fromJson(json), syntax)])
      const { edits, edited } = arbitraryEdits(json, other, () => choices.next().value)

      const { dataset } = await readPart10(bufferSource(await splice(bytes, edits)))

      assert.deepEqual(JSON.parse(JSON.stringify(toJson(dataset, { decimals: 'text' }))), edited)
    },
  )
  await fc.assert(property, { numRuns: 200 })
})

type Json = Record<string, unknown>

/** Edits of a data set, by choice at each element, with the values of another one; and what they must give. */
function arbitraryEdits(
  json: Json,
  other: Json,
  choose: () => number,
  within: readonly number[] = [],
): { edits: Edit[]; edited: Json } {
  const edits: Edit[] = []
  const edited: Json = { ...json }
  for (const key of Object.keys({ ...json, ...other })) {
    const tag = Number.parseInt(key, 16)
    const choice = choose()
    if (tag === 0x00080005) continue
    if (choice === 0) {
      edits.push({ within, remove: tag })
      delete edited[key]
    } else if (choice === 1 && key in other) {
      const [set] = fromJson({ [key]: other[key] })
      if (set !== undefined) edits.push({ within, set })
      edited[key] = other[key]
    } else if (key in json) edited[key] = editItems(json[key], other, choose, [...within, tag], edits)
  }
  return { edits, edited: Object.fromEntries(Object.entries(edited).sort(([a], [b]) => (a < b ? -1 : 1))) }
}

function editItems(
  element: unknown,
  other: Json,
  choose: () => number,
  within: readonly number[],
  edits: Edit[],
): unknown {
  if (typeof element !== 'object' || element === null || !('vr' in element) || element.vr !== 'SQ') return element
  if (!('Value' in element) || !Array.isArray(element.Value)) return element
  const items = element.Value.map((item: Json, index) => {
    const { '00080005': _, ...values } = other
    const below = arbitraryEdits(item, values, choose, [...within, index])
    edits.push(...below.edits)
    return below.edited
  })
  return { vr: 'SQ', Value: items satisfies readonly (Json | DicomJson)[] }
}
