/** Writes Pixel Data: its frames, coded by the threads, native or as items (PS3.5 §A.4). */
import type { ByteSource } from '../dicom/byte-source.ts'
import type { Encoding } from '../dicom/dataset.ts'
import { itemHeader } from '../dicom/part10-writer.ts'
import type { Hole } from '../dicom/recode.ts'
import type { Tag } from '../dicom/tag.ts'
import type { CodecPool } from './codec-pool.ts'
import type { LossyTask } from './encode-lossy.ts'
import { codedFrames } from './frame-coder.ts'
import { frameBits, type ImageFormat } from './image.ts'
import { datasetSource, type PixelElement, type PixelLayout } from './layout.ts'
import type { SpoolFile } from './spool.ts'
import type { Compression } from './syntaxes.ts'

/** Pixel Data whose compression changes. */
export interface PixelPlan {
  readonly pixels: PixelElement
  readonly hole: Hole
  readonly from: Compression
  readonly to: Compression
  readonly stored: ImageFormat
  readonly native: ImageFormat
  readonly written: ImageFormat
}

/** What frames are read and coded with. */
export interface Reading {
  readonly source: ByteSource
  readonly layout: PixelLayout
  readonly pool: CodecPool
  readonly signal: AbortSignal
  /** Of an image that is compressed with loss. */
  readonly loss?: LossyTask
}

/** Appends the whole of a source. @throws GatewayError STORAGE_FULL, STORAGE_IO */
export async function copyTo(file: SpoolFile, source: ByteSource): Promise<void> {
  for (let at = 0; at < source.sizeBytes; at += copyBytes) {
    await file.append(new Uint8Array(await source.read(at, Math.min(copyBytes, source.sizeBytes - at))))
  }
}

/**
 * Appends the frames of Pixel Data, as its plan wants them.
 *
 * @throws GatewayError as `codedFrames`; STORAGE_FULL, STORAGE_IO
 */
export async function writePixels(file: SpoolFile, plan: PixelPlan, target: Encoding, reading: Reading): Promise<void> {
  const dataset = datasetSource(reading.source, reading.layout)
  try {
    const { from, to, stored, native, written } = plan
    const { loss } = reading
    const task = { from, to, stored, native, written, ...(loss && { loss }) }
    const frames = codedFrames(dataset, plan.pixels, task, reading)
    if (plan.to === 'none') await writeNative(file, frames, plan, target)
    else await writeEncapsulated(file, frames, plan)
  } finally {
    await dataset[Symbol.asyncDispose]?.()
  }
}

async function writeNative(
  file: SpoolFile,
  frames: AsyncIterable<Uint8Array>,
  { hole }: PixelPlan,
  target: Encoding,
): Promise<void> {
  const { length = 0 } = hole
  let left = length
  for await (const frame of frames) {
    if (target.bigEndian && hole.vr === 'OW') Buffer.from(frame.buffer, frame.byteOffset, frame.length).swap16()
    await file.append(frame)
    left -= frame.length
  }
  if (left > 0) await file.append(new Uint8Array(left))
}

/** Items as PS3.5 §A.4 wants them: the Basic Offset Table, one fragment of even length for each frame, the delimiter. */
async function writeEncapsulated(
  file: SpoolFile,
  frames: AsyncIterable<Uint8Array>,
  { pixels, native }: PixelPlan,
): Promise<void> {
  const header = (tag: Tag, length: number): Uint8Array => itemHeader(tag, length, littleEndian)
  // Offsets have 32 bits; the table stays empty where they might not do, as it may.
  const hasTable = (frameBits(native) / 8) * pixels.frames * 1.5 < longestValue
  const table = Buffer.alloc(hasTable ? 4 * pixels.frames : 0)
  await file.append(header(itemTag, table.length))
  const tableOffset = file.sizeBytes
  await file.append(table)
  const start = file.sizeBytes
  let index = 0
  for await (const frame of frames) {
    if (hasTable) table.writeUInt32LE(file.sizeBytes - start, 4 * index++)
    const padding = frame.length % 2
    await file.append(header(itemTag, frame.length + padding))
    await file.append(frame)
    if (padding > 0) await file.append(new Uint8Array(padding))
  }
  await file.append(header(sequenceDelimiter, 0))
  if (hasTable) await file.patch(tableOffset, table)
}

const copyBytes = 1_048_576
const itemTag = 0xfffee000
const sequenceDelimiter = 0xfffee0dd
const longestValue = 0xfffffffe
const littleEndian: Encoding = { explicitVr: true, bigEndian: false }
