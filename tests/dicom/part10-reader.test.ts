import assert from 'node:assert/strict'
import { test } from 'node:test'
import { deflateRawSync } from 'node:zlib'
import { bufferSource } from '../../gateway/dicom/byte-source.ts'
import { findElement, itemsOf, numbersOf, stringOf, stringsOf } from '../../gateway/dicom/dataset.ts'
import { readPart10 } from '../../gateway/dicom/part10-reader.ts'
import { encodeDataset, fileMeta, itemHeader, type NewElement } from '../../gateway/dicom/part10-writer.ts'
import { isGatewayError } from '../../gateway/errors.ts'
import { buildInstance } from '../support/dicom-builder.ts'

const syntaxes = {
  implicit: '1.2.840.10008.1.2',
  explicit: '1.2.840.10008.1.2.1',
  deflated: '1.2.840.10008.1.2.1.99',
  bigEndian: '1.2.840.10008.1.2.2',
  jpeg2000: '1.2.840.10008.1.2.4.90',
}

const unreadable = (error: unknown): boolean => isGatewayError(error, 'DICOM_UNREADABLE')
const overLimit = (error: unknown): boolean => isGatewayError(error, 'DICOM_LIMIT')

function file(dataset: Uint8Array, transferSyntaxUid = syntaxes.explicit): Buffer {
  return Buffer.concat([fileMeta({ sopClassUid: '1.2.3', sopInstanceUid: '1.2.4', transferSyntaxUid }), dataset])
}

/** Explicit VR little endian bytes from hex, spaces ignored. */
function hex(text: string): Buffer {
  return Buffer.from(text.replace(/\s/g, ''), 'hex')
}

for (const [name, transferSyntaxUid] of Object.entries(syntaxes)) {
  test(`a ${name} file is read: text, numbers, tags, sequences, private elements`, async () => {
    const extra: NewElement[] = [
      { tag: 0x00080006, vr: 'SQ', value: new Uint8Array(0) },
      { tag: 0x00091001, vr: 'LO', value: ['a', 'b'] },
      { tag: 0x00280009, value: [0x00181063, 0x00280008] },
      { tag: 0x00186060, value: -1.5 },
      { tag: 0x00081140, items: [[{ tag: 0x00081155, value: '1.2.3' }], [{ tag: 0x00081140, items: [[]] }]] },
    ]
    const built = buildInstance({ transferSyntaxUid, extra, patientName: 'Müller^Jürgen' })

    const { dataset, meta, ...read } = await readPart10(bufferSource(built.bytes))

    assert.equal(read.transferSyntaxUid, transferSyntaxUid)
    assert.equal(stringOf(meta, 0x00020003), built.sopInstanceUid)
    assert.equal(stringOf(dataset, 0x00100010), 'Müller^Jürgen')
    assert.deepEqual(numbersOf(dataset, 0x00280009), [0x00181063, 0x00280008])
    assert.deepEqual(numbersOf(dataset, 0x00186060), [-1.5])
    assert.deepEqual(numbersOf(dataset, 0x00280030), [0.5, 0.5])
    assert.equal(itemsOf(dataset, 0x00081140).length, 2)
    const [first] = itemsOf(dataset, 0x00081140)
    assert.equal(first && stringOf(first, 0x00081155), '1.2.3')
    const isPrivateVrKnown = transferSyntaxUid !== syntaxes.implicit
    assert.deepEqual(stringsOf(dataset, 0x00091001), isPrivateVrKnown ? ['a', 'b'] : [])
  })
}

test('offsets lead to the bytes of each value', async () => {
  const { bytes } = buildInstance({ seed: 5 })

  const { dataset } = await readPart10(bufferSource(bytes))

  for (const { value, valueOffset, length } of dataset.elements) {
    assert.ok(value && Buffer.from(value).equals(bytes.subarray(valueOffset, valueOffset + length)))
  }
})

test('large values stay in the source as ranges', async () => {
  const { bytes } = buildInstance({ rows: 64, cols: 64 })

  const { dataset } = await readPart10(bufferSource(bytes), { maxValueBytes: 1024 })

  const pixels = findElement(dataset, 0x7fe00010) ?? assert.fail()
  assert.equal(pixels.value, undefined)
  assert.equal(pixels.length, 8192)
  assert.equal(pixels.valueOffset + pixels.length, bytes.length)
})

test('encapsulated pixel data is read as fragments', async () => {
  const { bytes } = buildInstance({ transferSyntaxUid: syntaxes.jpeg2000, frames: 3, rows: 8, cols: 8 })

  const { dataset } = await readPart10(bufferSource(bytes))

  const { fragments } = findElement(dataset, 0x7fe00010) ?? assert.fail()
  assert.deepEqual(
    fragments?.map(({ length }) => length),
    [0, 128, 128, 128],
  )
})

test('reading can end before a tag', async () => {
  const { bytes } = buildInstance()

  const { dataset } = await readPart10(bufferSource(bytes), { stopBefore: 0x00200000 })

  assert.ok(findElement(dataset, 0x00180050))
  assert.equal(findElement(dataset, 0x0020000d), undefined)
})

test('a file without preamble, without prefix, and a bare data set are read', async () => {
  const { bytes, dataset, sopInstanceUid } = buildInstance()
  const implicit = buildInstance({ transferSyntaxUid: syntaxes.implicit })
  const bigEndian = buildInstance({ transferSyntaxUid: syntaxes.bigEndian })

  const forms: [form: Uint8Array, syntax: string][] = [
    [bytes.subarray(128), syntaxes.explicit],
    [bytes.subarray(132), syntaxes.explicit],
    [dataset, syntaxes.explicit],
    [implicit.dataset, syntaxes.implicit],
    [bigEndian.dataset, syntaxes.bigEndian],
  ]
  for (const [form, syntax] of forms) {
    const read = await readPart10(bufferSource(form))
    assert.equal(stringOf(read.dataset, 0x00080018), sopInstanceUid)
    assert.equal(read.transferSyntaxUid, syntax)
  }
})

test('the bytes decide where the declared transfer syntax is wrong', async () => {
  const { dataset, sopInstanceUid } = buildInstance({ transferSyntaxUid: syntaxes.implicit })

  const read = await readPart10(bufferSource(file(dataset, syntaxes.explicit)))

  assert.equal(stringOf(read.dataset, 0x00080018), sopInstanceUid)
  assert.equal(read.transferSyntaxUid, syntaxes.explicit)
  assert.equal(read.encoding.explicitVr, false)
})

test('a missing or wrong group length of the file meta is no obstacle', async () => {
  const { bytes, sopInstanceUid } = buildInstance()
  const wrong = Buffer.from(bytes)
  wrong.writeUInt32LE(7, 140)
  const missing = Buffer.concat([bytes.subarray(0, 132), bytes.subarray(144)])

  for (const form of [wrong, missing]) {
    const { dataset } = await readPart10(bufferSource(form))
    assert.equal(stringOf(dataset, 0x00080018), sopInstanceUid)
  }
})

test('sequences and items of undefined length are read, with elements behind them', async () => {
  const bytes = hex(`08004011 5351 0000 ffffffff feff00e0 ffffffff 08005511 5549 0400 312e3200
    feff0de0 00000000 feff00e0 00000000 feffdde0 00000000 10002000 4c4f 0200 5a31`)

  const { dataset } = await readPart10(bufferSource(file(bytes)))

  const items = itemsOf(dataset, 0x00081140)
  assert.deepEqual(
    items.map(({ elements }) => elements.length),
    [1, 0],
  )
  assert.equal(stringOf(dataset, 0x00100020), 'Z1')
})

test('UN of undefined length is a sequence in implicit VR, UN of a known tag has its VR', async () => {
  const undefinedLength = hex(
    `08004011 554e 0000 ffffffff feff00e0 0c000000 08005511 04000000 312e3200 feffdde0 00000000`,
  )
  const definedLength = hex(
    `08004011 554e 0000 14000000 feff00e0 0c000000 08005511 04000000 312e3200 10002000 554e 0000 02000000 5a31`,
  )

  const first = (await readPart10(bufferSource(file(undefinedLength)))).dataset
  const second = (await readPart10(bufferSource(file(definedLength)))).dataset

  for (const dataset of [first, second]) {
    const [item] = itemsOf(dataset, 0x00081140)
    assert.equal(item && stringOf(item, 0x00081155), '1.2')
  }
  assert.equal(stringOf(second, 0x00100020), 'Z1')
})

test('implicit VR picks US or SS by Pixel Representation', async () => {
  for (const [representation, smallest] of [
    [1, -1],
    [0, 65535],
  ] as const) {
    const elements: NewElement[] = [
      { tag: 0x00080060, value: 'CT' },
      { tag: 0x00280103, value: representation },
      { tag: 0x00280106, value: 65535 },
    ]
    const { dataset } = await readPart10(bufferSource(encodeDataset(elements, syntaxes.implicit)))
    assert.deepEqual(numbersOf(dataset, 0x00280106), [smallest])
  }
})

test('a VR of a later edition is read as UN and what follows it is not lost', async () => {
  const bytes = hex('08006000 5a5a 0000 02000000 4354 10002000 4c4f 0200 5a31')

  const { dataset } = await readPart10(bufferSource(file(bytes)))

  assert.equal(findElement(dataset, 0x00080060)?.vr, 'UN')
  assert.equal(stringOf(dataset, 0x00100020), 'Z1')
})

test('truncated files are unreadable at every length that cuts an element', async () => {
  const { bytes } = buildInstance({ rows: 4, cols: 4, transferSyntaxUid: syntaxes.jpeg2000 })

  for (let length = bytes.length - 1; length > bytes.length - 60; length--) {
    await assert.rejects(readPart10(bufferSource(bytes.subarray(0, length))), unreadable)
  }
})

test('other files are unreadable', async () => {
  const others = ['', '%PDF-1.7 something', '{"resourceType":"Patient"}', '<html></html>', '\x89PNG\r\n\x1a\n0000']
  for (const other of others) await assert.rejects(readPart10(bufferSource(Buffer.from(other, 'latin1'))), unreadable)
})

test('nesting beyond the limit is refused, without recursion', async () => {
  const opening = hex('08004011 5351 0000 ffffffff feff00e0 ffffffff')
  const deep = file(Buffer.alloc(20_000 * opening.length, opening))

  await assert.rejects(readPart10(bufferSource(deep)), overLimit)
})

test('more elements than the limit are refused', async () => {
  const many = file(Buffer.alloc(600_000 * 8, hex('10002000 4c4f 0000')))

  await assert.rejects(readPart10(bufferSource(many)), overLimit)
})

test('a deflated data set may not inflate beyond the limit', async () => {
  const dataset = encodeDataset([{ tag: 0x00420011, value: new Uint8Array(8_000_000) }], syntaxes.explicit)
  const bomb = file(deflateRawSync(dataset), syntaxes.deflated)

  await assert.rejects(readPart10(bufferSource(bomb), { maxInflatedBytes: 1_000_000 }), overLimit)
  const read = await readPart10(bufferSource(bomb))
  assert.equal(findElement(read.dataset, 0x00420011)?.length, 8_000_000)
})

test('corrupt and cut deflate streams are unreadable', async () => {
  const { bytes } = buildInstance({ transferSyntaxUid: syntaxes.deflated })
  const corrupt = Buffer.from(bytes)
  corrupt.fill(0xff, 400, 420)

  await assert.rejects(readPart10(bufferSource(corrupt)), unreadable)
  await assert.rejects(readPart10(bufferSource(bytes.subarray(0, bytes.length - 200))), unreadable)
})

test('an item header in the other byte order is unreadable', async () => {
  const item = Buffer.from(itemHeader(0xfffee000, 0, { explicitVr: true, bigEndian: true }))
  const bytes = Buffer.concat([hex('08004011 5351 0000 08000000'), item])

  await assert.rejects(readPart10(bufferSource(file(bytes))), unreadable)
})
