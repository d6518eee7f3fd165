import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { readdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { type ByteSource, bufferSource } from '../../gateway/dicom/byte-source.ts'
import { findElement, itemsOf } from '../../gateway/dicom/dataset.ts'
import { readPart10 } from '../../gateway/dicom/part10-reader.ts'
import { elementHeader, type NewElement } from '../../gateway/dicom/part10-writer.ts'
import { explicitVrBigEndian, explicitVrLittleEndian, implicitVrLittleEndian } from '../../gateway/dicom/uid.ts'
import { GatewayError, isGatewayError } from '../../gateway/errors.ts'
import { readPixelLayout } from '../../gateway/pixels/layout.ts'
import { encodeRle } from '../../gateway/pixels/rle.ts'
import { openSpool } from '../../gateway/pixels/spool.ts'
import { canTranscode, preferredSyntaxes } from '../../gateway/pixels/syntaxes.ts'
import { temporaryDir } from '../support/blobs.ts'
import { buildInstance } from '../support/dicom-builder.ts'
import { isSoak, nativePixels, never, testPixels, transcoded } from './support.ts'

const run = promisify(execFile)
const rle = '1.2.840.10008.1.2.5'
const jpegBaseline = '1.2.840.10008.1.2.4.50'
const jpegLs = '1.2.840.10008.1.2.4.80'
const jpeg2000 = '1.2.840.10008.1.2.4.90'
const mpeg4 = '1.2.840.10008.1.2.4.102'

test('a receiver gets an object as it is stored where it can, else without compression, else without loss', () => {
  assert.deepEqual(preferredSyntaxes(jpeg2000, [implicitVrLittleEndian, jpeg2000, explicitVrLittleEndian]), [
    jpeg2000,
    explicitVrLittleEndian,
    implicitVrLittleEndian,
  ])
  assert.deepEqual(preferredSyntaxes(explicitVrLittleEndian, [jpeg2000, jpegBaseline, rle, jpegLs]), [
    jpegLs,
    jpeg2000,
    rle,
  ])
  assert.deepEqual(preferredSyntaxes(jpegBaseline, [jpeg2000, implicitVrLittleEndian]), [implicitVrLittleEndian])
  assert.deepEqual(preferredSyntaxes(mpeg4, [explicitVrLittleEndian]), [])
  assert.deepEqual(preferredSyntaxes(mpeg4, [mpeg4]), [mpeg4])
})

test('nothing is ever compressed with loss, and what may have lost is only decompressed', () => {
  const lossy = ['50', '51', '53', '55', '81', '91', '112', '203'].map(end => `1.2.840.10008.1.2.4.${end}`)
  for (const from of lossy) {
    assert.ok(canTranscode(from, explicitVrLittleEndian), from)
    assert.ok(!canTranscode(from, jpegLs), from)
    assert.ok(!canTranscode(explicitVrLittleEndian, from) || /\.(91|203)$/.test(from), from)
  }
})

test('the frame API gives each frame as it is in Explicit VR Little Endian', async t => {
  const pixels = await testPixels(t)
  const { bytes } = buildInstance({ rows: 40, cols: 30, frames: 5 })
  const samples = await nativePixels(bytes)
  for (const syntax of [explicitVrLittleEndian, explicitVrBigEndian, rle, jpegLs, jpeg2000]) {
    const stored =
      syntax === explicitVrLittleEndian ? bytes : await transcoded(pixels, bytes, explicitVrLittleEndian, syntax)
    const source = bufferSource(stored)
    const layout = await readPixelLayout(source)
    for (const index of [4, 0, 2]) {
      const frame = await pixels.decodeFrame(source, layout, index, never)
      const expected = samples?.subarray(index * 2_400, (index + 1) * 2_400)
      assert.deepEqual(Buffer.from(frame.samples), expected, `frame ${index} of ${syntax}`)
      assert.deepEqual([frame.format.rows, frame.format.columns, frame.format.bitsStored], [40, 30, 12])
    }
    await assert.rejects(pixels.decodeFrame(source, layout, 5, never), error => isGatewayError(error, 'NOT_FOUND'))
  }
})

test('what cannot be compressed without loss is refused as not supported', async t => {
  const pixels = await testPixels(t)
  const wide = { tag: 0x7fe00010, vr: 'OW', value: new Uint8Array(64 * 64 * 4) } as const
  const float = buildInstance({ extra: [{ tag: 0x00280100, value: 32 }, wide] })
  const text = buildInstance({ extra: [{ tag: 0x7fe00010, vr: 'OW', value: new Uint8Array(0) }] })
  const isRefused = (error: unknown): boolean => isGatewayError(error, 'TRANSCODE_UNSUPPORTED')

  await assert.rejects(transcoded(pixels, float.bytes, explicitVrLittleEndian, jpegLs), isRefused)
  await assert.rejects(transcoded(pixels, float.bytes, explicitVrLittleEndian, mpeg4), isRefused)
  await assert.rejects(transcoded(pixels, text.bytes, explicitVrLittleEndian, jpegLs), GatewayError)
})

test('icons are decompressed with the image, and stay so when it is compressed anew', async t => {
  const pixels = await testPixels(t)
  const format = {
    ...{ rows: 2, columns: 3, samplesPerPixel: 1, bitsAllocated: 8, bitsStored: 8, highBit: 7 },
    ...{ isSigned: false, isPlanar: false, photometric: 'MONOCHROME2' },
  }
  const icon = Uint8Array.of(1, 1, 1, 4, 5, 6)
  const image = new Uint8Array(
    encodeRle(Buffer.alloc(64 * 64 * 2, 7), { ...format, rows: 64, columns: 64, bitsAllocated: 16 }),
  )
  const item: NewElement[] = [
    { tag: 0x00280002, value: 1 },
    { tag: 0x00280004, value: 'MONOCHROME2' },
    { tag: 0x00280010, value: 2 },
    { tag: 0x00280011, value: 3 },
    { tag: 0x00280100, value: 8 },
    { tag: 0x00280101, value: 8 },
    { tag: 0x00280102, value: 7 },
    { tag: 0x00280103, value: 0 },
    { tag: 0x7fe00010, vr: 'OB', fragments: [new Uint8Array(0), encodeRle(icon, format)] },
  ]
  const { bytes } = buildInstance({
    transferSyntaxUid: rle,
    extra: [
      { tag: 0x00880200, items: [item] },
      { tag: 0x7fe00010, vr: 'OB', fragments: [new Uint8Array(0), image] },
    ],
  })
  for (const to of [explicitVrLittleEndian, implicitVrLittleEndian, jpegLs]) {
    const { dataset } = await readPart10(bufferSource(await transcoded(pixels, bytes, rle, to)))
    const [inside] = itemsOf(dataset, 0x00880200)

    assert.ok(inside)
    assert.deepEqual(findElement(inside, 0x7fe00010)?.value, Buffer.from(icon), to)
    assert.equal(inside.elements.length, item.length)
    assert.equal(findElement(dataset, 0x7fe00010)?.fragments?.length, to === jpegLs ? 2 : undefined)
  }
})

test('pixels with something beyond their stored bits keep it through compression', async t => {
  const pixels = await testPixels(t)
  const samples = Buffer.alloc(64 * 64 * 2)
  for (let i = 0; i < 64 * 64; i++) samples.writeUInt16LE(((i * 7) & 0x0fff) | (i % 3 === 0 ? 0x1000 : 0), 2 * i)
  const { bytes } = buildInstance({ extra: [{ tag: 0x7fe00010, vr: 'OW', value: samples }] })
  for (const syntax of [rle, jpegLs, jpeg2000, '1.2.840.10008.1.2.4.70', '1.2.840.10008.1.2.4.201']) {
    const there = await transcoded(pixels, bytes, explicitVrLittleEndian, syntax)
    const back = await transcoded(pixels, there, syntax, explicitVrLittleEndian)

    assert.deepEqual(await nativePixels(back), samples, syntax)
  }
})

test('memory stays flat while a large multi-frame object is compressed and decompressed', async t => {
  const pixels = await testPixels(t)
  const frames = isSoak ? 4_096 : 320
  const source = largeSource(frames)
  await (await pixels.transcode(largeSource(8), explicitVrLittleEndian, rle, never)).close()
  const before = process.memoryUsage.rss()
  let peak = before
  const watch = setInterval(() => {
    peak = Math.max(peak, process.memoryUsage.rss())
  }, 20)
  t.after(() => clearInterval(watch))

  const there = await pixels.transcode(source, explicitVrLittleEndian, rle, never)
  const back = await pixels.transcode(there.open(), rle, explicitVrLittleEndian, never)

  assert.equal(back.sizeBytes, source.sizeBytes)
  for (const index of [0, 7, frames - 1]) {
    const offset = source.sizeBytes - frames * frameBytes + index * frameBytes
    assert.deepEqual(await back.open().read(offset, 4_096), await source.read(offset, 4_096))
  }
  await there.close()
  await back.close()
  assert.ok(peak - before < 200_000_000, `memory grew by ${peak - before}`)
})

const frameBytes = 512 * 512 * 2

/** A multi-frame object of 512 x 512 pixels of 16 bits that is made while it is read. */
function largeSource(frames: number): ByteSource {
  const { bytes } = buildInstance({ rows: 512, cols: 512, extra: [{ tag: 0x00280008, value: frames }] })
  const length = frames * frameBytes
  const head = Buffer.concat([
    bytes.subarray(0, bytes.length - frameBytes - 12),
    elementHeader(0x7fe00010, 'OW', length, { explicitVr: true, bigEndian: false }),
  ])
  return {
    sizeBytes: head.length + length,
    read: async (offset, wanted) => {
      const out = Buffer.alloc(Math.max(0, Math.min(wanted, head.length + length - offset)))
      for (let i = 0; i < out.length; i++) {
        const at = offset + i - head.length
        out[i] = at < 0 ? (head[offset + i] ?? 0) : at % 2 === 0 ? (at >> 6) ^ (at >> 19) : 1
      }
      return out
    },
  }
}

test('spooled bytes have no name, and what a killed process left is swept', async t => {
  const dir = await temporaryDir(t)
  await writeFile(join(dir, 'left'), 'bytes')
  const spool = await openSpool({ dir, memoryBytes: 1_000 })
  assert.deepEqual(await readdir(dir), [])
  const file = spool.create()
  t.after(() => file.close())

  for (let i = 0; i < 40; i++) await file.append(Buffer.alloc(100_000, i))
  await file.patch(250_000, Buffer.from('patched'))
  await file.finish()

  assert.deepEqual(await readdir(dir), [])
  assert.equal(file.sizeBytes, 4_000_000)
  assert.equal(file.source().sizeBytes, 4_000_000)
  assert.equal(Buffer.from(await file.source().read(250_000, 7)).toString(), 'patched')
  assert.deepEqual(await file.source().read(3_999_999, 10), Buffer.of(39))
})

test('a transcoding that finds no room fails as such and leaves nothing', async t => {
  let left = 2
  const pixels = await testPixels(t, {
    memoryBytes: 100_000,
    assertRoom: async () => {
      if (--left < 0) throw new GatewayError('STORAGE_FULL', 'free space is below the watermark')
    },
  })
  const source = largeSource(100)

  await assert.rejects(pixels.transcode(source, explicitVrLittleEndian, implicitVrLittleEndian, never), error =>
    isGatewayError(error, 'STORAGE_FULL'),
  )
})

test('a real full disk fails the transcoding as such, and leaves room for the next', async t => {
  const dir = await temporaryDir(t)
  const script = fileURLToPath(new URL('../support/full-spool.ts', import.meta.url))
  const root = process.getuid?.() === 0
  // a mount namespace of its own: the small volume goes away with the process, whatever happens
  const namespace = root ? ['--mount'] : ['--user', '--map-root-user', '--mount']
  try {
    await run('unshare', [...namespace, 'mount', '-t', 'tmpfs', 'tmpfs', dir])
  } catch {
    t.skip('needs mount namespaces (unshare), which this machine does not give')
    return
  }

  const command = `mount -t tmpfs -o size=12m tmpfs "$1" && exec "$2" "$3" "$1"`
  const { stdout } = await run('unshare', [...namespace, 'sh', '-c', command, 'sh', dir, process.execPath, script])

  assert.deepEqual(JSON.parse(stdout), { large: 'STORAGE_FULL', small: 'transcoded', left: [] })
})
