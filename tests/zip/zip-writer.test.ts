import assert from 'node:assert/strict'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { crc32, deflateRawSync } from 'node:zlib'
import { type Entry, fromRandomAccessReader, RandomAccessReader } from 'yauzl'
import { ZipWriter } from '../../gateway/zip/zip-writer.ts'
import { temporaryDir } from '../support/blobs.ts'
import { missing, run } from '../support/dcmtk.ts'
import { unzip } from '../support/unzip.ts'

const at = new Date(2026, 0, 2, 10, 15, 30)

test('files that are stored, deflated, or deflated while they are written are read back', {
  skip: missing('unzip'),
}, async t => {
  const text = Buffer.from('TEST '.repeat(1000))
  const deflated = deflateRawSync(text)
  const writer = new ZipWriter(at)
  const sizes = { sizeBytes: text.length, crc32: crc32(text) }
  const streamed = writer.deflating('c/streamed', text.length)
  const zip = Buffer.concat([
    streamed.header,
    deflated,
    streamed.ending(crc32(text), deflated.length),
    writer.entry({ name: 'a/stored', method: 'stored', compressedBytes: text.length, ...sizes }),
    text,
    writer.entry({ name: 'b/deflated', method: 'deflated', compressedBytes: deflated.length, ...sizes }),
    deflated,
    ...writer.end(),
  ])

  const files = await unzip(zip)
  const path = join(await temporaryDir(t), 'a.zip')
  await writeFile(path, zip)
  const checked = await run(t, 'unzip', ['-t', path])

  assert.deepEqual(
    files.map(({ name, method }) => [name, method]),
    [
      ['c/streamed', 8],
      ['a/stored', 0],
      ['b/deflated', 8],
    ],
  )
  for (const { bytes } of files) assert.deepEqual(bytes, text)
  assert.equal(checked.code, 0, checked.output)
})

test('more than 65,535 files and files beyond 4 GiB are told by ZIP64 records', async () => {
  const large = 6 * 1024 ** 3
  const writer = new ZipWriter(at)
  const first = writer.entry({ name: 'large', method: 'stored', sizeBytes: large, compressedBytes: large, crc32: 1 })
  let offset = first.length + large
  for (let i = 0; i < 70_000; i++) {
    offset += writer.entry({ name: `f${i}`, method: 'stored', sizeBytes: 0, compressedBytes: 0, crc32: 0 }).length
  }
  const end = Buffer.concat([...writer.end()])

  const entries = await directoryOf(end, offset)

  assert.equal(entries.length, 70_001)
  assert.equal(entries[0]?.uncompressedSize, large)
  assert.equal(entries[1]?.relativeOffsetOfLocalHeader, first.length + large)
  assert.equal(entries.at(-1)?.fileName, 'f69999')
  assert.equal(entries[0]?.getLastModDate({ timezone: 'local' }).getTime(), at.getTime())
})

/** The central directory of a file of which only the end exists. */
function directoryOf(end: Buffer, offset: number): Promise<Entry[]> {
  class EndOnly extends RandomAccessReader {
    override read(
      target: Buffer,
      at: number,
      length: number,
      position: number,
      callback: (error: Error | null) => void,
    ): void {
      end.copy(target, at, position - offset, position - offset + length)
      setImmediate(callback, null)
    }
  }
  return new Promise((resolve, reject) => {
    fromRandomAccessReader(new EndOnly(), offset + end.length, {}, (error, opened) => {
      if (error) return reject(error)
      const found: Entry[] = []
      opened.on('entry', (entry: Entry) => found.push(entry))
      opened.once('end', () => resolve(found))
      opened.once('error', reject)
    })
  })
}
