/**
 * Writes an object in another transfer syntax: its data set is encoded anew, its frames are decompressed or compressed
 * in threads, one after the other. What comes out is spooled, with the lengths and offsets that are known at the end.
 */
import { type ByteSource, bufferSource } from '../dicom/byte-source.ts'
import type { Encoding } from '../dicom/dataset.ts'
import { spliceEdits } from '../dicom/part10-splice.ts'
import { fileMeta, implementationClassUid, implementationVersionName, itemHeader } from '../dicom/part10-writer.ts'
import { type Change, type Hole, recode, topLevel } from '../dicom/recode.ts'
import type { Tag } from '../dicom/tag.ts'
import { transferSyntax } from '../dicom/uid.ts'
import { GatewayError, isGatewayError } from '../errors.ts'
import type { CodecPool } from './codec-pool.ts'
import { readDisplay } from './display.ts'
import type { LossyTask } from './encode-lossy.ts'
import { formatChanges, writtenFormat } from './formats.ts'
import { codedFrames, decodedFormat } from './frame-coder.ts'
import { frameBits, type ImageFormat } from './image.ts'
import { datasetSource, type PixelElement, type PixelLayout, readPixelLayout } from './layout.ts'
import { type Derived, lossyChanges, lossyFormat, nearestSamples } from './lossy.ts'
import type { Spool, SpoolFile } from './spool.ts'
import { type Compression, canCompress, canTranscode, pixelSyntax } from './syntaxes.ts'

/** An object in its new transfer syntax. It must be closed. */
export interface Transcoded {
  readonly transferSyntaxUid: string
  /** The size of the Part 10 file. */
  readonly sizeBytes: number
  /** The Part 10 file; readable until `close`. */
  open(): ByteSource
  close(): Promise<void>
}

/** What transcoding works with. */
export interface TranscodeTools {
  readonly pool: CodecPool
  readonly spool: Spool
}

/** A compression with loss. */
export interface Compressing extends Derived {
  /** Of JPEG, 1 to 100. */
  readonly quality: number
}

/**
 * Transcodes a Part 10 file, without loss of anything that is left in it, unless `compressing` wants it with loss.
 *
 * @param from  the transfer syntax of the source as the store knows it
 * @throws GatewayError TRANSCODE_UNSUPPORTED, PIXELS_UNREADABLE, DICOM_UNREADABLE, DICOM_LIMIT, STORAGE_FULL,
 *   STORAGE_IO, UNAVAILABLE; the reason of `signal`
 */
export async function transcode(
  source: ByteSource,
  how: {
    readonly from: string
    readonly to: string
    readonly signal: AbortSignal
    readonly compressing?: Compressing
  },
  tools: TranscodeTools,
): Promise<Transcoded> {
  const { from, to, signal, compressing } = how
  const target = transferSyntax(to)
  const isPossible = compressing ? canCompress(from, to) : canTranscode(from, to)
  if (!isPossible || target === undefined) throw unsupported('no codec between these transfer syntaxes')
  const layout = await readPixelLayout(source)
  const written = compressing ? (native: ImageFormat) => lossyFormat(native, to) : undefined
  const plans = await planPixels(source, layout, { from: compressionOf(from), to: compressionOf(to), target, written })
  const reading = { source, layout, signal, pool: tools.pool }
  const changes = changesOf(plans)
  const file = tools.spool.create()
  // How far it was compressed stands before the frames: they are made first.
  const frames = compressing && (await compressed(plans, target, { ...reading, ...compressing, to }, tools.spool))
  try {
    for (const [tag, change] of frames?.changes ?? []) changes.get(topLevel)?.set(tag, change)
    await file.append(await metaOf(source, layout, { to, sopInstanceUid: compressing?.sopInstanceUid }))
    for await (const part of recode(
      () => datasetSource(source, layout),
      { offset: layout.isDeflated ? 0 : layout.datasetOffset, encoding: layout.encoding },
      { to: target, changes },
    )) {
      signal.throwIfAborted()
      if (part instanceof Uint8Array) await file.append(part)
      else {
        const plan = plans.find(({ hole }) => hole === part)
        if (plan === undefined) continue
        if (plan === frames?.plan) await copyTo(file, frames.file.source())
        else await writePixels(file, plan, target, reading)
      }
    }
    await file.finish()
  } catch (error) {
    await file.close()
    throw error
  } finally {
    await frames?.file.close()
  }
  return {
    transferSyntaxUid: to,
    sizeBytes: file.sizeBytes,
    open: () => file.source(),
    close: () => file.close(),
  }
}

// ---- what to do with pixels -------------------------------------------------------------------------

/** Pixel Data whose compression changes. */
interface PixelPlan {
  readonly pixels: PixelElement
  readonly hole: Hole
  readonly from: Compression
  readonly to: Compression
  readonly stored: ImageFormat
  readonly native: ImageFormat
  readonly written: ImageFormat
}

function compressionOf(uid: string): Compression {
  const known = pixelSyntax(uid)
  if (known === undefined) throw unsupported('no codec for this transfer syntax')
  return known.compression
}

interface Wanted {
  readonly from: Compression
  readonly to: Compression
  readonly target: Encoding
  /** The format in which the image is written; default: the one that loses nothing. */
  readonly written?: ((native: ImageFormat) => ImageFormat) | undefined
}

async function planPixels(
  source: ByteSource,
  layout: PixelLayout,
  { from, to, target, written = native => writtenFormat(native, to) }: Wanted,
): Promise<PixelPlan[]> {
  const { pixels, nested } = layout
  if (from === 'none' && (pixels?.fragments !== undefined || nested.length > 0)) {
    throw new GatewayError('DICOM_UNREADABLE', 'expected native pixel data in this transfer syntax, found fragments')
  }
  if (to !== 'none' && pixels === undefined) throw unsupported('the object has no pixel data to compress')
  // Icons may be native where the image is not (PS3.5 §A.4), but not the other way round.
  const plans = await Promise.all(
    nested.map(icon => planElement(source, icon, { from, to: 'none', written: native => native })),
  )
  if (pixels === undefined) return plans
  const isWide = (pixels.format?.bitsAllocated ?? 0) > 16
  if (isWide && target.bigEndian) throw unsupported('pixels of more than 16 bits are ambiguous in big endian')
  const stored = pixels.fragments === undefined ? 'none' : from
  const isJustCopied = stored === 'none' && to === 'none' && !(isWide && pixels.element.encoding.bigEndian)
  return isJustCopied ? plans : [...plans, await planElement(source, pixels, { from: stored, to, written })]
}

async function planElement(
  source: ByteSource,
  pixels: PixelElement,
  {
    from,
    to,
    written,
  }: Pick<Required<Wanted>, 'from' | 'to'> & { readonly written: (native: ImageFormat) => ImageFormat },
): Promise<PixelPlan> {
  const { stored, native } = await decodedFormat(source, pixels, from)
  const format = written(native)
  return { pixels, hole: holeOf(pixels, format, to), from, to, stored, native, written: format }
}

function holeOf({ frames }: PixelElement, written: ImageFormat, to: Compression): Hole {
  if (to !== 'none') return { tag: pixelData, vr: 'OB', length: undefined }
  const bits = frameBits(written) * frames
  if (frames > 1 && frameBits(written) % 8 !== 0) throw unsupported('frames that do not begin at a byte')
  const length = Math.ceil(bits / 16) * 2
  if (length > longestValue) throw unsupported('native pixel data would be longer than a value can be')
  return { tag: pixelData, vr: written.bitsAllocated > 8 ? 'OW' : 'OB', length }
}

function changesOf(plans: readonly PixelPlan[]): Map<number, Map<Tag, Change>> {
  return new Map(
    plans.map(({ pixels, hole, stored, written }) => {
      const changes = formatChanges(stored, written)
      changes.set(pixelData, hole)
      for (const tag of offsetTables) changes.set(tag, 'remove')
      return [pixels.item, changes]
    }),
  )
}

// ---- writing ----------------------------------------------------------------------------------------

/** The beginning of the file: as it was, with the new transfer syntax, written by us (PS3.10 §7.1). */
async function metaOf(
  source: ByteSource,
  layout: PixelLayout,
  {
    to: transferSyntaxUid,
    sopInstanceUid: newUid,
  }: { readonly to: string; readonly sopInstanceUid: string | undefined },
): Promise<Uint8Array> {
  const { sopClassUid = '' } = layout
  const sopInstanceUid = newUid ?? layout.sopInstanceUid ?? ''
  if (!layout.hasMeta) return fileMeta({ sopClassUid, sopInstanceUid, transferSyntaxUid })
  const head = bufferSource(await source.read(0, layout.datasetOffset))
  const chunks: Uint8Array[] = []
  for await (const chunk of spliceEdits(head, [
    ...(newUid === undefined ? [] : [{ set: { tag: 0x00020003, value: newUid } }]),
    { set: { tag: 0x00020010, value: transferSyntaxUid } },
    { set: { tag: 0x00020012, value: implementationClassUid } },
    { set: { tag: 0x00020013, value: implementationVersionName } },
  ])) {
    chunks.push(chunk)
  }
  return Buffer.concat(chunks)
}

interface Reading {
  readonly source: ByteSource
  readonly layout: PixelLayout
  readonly pool: CodecPool
  readonly signal: AbortSignal
  /** Of an image that is compressed with loss. */
  readonly loss?: LossyTask
}

/** The frames of an image, compressed with loss, and what the object says of that. The file must be closed. */
async function compressed(
  plans: readonly PixelPlan[],
  target: Encoding,
  reading: Reading & Compressing & { readonly to: string },
  spool: Spool,
): Promise<{ readonly plan: PixelPlan; readonly file: SpoolFile; readonly changes: ReadonlyMap<Tag, Change> }> {
  const { source, quality } = reading
  const plan = plans.find(({ pixels }) => pixels.item === topLevel)
  if (plan === undefined) throw unsupported('the object has no pixel data to compress')
  const palette = plan.native.photometric === 'PALETTE COLOR' ? await paletteOf(source) : undefined
  const file = spool.create()
  try {
    await writePixels(file, plan, target, { ...reading, loss: { quality, near: nearestSamples, palette } })
    await file.finish()
    // Of what the samples hold, without the rest of their cells.
    const { bitsStored, bitsAllocated } = plan.native
    const sampleBytes = ((frameBits(plan.native) / 8) * plan.pixels.frames * bitsStored) / bitsAllocated
    const ratio = sampleBytes / file.sizeBytes
    return { plan, file, changes: await lossyChanges(source, plan, { ...reading, ratio }) }
  } catch (error) {
    await file.close()
    throw error
  }
}

async function paletteOf(source: ByteSource): Promise<LossyTask['palette']> {
  try {
    return (await readDisplay(source, 0)).palette
  } catch (error) {
    if (isGatewayError(error, 'PICTURE_UNSUPPORTED')) throw unsupported(error.message)
    throw error
  }
}

async function copyTo(file: SpoolFile, source: ByteSource): Promise<void> {
  for (let at = 0; at < source.sizeBytes; at += copyBytes) {
    await file.append(new Uint8Array(await source.read(at, Math.min(copyBytes, source.sizeBytes - at))))
  }
}

async function writePixels(file: SpoolFile, plan: PixelPlan, target: Encoding, reading: Reading): Promise<void> {
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

const pixelData = 0x7fe00010
const copyBytes = 1_048_576
/** Extended Offset Table and its lengths: they hold for the old fragments only. */
const offsetTables = [0x7fe00001, 0x7fe00002]
const itemTag = 0xfffee000
const sequenceDelimiter = 0xfffee0dd
const longestValue = 0xfffffffe
const littleEndian: Encoding = { explicitVr: true, bigEndian: false }

function unsupported(why: string): GatewayError {
  return new GatewayError('TRANSCODE_UNSUPPORTED', `cannot transcode: ${why}`)
}
