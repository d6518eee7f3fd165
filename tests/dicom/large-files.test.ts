import assert from 'node:assert/strict'
import { mkdtemp, open, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { type ByteSource, fileSource } from '../../gateway/dicom/byte-source.ts'
import { findElement } from '../../gateway/dicom/dataset.ts'
import { readInstanceHeader } from '../../gateway/dicom/instance-header.ts'
import { readPart10 } from '../../gateway/dicom/part10-reader.ts'
import { spliceEdits } from '../../gateway/dicom/part10-splice.ts'
import { elementHeader } from '../../gateway/dicom/part10-writer.ts'
import { buildInstance } from '../support/dicom-builder.ts'

/** Beyond what 32 bits with a sign can count. */
const manyBytes = 3_000_000_000

/** A multi-frame file with sparse pixels: much to read, next to nothing on disk. */
async function largeFile(t: TestContext, pixelBytes: number): Promise<{ source: ByteSource; sopInstanceUid: string }> {
  const folder = await mkdtemp(join(tmpdir(), 'hanse-large-'))
  const file = await open(join(folder, 'large.dcm'), 'w+')
  t.after(async () => {
    await file.close()
    await rm(folder, { recursive: true })
  })
  const { bytes, sopInstanceUid } = buildInstance({ rows: 1, cols: 1 })
  // Without the small pixel data of two bytes, which is last.
  const head = bytes.subarray(0, bytes.length - 14)
  await file.write(
    Buffer.concat([head, elementHeader(0x7fe00010, 'OW', pixelBytes, { explicitVr: true, bigEndian: false })]),
  )
  const sizeBytes = head.length + 12 + pixelBytes
  await file.truncate(sizeBytes)
  return { source: fileSource(file, sizeBytes), sopInstanceUid }
}

test('a header costs one read, however large the file', async t => {
  const { source, sopInstanceUid } = await largeFile(t, manyBytes)
  let readBytes = 0
  const counting: ByteSource = {
    sizeBytes: source.sizeBytes,
    read(offset, length) {
      readBytes += length
      return source.read(offset, length)
    },
  }

  const header = await readInstanceHeader(counting)

  assert.equal(header.sopInstanceUid, sopInstanceUid)
  assert.ok(readBytes <= 65_536, `${readBytes} bytes`)
})

test('a full read leaves the pixels in the file', async t => {
  const { source } = await largeFile(t, manyBytes)

  const { dataset } = await readPart10(source)

  assert.equal(findElement(dataset, 0x7fe00010)?.length, manyBytes)
  assert.equal(findElement(dataset, 0x7fe00010)?.value, undefined)
})

test('memory stays flat while a large file is edited', async t => {
  const { source } = await largeFile(t, process.env['HANSE_SOAK'] ? manyBytes : manyBytes / 6)
  const before = process.memoryUsage().rss
  let peak = before
  let length = 0

  for await (const chunk of spliceEdits(source, [{ set: { tag: 0x00100020, value: 'ANOTHER-PATIENT' } }])) {
    length += chunk.length
    peak = Math.max(peak, process.memoryUsage.rss())
  }

  assert.equal(length, source.sizeBytes + 10)
  assert.ok(peak - before < 150_000_000, `memory grew by ${peak - before}`)
})
