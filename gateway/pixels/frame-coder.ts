/** The frames of Pixel Data: read as they are stored, and coded in threads, a few ahead of the one that is wanted. */
import type { ByteSource } from '../dicom/byte-source.ts'
import type { Vr } from '../dicom/vr.ts'
import { GatewayError } from '../errors.ts'
import type { FrameTask } from './codec.ts'
import type { CodecPool } from './codec-pool.ts'
import { checkCodestream, longestHeaderBytes, readCodestream } from './codestream.ts'
import { nativeFormat } from './formats.ts'
import { framesOf, readFrame } from './frames.ts'
import { frameBits, frameBytes, type ImageFormat } from './image.ts'
import { formatOf, type PixelElement } from './layout.ts'
import type { Compression } from './syntaxes.ts'

/** Larger frames are not coded: a codec needs several times as much memory. */
const maxFrameBytes = 268_435_456

/** Reads frames as they are stored. */
export interface FrameReader {
  /** The bytes of a frame in a buffer of their own; native ones little endian. Reads must not overlap. */
  read(index: number): Promise<Uint8Array<ArrayBuffer>>
  /** The same, but maybe in the source's memory: valid until its next read, or until it is closed. */
  peek(index: number): Promise<Uint8Array>
}

/**
 * Opens the frames of Pixel Data.
 *
 * @param dataset  the bytes that the offsets of the element count in
 * @throws GatewayError DICOM_UNREADABLE, DICOM_LIMIT, TRANSCODE_UNSUPPORTED for frames that do not begin at a byte
 */
export async function openFrames(dataset: ByteSource, pixels: PixelElement): Promise<FrameReader> {
  const format = formatOf(pixels)
  const bytes = frameBytes(format)
  if (bytes > maxFrameBytes) {
    throw new GatewayError('DICOM_LIMIT', 'a frame is larger than allowed', { context: { bytes, maxFrameBytes } })
  }
  if (pixels.fragments !== undefined) {
    const frames = await framesOf(dataset, pixels)
    const read = (index: number) => readFrame(dataset, frames[index] ?? [], maxFrameBytes)
    return { read, peek: read }
  }
  checkFrames(pixels, format)
  const { element, frames } = pixels
  const unitBytes = element.encoding.bigEndian ? swappedUnit(element.vr, format) : 1
  if (frames > 1 && (frameBits(format) % 8 !== 0 || bytes % unitBytes !== 0)) {
    throw new GatewayError('TRANSCODE_UNSUPPORTED', 'frames that do not begin at a byte are not compressed')
  }
  const peek = async (index: number): Promise<Uint8Array> => {
    const length = Math.ceil(bytes / unitBytes) * unitBytes
    const frame = await dataset.read(element.valueOffset + index * bytes, length)
    if (frame.length < length)
      throw new GatewayError('DICOM_UNREADABLE', 'cannot read DICOM: ends inside the pixel data')
    return frame
  }
  const read = async (index: number): Promise<Uint8Array<ArrayBuffer>> => {
    const frame = new Uint8Array(await peek(index))
    if (unitBytes === 2) Buffer.from(frame.buffer).swap16()
    else if (unitBytes === 4) Buffer.from(frame.buffer).swap32()
    else if (unitBytes === 8) Buffer.from(frame.buffer).swap64()
    return frame.length === bytes ? frame : frame.slice(0, bytes)
  }
  return { read, peek: unitBytes === 1 ? peek : read }
}

/**
 * The bytes that change their order together in big endian pixel data. OW has words of 16 bits (PS3.5 §6.2), 8-bit
 * samples included; wider samples are swapped as a whole by the writers that are known.
 */
function swappedUnit(vr: Vr, { bitsAllocated }: ImageFormat): number {
  if (bitsAllocated > 16) return bitsAllocated / 8
  return vr === 'OW' ? 2 : 1
}

/**
 * The format of Pixel Data as stored, and as it is when decompressed, by the header of its first frame.
 *
 * @throws GatewayError DICOM_UNREADABLE, PIXELS_UNREADABLE
 */
export async function decodedFormat(
  dataset: ByteSource,
  pixels: PixelElement,
  from: Compression,
): Promise<{ stored: ImageFormat; native: ImageFormat }> {
  const stored = formatOf(pixels)
  checkFrames(pixels, stored)
  const stream = readCodestream(await headOf(dataset, pixels), from)
  if (stream !== undefined) checkCodestream(stream, stored)
  return { stored, native: nativeFormat(stored, from, stream) }
}

/** Fails where there cannot be as many frames as are claimed. @throws GatewayError DICOM_UNREADABLE */
function checkFrames({ fragments, element, frames }: PixelElement, format: ImageFormat): void {
  const isEnough = fragments ? fragments.length >= frames : frameBits(format) * frames <= element.length * 8
  if (!isEnough) throw new GatewayError('DICOM_UNREADABLE', 'expected as much pixel data as its frames need')
}

/** The first bytes of the first frame. */
async function headOf(dataset: ByteSource, { fragments = [] }: PixelElement): Promise<Uint8Array> {
  const parts: Uint8Array[] = []
  let left = longestHeaderBytes
  for (const { offset, length } of fragments) {
    parts.push(await dataset.read(offset, Math.min(length, left)))
    left -= length
    if (left <= 0) break
  }
  return Buffer.concat(parts)
}

/**
 * The frames of Pixel Data in order, each coded as `task` says. As many are under way as the pool has threads.
 *
 * @throws GatewayError while iterating, as `CodecPool.run` and `openFrames`
 */
export async function* codedFrames(
  dataset: ByteSource,
  pixels: PixelElement,
  task: Omit<FrameTask, 'bytes' | 'object'>,
  { pool, signal }: { readonly pool: CodecPool; readonly signal: AbortSignal },
): AsyncGenerator<Uint8Array> {
  const reader = await openFrames(dataset, pixels)
  const object = pool.nextObject()
  using ending = endingSignal(signal)
  let reading: Promise<unknown> = Promise.resolve()
  const prepare = (index: number) => async (): Promise<FrameTask> => {
    const bytes = reading.then(() => reader.read(index))
    reading = bytes.catch(() => {})
    return { ...task, object, bytes: await bytes }
  }
  const underWay: Promise<Uint8Array>[] = []
  let next = 0
  try {
    for (;;) {
      for (; next < pixels.frames && underWay.length < pool.threads; next++) {
        const frame = pool.run(prepare(next), ending.signal)
        frame.catch(() => {})
        underWay.push(frame)
      }
      const first = underWay.shift()
      if (first === undefined) return
      yield await first
    }
  } finally {
    ending.abort()
    await Promise.allSettled(underWay)
    await reading
  }
}

/** A signal of our own that also ends with `signal`, and leaves no listener behind. */
function endingSignal(signal: AbortSignal): { signal: AbortSignal; abort(): void } & Disposable {
  const controller = new AbortController()
  const abort = (): void => controller.abort(signal.reason)
  if (signal.aborted) abort()
  else signal.addEventListener('abort', abort, { once: true })
  return {
    signal: controller.signal,
    abort: () => controller.abort(new GatewayError('UNAVAILABLE', 'no longer wanted')),
    [Symbol.dispose]: () => signal.removeEventListener('abort', abort),
  }
}
