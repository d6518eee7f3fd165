import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { bufferSource } from '../../gateway/dicom/byte-source.ts'
import type { Encoding } from '../../gateway/dicom/dataset.ts'
import { fromJson } from '../../gateway/dicom/json.ts'
import { encodeDataset } from '../../gateway/dicom/part10-writer.ts'
import { type Change, type Hole, recode, topLevel } from '../../gateway/dicom/recode.ts'
import type { Tag } from '../../gateway/dicom/tag.ts'
import { explicitVrBigEndian, explicitVrLittleEndian, implicitVrLittleEndian } from '../../gateway/dicom/uid.ts'
import { isGatewayError } from '../../gateway/errors.ts'
import { datasets } from '../support/arbitrary-dataset.ts'

const explicitLittle: Encoding = { explicitVr: true, bigEndian: false }
const explicitBig: Encoding = { explicitVr: true, bigEndian: true }
const implicit: Encoding = { explicitVr: false, bigEndian: false }
const none: ReadonlyMap<number, ReadonlyMap<Tag, Change>> = new Map()

/** The data set encoded anew; the values of holes are filled with 0xaa. */
async function recoded(bytes: Uint8Array, from: Encoding, to: Encoding, changes = none): Promise<Buffer> {
  const chunks: Uint8Array[] = []
  for await (const part of recode(() => bufferSource(bytes), { offset: 0, encoding: from }, { to, changes })) {
    chunks.push(part instanceof Uint8Array ? Buffer.from(part) : filled(part))
  }
  return Buffer.concat(chunks)
}

const filled = ({ length = 0 }: Hole): Uint8Array => new Uint8Array(length).fill(0xaa)

test('any data set comes out as if it had been written in the other encoding, and back', async () => {
  await fc.assert(
    fc.asyncProperty(datasets(), async json => {
      const elements = fromJson(json)
      const little = encodeDataset(elements, explicitVrLittleEndian)
      const big = encodeDataset(elements, explicitVrBigEndian)
      const hidden = encodeDataset(elements, implicitVrLittleEndian)

      assert.deepEqual(await recoded(little, explicitLittle, explicitBig), Buffer.from(big))
      assert.deepEqual(await recoded(big, explicitBig, explicitLittle), Buffer.from(little))
      assert.deepEqual(await recoded(little, explicitLittle, implicit), Buffer.from(hidden))
      assert.deepEqual(await recoded(hidden, implicit, explicitLittle), Buffer.from(little))
      assert.deepEqual(await recoded(hidden, implicit, explicitBig), Buffer.from(big))
      assert.deepEqual(await recoded(little, explicitLittle, explicitLittle), Buffer.from(little))
    }),
    { numRuns: process.env['HANSE_SOAK'] === '1' ? 2_000 : 60 },
  )
})

test('sequences of undefined length stay such, values of unknown VR keep their bytes', async () => {
  const bytes = hex(`
    0800 4011 5351 0000 ffffffff
      feff00e0 ffffffff  0800 5011 5549 0400 312e3200  feff0de0 00000000
      feff00e0 0c000000  0800 5511 5549 0400 312e3300
    feffdde0 00000000
    0900 0110 554e 0000 04000000 01020304
    0900 0210 554e 0000 ffffffff
      feff00e0 ffffffff  0900 0310 04000000 05060708  feff0de0 00000000
    feffdde0 00000000
    0900 0510 554c 0400 04030201`)
  const big = hex(`
    0008 1140 5351 0000 ffffffff
      fffee000 ffffffff  0008 1150 5549 0004 312e3200  fffee00d 00000000
      fffee000 0000000c  0008 1155 5549 0004 312e3300
    fffee0dd 00000000
    0009 1001 554e 0000 00000004 01020304
    0009 1002 554e 0000 ffffffff
      feff00e0 ffffffff  0900 0310 04000000 05060708  feff0de0 00000000
    feffdde0 00000000
    0009 1005 554c 0004 01020304`)

  assert.equal((await recoded(bytes, explicitLittle, explicitBig)).toString('hex'), big.toString('hex'))
  assert.equal((await recoded(big, explicitBig, explicitLittle)).toString('hex'), bytes.toString('hex'))
})

test('group lengths go, and so do delimiters that belong to nothing', async () => {
  const bytes = hex(`0800 0000 554c 0400 10000000  feffdde0 00000000  0800 6000 4353 0200 4d52`)

  assert.equal(
    (await recoded(bytes, explicitLittle, explicitLittle)).toString('hex'),
    '080060004353 0200 4d52'.replaceAll(' ', ''),
  )
})

test('changes are made in their order at the top level and in items, whose lengths follow', async () => {
  const inner = [
    { tag: 0x00280004, value: 'YBR_FULL' },
    { tag: 0x7fe00010, vr: 'OB', value: Uint8Array.of(1, 2) },
  ] as const
  const before = encodeDataset(
    [
      { tag: 0x00280004, value: 'YBR_FULL' },
      { tag: 0x00880200, items: [inner] },
      { tag: 0x7fe00010, vr: 'OB', value: Uint8Array.of(3, 4) },
      { tag: 0xfffcfffc, vr: 'OB', value: Uint8Array.of(0, 0) },
    ],
    explicitVrLittleEndian,
  )
  const after = encodeDataset(
    [
      { tag: 0x00280004, value: 'RGB' },
      { tag: 0x00280006, value: 0 },
      {
        tag: 0x00880200,
        items: [
          [
            { tag: 0x00280004, value: 'RGB' },
            { tag: 0x00280006, value: 0 },
            { tag: 0x7fe00010, vr: 'OB', value: new Uint8Array(10).fill(0xaa) },
          ],
        ],
      },
      { tag: 0x7fe00010, vr: 'OW', value: new Uint8Array(6).fill(0xaa) },
    ],
    explicitVrLittleEndian,
  )
  const change = (hole: Hole): Map<Tag, Change> =>
    new Map<Tag, Change>([
      [0x00280004, { tag: 0x00280004, value: 'RGB' }],
      [0x00280006, { tag: 0x00280006, value: 0 }],
      [0x7fe00010, hole],
      [0xfffcfffc, 'remove'],
    ])
  const changes = new Map([
    [topLevel, change({ tag: 0x7fe00010, vr: 'OW', length: 6 })],
    [before.indexOf(0xe0) - 3, change({ tag: 0x7fe00010, vr: 'OB', length: 10 })],
  ])

  assert.deepEqual(await recoded(before, explicitLittle, explicitLittle, changes), Buffer.from(after))
})

test('a data set that ends early is refused', async () => {
  const bytes = hex('0800 6000 4353 1000 4d52')

  await assert.rejects(recoded(bytes, explicitLittle, implicit), error => isGatewayError(error, 'DICOM_UNREADABLE'))
})

function hex(text: string): Buffer {
  return Buffer.from(text.replaceAll(/\s/g, ''), 'hex')
}
