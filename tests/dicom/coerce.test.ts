import assert from 'node:assert/strict'
import { test } from 'node:test'
import { bufferSource } from '../../gateway/dicom/byte-source.ts'
import { coercionEdits } from '../../gateway/dicom/coerce.ts'
import { findElement, itemsOf, stringOf } from '../../gateway/dicom/dataset.ts'
import { readPart10 } from '../../gateway/dicom/part10-reader.ts'
import { spliceEdits } from '../../gateway/dicom/part10-splice.ts'
import { buildInstance } from '../support/dicom-builder.ts'

const record = { at: new Date('2026-02-03T04:05:06.789Z'), system: 'HANSE', source: 'Hospital B' }
const values = new Map([
  [0x00100020, 'EXT-TEST-1'],
  [0x00100021, 'HOSPB'],
])

async function coerce(bytes: Uint8Array, to = values): Promise<Uint8Array> {
  const source = bufferSource(bytes)
  const chunks: Uint8Array[] = []
  for await (const chunk of spliceEdits(source, await coercionEdits(source, to, record))) chunks.push(chunk)
  return Buffer.concat(chunks)
}

for (const transferSyntaxUid of [
  '1.2.840.10008.1.2',
  '1.2.840.10008.1.2.1',
  '1.2.840.10008.1.2.1.99',
  '1.2.840.10008.1.2.2',
]) {
  test(`identifiers are replaced and what they were is kept, in ${transferSyntaxUid}`, async () => {
    const { bytes } = buildInstance({ transferSyntaxUid, patientName: 'Müller^Änne' })

    const coerced = await coerce(bytes)

    const { dataset } = await readPart10(bufferSource(coerced))
    const before = (await readPart10(bufferSource(bytes))).dataset
    assert.equal(stringOf(dataset, 0x00100020), 'EXT-TEST-1')
    assert.equal(stringOf(dataset, 0x00100021), 'HOSPB')
    const [item] = itemsOf(dataset, 0x04000561)
    assert.ok(item)
    const [modified] = itemsOf(item, 0x04000550)
    assert.ok(modified)
    assert.deepEqual(
      [0x04000562, 0x04000563, 0x04000564, 0x04000565].map(tag => stringOf(item, tag)),
      ['20260203040506.789000+0000', 'HANSE', 'Hospital B', 'COERCE'],
    )
    assert.equal(stringOf(modified, 0x00100020), 'TEST-1')
    assert.equal(findElement(modified, 0x00100021)?.length, 0)
    assert.deepEqual(findElement(dataset, 0x7fe00010)?.value, findElement(before, 0x7fe00010)?.value)
    assert.equal(stringOf(dataset, 0x00100010), 'Müller^Änne')
  })
}

test('earlier original attributes stay, and what is coerced already is left alone', async () => {
  const { bytes } = buildInstance()
  const once = await coerce(bytes)
  const twice = await coerce(once, new Map([[0x00100020, 'PACS-7']]))

  const { dataset } = await readPart10(bufferSource(twice))
  const kept = itemsOf(dataset, 0x04000561).map(item => {
    const [modified] = itemsOf(item, 0x04000550)
    return modified && stringOf(modified, 0x00100020)
  })
  assert.deepEqual(kept, ['TEST-1', 'EXT-TEST-1'])
  assert.deepEqual(await coerce(once), once)
  assert.deepEqual(await coerce(bytes), once)
})
