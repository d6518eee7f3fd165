/** One frame from one compression to another. Synchronous and pure: it runs in a worker thread. */
import { GatewayError } from '../errors.ts'
import { frameBytes, type ImageFormat, rearranged } from './image.ts'
import { decodeRle, encodeRle } from './rle.ts'
import type { Compression } from './syntaxes.ts'

/** What to do with a frame. */
export interface FrameTask {
  readonly bytes: Uint8Array
  readonly from: Compression
  readonly to: Compression
  /** As the data set describes the bytes. */
  readonly stored: ImageFormat
  /** As the frame is to be when it is not compressed; see `nativeFormat`. */
  readonly native: ImageFormat
  /** As the data set to come describes the frame. */
  readonly written: ImageFormat
}

/**
 * The frame in its new compression.
 *
 * @throws GatewayError PIXELS_UNREADABLE, TRANSCODE_UNSUPPORTED
 */
export function recodeFrame(task: FrameTask): Uint8Array {
  const native = decode(task)
  if (native.length !== frameBytes(task.native)) {
    throw new GatewayError('PIXELS_UNREADABLE', 'cannot decode frame: expected as many samples as its rows and columns')
  }
  return encode(native, task)
}

function decode({ bytes, from, native }: FrameTask): Uint8Array {
  switch (from) {
    case 'none':
    case 'raw':
      return bytes.subarray(0, frameBytes(native))
    case 'rle':
      return decodeRle(bytes, native)
    default:
      throw unsupported()
  }
}

function encode(bytes: Uint8Array, { to, native, written }: FrameTask): Uint8Array {
  switch (to) {
    case 'none':
      return bytes
    case 'rle':
      return encodeRle(rearranged(bytes, native, written.isPlanar), written)
    default:
      throw unsupported()
  }
}

function unsupported(): GatewayError {
  return new GatewayError('TRANSCODE_UNSUPPORTED', 'no codec for this transfer syntax')
}
