/** One frame from one compression to another. Synchronous: it runs in a worker thread. */
import { inflateRawSync } from 'node:zlib'
import { GatewayError } from '../errors.ts'
import { type Codestream, checkCodestream, isYcc, readCodestream, unreadable } from './codestream.ts'
import { encodeWithLoss, type LossyTask } from './encode-lossy.ts'
import { frameBytes, type ImageFormat, rearranged } from './image.ts'
import { decodeJpegLs } from './jpeg-ls.ts'
import { jpegXlPrecision } from './jpeg-xl.ts'
import type { CodecName, NativeCodecs } from './native-codecs.ts'
import type { PictureTask } from './picture.ts'
import { decodeRle, encodeRle } from './rle.ts'
import { bytesOf, type Cells, cellsOf, fitBits, inCells, narrowed, yccToRgb } from './samples.ts'
import type { Compression } from './syntaxes.ts'

/** What to do with a frame. */
export interface FrameTask {
  readonly bytes: Uint8Array
  /** A number for the object it is of: frames of different objects do not share the memory of a codec. */
  readonly object: number
  readonly from: Compression
  readonly to: Compression
  /** As the data set describes the frame. */
  readonly stored: ImageFormat
  /** As the frame is when it is not compressed; see `nativeFormat`. */
  readonly native: ImageFormat
  /** As the data set to come describes the frame. */
  readonly written: ImageFormat
  /** To compress with loss. */
  readonly loss?: LossyTask
  /** To have a picture of the frame instead of the frame. */
  readonly picture?: PictureTask
}

/**
 * The frame in its new compression.
 *
 * @param codecs  started when they are needed
 * @throws GatewayError PIXELS_UNREADABLE, TRANSCODE_UNSUPPORTED; Error, after which the codecs are unusable
 */
export function recodeFrame(task: FrameTask, codecs: () => NativeCodecs): Uint8Array {
  const { loss } = task
  if (loss !== undefined) return encodeWithLoss(nativeFrame(task, codecs), task, loss, codecs())
  return encode(nativeFrame(task, codecs), task, codecs)
}

/**
 * The frame without compression.
 *
 * @throws as `recodeFrame`
 */
export function nativeFrame(task: FrameTask, codecs: () => NativeCodecs): Uint8Array {
  const native = decode(task, codecs)
  if (native.length !== frameBytes(task.native)) {
    throw unreadable('expected as many samples as its rows and columns')
  }
  return native
}

// ---- decoding ---------------------------------------------------------------------------------------

function decode(task: FrameTask, codecs: () => NativeCodecs): Uint8Array {
  const { bytes, from, native } = task
  switch (from) {
    case 'none':
    case 'raw':
      return bytes.subarray(0, frameBytes(native))
    case 'rle':
      return decodeRle(bytes, native)
    case 'deflate':
      return inflated(bytes, frameBytes(native))
    case 'jpeg-xl':
      return decodeJpegXl(bytes, native, codecs)
    default: {
      const stream = readCodestream(bytes, from)
      if (stream === undefined) throw unsupported()
      checkCodestream(stream, native)
      return decodeStream(task, from, stream, codecs)
    }
  }
}

const codecNames = {
  jpeg: 'Jpeg',
  'jpeg-ls': 'JpegLs',
  'jpeg-2000': 'Jpeg2000',
  htj2k: 'HtJpeg2000',
} as const satisfies Partial<Record<Compression, CodecName>>

function decodeStream(
  { bytes, stored, native }: FrameTask,
  from: keyof typeof codecNames,
  stream: Codestream,
  codecs: () => NativeCodecs,
): Uint8Array {
  const { precision, isSigned, components } = stream
  if (from === 'jpeg-ls' && components === 1) {
    return inCells(decodeJpegLs(bytes, stream), isSigned, native.bitsAllocated)
  }
  if (from === 'jpeg-2000' && components > 1 && (components !== 3 || precision > 8)) throw unsupported()
  // OpenJPH's cells of 8 bits have no room for a sign.
  const bits = precision <= 8 && !(from === 'htj2k' && isSigned) ? 8 : 16
  const { rows, columns, samplesPerPixel } = native
  const samples = { rows, columns, samplesPerPixel, bitsAllocated: bits, bitsStored: precision, isSigned, isRgb: false }
  const decoded = codecs().decode(codecNames[from], bytes, samples)
  if (decoded.length !== (rows * columns * samplesPerPixel * bits) / 8) throw unreadable('expected all of its samples')
  const byPixel = rearranged(decoded, { ...native, bitsAllocated: bits, isPlanar: stream.isPlanar }, false)
  const cells = cellsOf(byPixel, bits)
  if (isYcc(stream, stored)) yccToRgb(cells, precision)
  return inCells(cells, isSigned, native.bitsAllocated)
}

/** Samples that fill their cells: libjxl would spread others over all of the cell. */
function decodeJpegXl(bytes: Uint8Array, native: ImageFormat, codecs: () => NativeCodecs): Uint8Array {
  if (native.isSigned || jpegXlPrecision(bytes) !== native.bitsAllocated) throw unsupported()
  return codecs().decode('JpegXl', bytes, { ...native, isRgb: false })
}

function inflated(bytes: Uint8Array, maxOutputLength: number): Uint8Array {
  try {
    return inflateRawSync(bytes, { maxOutputLength: maxOutputLength + 1 }).subarray(0, maxOutputLength)
  } catch {
    throw unreadable('it does not inflate')
  }
}

// ---- encoding ---------------------------------------------------------------------------------------

function encode(bytes: Uint8Array, { to, native, written }: FrameTask, codecs: () => NativeCodecs): Uint8Array {
  const arranged = rearranged(bytes, native, written.isPlanar)
  switch (to) {
    case 'none':
      return bytes
    case 'rle':
      return encodeRle(arranged, written)
    case 'jpeg':
    case 'jpeg-ls':
    case 'jpeg-2000':
    case 'htj2k':
      return encodeStream(cellsOf(arranged, native.bitsAllocated), to, native, codecs())
    default:
      throw unsupported()
  }
}

function encodeStream(
  cells: Cells,
  to: keyof typeof codecNames,
  native: ImageFormat,
  codecs: NativeCodecs,
): Uint8Array {
  const { rows, columns, samplesPerPixel, isSigned, photometric } = native
  const precision = precisionFor(cells, to, native)
  const isSignedStream = isSigned && (to === 'jpeg-2000' || to === 'htj2k')
  const bytes = bytesOf(precision === native.bitsAllocated || isSignedStream ? cells : narrowed(cells, precision))
  const samples = {
    rows,
    columns,
    samplesPerPixel,
    bitsAllocated: to === 'jpeg-ls' ? precision : precision > 8 ? 16 : 8,
    bitsStored: precision,
    isSigned: isSignedStream,
    isRgb: photometric === 'RGB',
  }
  try {
    return codecs.encode(codecNames[to], bytes, samples)
  } catch (cause) {
    // CharLS gives up on some images of 16 bits, where differences are as large as the samples.
    throw new GatewayError('TRANSCODE_UNSUPPORTED', 'the codec of this transfer syntax cannot encode the frame', {
      cause,
    })
  }
}

/** The bits to compress: those stored, or the whole cell where there is something in the rest of it. */
function precisionFor(cells: Cells, to: keyof typeof codecNames, native: ImageFormat): number {
  const { bitsAllocated, bitsStored, highBit, isSigned } = native
  // Without a sign in the code stream, the bits above Bits Stored could not be told.
  if (isSigned && (to === 'jpeg' || to === 'jpeg-ls')) return bitsAllocated
  const isClean = highBit === bitsStored - 1 && fitBits(cells, bitsStored, isSigned)
  const precision = isClean ? Math.min(bitsAllocated, Math.max(bitsStored, leastBits(to, native))) : bitsAllocated
  // Both JPEG 2000 codecs read cells of 8 bits without sign.
  if (precision <= 8 && isSigned && (to === 'jpeg-2000' || to === 'htj2k')) throw unsupported()
  return precision
}

function leastBits(to: keyof typeof codecNames, { bitsAllocated, bitsStored, isSigned }: ImageFormat): number {
  switch (to) {
    case 'htj2k':
      return bitsAllocated // OpenJPH is given whole cells
    case 'jpeg':
      return bitsStored <= 8 ? 8 : bitsStored <= 12 ? 12 : 16 // one libjpeg each
    case 'jpeg-2000':
      return isSigned ? 9 : 1
    default:
      return 2 // T.87 §C.2.2
  }
}

function unsupported(): GatewayError {
  return new GatewayError('TRANSCODE_UNSUPPORTED', 'no codec for this transfer syntax with such samples')
}
