import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { bufferSource } from '../../gateway/dicom/byte-source.ts'
import { findElement, stringOf } from '../../gateway/dicom/dataset.ts'
import { fromJson, toJson } from '../../gateway/dicom/json.ts'
import { readPart10 } from '../../gateway/dicom/part10-reader.ts'
import { encodeDataset, fileMeta } from '../../gateway/dicom/part10-writer.ts'
import { isGatewayError } from '../../gateway/errors.ts'
import { datasets } from '../support/arbitrary-dataset.ts'
import { buildInstance } from '../support/dicom-builder.ts'

const identity = {
  sopClassUid: '1.2.840.10008.5.1.4.1.1.2',
  sopInstanceUid: '1.2.3',
  transferSyntaxUid: '1.2.840.10008.1.2.1',
}

test('file meta has a preamble, a right group length, and depends on its UIDs only', async () => {
  const meta = fileMeta(identity)

  assert.deepEqual(fileMeta(identity), meta)
  assert.equal(Buffer.from(meta.subarray(128, 132)).toString(), 'DICM')
  assert.equal(Buffer.from(meta).readUInt32LE(140), meta.length - 144)
  assert.equal(meta.length % 2, 0)
  const read = await readPart10(
    bufferSource(Buffer.concat([meta, encodeDataset([{ tag: 0x00080060, value: 'CT' }], identity.transferSyntaxUid)])),
  )
  assert.equal(stringOf(read.meta, 0x00020002), identity.sopClassUid)
  assert.equal(stringOf(read.meta, 0x00020016), undefined, 'no calling AE')
})

test('equal options build equal instances, other seeds others', () => {
  assert.deepEqual(buildInstance({ seed: 4 }), buildInstance({ seed: 4 }))
  assert.notDeepEqual(buildInstance({ seed: 4 }).bytes, buildInstance({ seed: 5 }).bytes)
})

test('a value too long for a short VR is written as UN, and read back as what it is', async () => {
  const comments = 'x'.repeat(70_000)

  const bytes = encodeDataset(
    [
      { tag: 0x00080060, value: 'CT' },
      { tag: 0x00204000, value: comments },
    ],
    identity.transferSyntaxUid,
  )

  const { dataset } = await readPart10(bufferSource(bytes), { maxValueBytes: 100_000 })
  assert.equal(findElement(dataset, 0x00204000)?.vr, 'LT')
  assert.equal(stringOf(dataset, 0x00204000), comments)
})

test('what cannot be represented is refused without its value', () => {
  const refused = (error: unknown): boolean =>
    isGatewayError(error, 'BAD_REQUEST') && !JSON.stringify(error.context).includes('山')
  const write =
    (value: string | number | bigint, tag: number, charset = 'ISO_IR 100') =>
    () =>
      encodeDataset(
        [
          { tag: 0x00080005, value: charset },
          { tag, value },
        ],
        identity.transferSyntaxUid,
      )

  assert.throws(write('山田', 0x00100010), refused)
  assert.throws(write('abc', 0x00280010), refused)
  assert.throws(write(1.5, 0x00280010), refused)
  assert.throws(write(65_536, 0x00280010), refused)
})

for (const [name, transferSyntaxUid] of [
  ['implicit', '1.2.840.10008.1.2'],
  ['explicit', '1.2.840.10008.1.2.1'],
  ['big endian', '1.2.840.10008.1.2.2'],
  ['deflated', '1.2.840.10008.1.2.1.99'],
] as const) {
  test(`any ${name} data set that is written is read back`, async () => {
    const property = fc.asyncProperty(datasets(), async json => {
      const meta = fileMeta({ ...identity, transferSyntaxUid })
      const written = Buffer.concat([meta, encodeDataset(fromJson(json), transferSyntaxUid)])

      const { dataset } = await readPart10(bufferSource(written), { maxValueBytes: 1 << 20 })

      assert.deepEqual(JSON.parse(JSON.stringify(toJson(dataset, { decimals: 'text' }))), json)
    })
    await fc.assert(property, { numRuns: 150 })
  })
}
