/** What the tests of gateway/pixels share. */
import { createHash } from 'node:crypto'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { type ByteSource, bufferSource } from '../../gateway/dicom/byte-source.ts'
import type { Dataset, Element } from '../../gateway/dicom/dataset.ts'
import { readPart10 } from '../../gateway/dicom/part10-reader.ts'
import { formatTag, isGroupLength } from '../../gateway/dicom/tag.ts'
import { vrFacts } from '../../gateway/dicom/vr.ts'
import { readPixelLayout } from '../../gateway/pixels/layout.ts'
import { openPixels, type Pixels, type PixelsOptions } from '../../gateway/pixels/pixels.ts'
import { onEnd } from '../support/cleanup.ts'
import type { CorpusFile } from '../support/corpus.ts'

/** True for the long runs. */
export const isSoak = process.env['HANSE_SOAK'] === '1'

/** Pixels with a spool of their own, closed after the test. */
export async function testPixels(t: TestContext, options: Partial<PixelsOptions> = {}): Promise<Pixels> {
  const dir = await mkdtemp(join(tmpdir(), 'hanse-pixels-'))
  onEnd(t, () => rm(dir, { recursive: true, force: true }))
  const pixels = await openPixels({ dir: join(dir, 'spool'), threads: 2, frameDeadlineMs: 120_000, ...options })
  onEnd(t, () => pixels.close())
  return pixels
}

/** A signal that never aborts. */
export const never = new AbortController().signal

/** The whole of a source. */
export async function allOf(source: ByteSource): Promise<Buffer> {
  return Buffer.from(await source.read(0, source.sizeBytes))
}

/** Transcodes bytes to bytes. */
export async function transcoded(pixels: Pixels, bytes: Uint8Array, from: string, to: string): Promise<Buffer> {
  const result = await pixels.transcode(bufferSource(bytes), from, to, never)
  try {
    return await allOf(result.open())
  } finally {
    await result.close()
  }
}

/** The native pixel data of a little endian file, without padding; undefined when it has none. */
export async function nativePixels(bytes: Uint8Array): Promise<Buffer | undefined> {
  const { pixels } = await readPixelLayout(bufferSource(bytes))
  if (pixels?.format === undefined) return undefined
  const { rows, columns, samplesPerPixel, bitsAllocated } = pixels.format
  const { valueOffset, length } = pixels.element
  const wanted = Math.ceil((rows * columns * samplesPerPixel * bitsAllocated * pixels.frames) / 8)
  return Buffer.from(bytes.subarray(valueOffset, valueOffset + Math.min(wanted, length)))
}

/** The digest that the manifest would give these samples: of the type it names, one byte for a sample of one bit. */
export function manifestDigest(samples: Buffer, { pixelSha256, rows, cols, frames }: CorpusFile): string {
  const type = pixelSha256.split(':')[1] ?? ''
  const count = Number(rows) * Number(cols) * Number(frames || 1)
  const bytes = samples.length < count ? unpacked(samples, count) : Buffer.from(samples)
  if (type === '>u2' || type === '>i2') bytes.swap16()
  if (type === '>u4') bytes.swap32()
  return `${createHash('sha256').update(bytes).digest('hex').slice(0, 16)}:${type}`
}

function unpacked(bits: Buffer, count: number): Buffer {
  return Buffer.from(Uint8Array.from({ length: count }, (_, i) => ((bits[i >> 3] ?? 0) >> (i & 7)) & 1))
}

/**
 * Every element of a file but group 2 and group lengths: paths of tags and little endian values, whatever the encoding
 * and the VRs.
 *
 * @param isLeftOut  elements to leave out, with all that is in them
 */
export async function flatElements(
  bytes: Uint8Array,
  isLeftOut: (element: Element) => boolean = () => false,
): Promise<string[]> {
  const unlimited = { maxValueBytes: 0xffffffff, maxTotalBytes: 0xffffffff }
  const { dataset } = await readPart10(bufferSource(bytes), unlimited)
  return [...flat(dataset, '', isLeftOut)]
}

function* flat({ elements }: Dataset, path: string, isLeftOut: (element: Element) => boolean): Generator<string> {
  for (const element of elements) {
    const { tag, items, value } = element
    if (isGroupLength(tag) || isLeftOut(element)) continue
    const here = `${path}/${formatTag(tag)}`
    yield items !== undefined ? `${here} ${items.length} items` : `${here} ${littleEndian(element, value)}`
    for (const [index, item] of (items ?? []).entries()) yield* flat(item, `${here}/${index}`, isLeftOut)
  }
}

function littleEndian({ vr, encoding }: Element, value: Uint8Array = new Uint8Array(0)): string {
  const bytes = Buffer.from(value)
  const { unitBytes } = vrFacts(vr)
  if (encoding.bigEndian && unitBytes === 2) bytes.swap16()
  if (encoding.bigEndian && unitBytes === 4) bytes.swap32()
  if (encoding.bigEndian && unitBytes === 8) bytes.swap64()
  return bytes.length > 64 ? createHash('sha256').update(bytes).digest('hex') : bytes.toString('latin1')
}
