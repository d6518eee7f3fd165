/** Compresses one frame with loss: JPEG Baseline and Extended, JPEG-LS near-lossless. Runs in a codec thread. */
import { GatewayError } from '../errors.ts'
import type { Display } from './display.ts'
import { colorOf, grayValues } from './gray.ts'
import { type ImageFormat, rearranged } from './image.ts'
import { encodeJpeg12 } from './jpeg-12.ts'
import type { Loss, NativeCodecs } from './native-codecs.ts'
import { bytesOf } from './samples.ts'
import type { Compression } from './syntaxes.ts'

/** How a frame is compressed with loss. */
export interface LossyTask extends Loss {
  /** Of PALETTE COLOR, which becomes color. */
  readonly palette: Display['palette']
}

/**
 * The frame, compressed with loss.
 *
 * @param native  as `formats.native` says
 * @throws GatewayError TRANSCODE_UNSUPPORTED; Error, after which the codecs are unusable
 */
export function encodeWithLoss(
  native: Uint8Array,
  formats: { readonly to: Compression; readonly native: ImageFormat; readonly written: ImageFormat },
  loss: LossyTask,
  codecs: NativeCodecs,
): Uint8Array {
  const { to, written } = formats
  const { rows, columns, samplesPerPixel, bitsStored } = written
  const samples = { rows, columns, samplesPerPixel, bitsStored, isSigned: false }
  if (to === 'jpeg-ls') {
    const bytes = samplesPerPixel === 1 ? grayBytes(native, formats) : rearranged(native, formats.native, false)
    return encoded(() => codecs.encode('JpegLs', bytes, { ...samples, bitsAllocated: bitsStored, isRgb: false }, loss))
  }
  if (to === 'jpeg' && bitsStored > 8) {
    return encodeJpeg12(Uint16Array.from(grayValues(native, formats.native)), written, loss.quality)
  }
  if (to !== 'jpeg') throw unsupported()
  const bytes = samplesPerPixel === 1 ? grayBytes(native, formats) : colorOf(native, formats.native, loss)
  if (bytes === undefined) throw unsupported()
  const isRgb = samplesPerPixel === 3
  return encoded(() => codecs.encode('Jpeg', bytes, { ...samples, bitsAllocated: 8, isRgb }, loss))
}

/** Samples without what is beside Bits Stored, in the smallest cells. */
function grayBytes(
  native: Uint8Array,
  { native: format, written }: { readonly native: ImageFormat; readonly written: ImageFormat },
): Uint8Array {
  const values = grayValues(native, format)
  return written.bitsStored <= 8 ? Uint8Array.from(values) : bytesOf(Uint16Array.from(values))
}

function encoded(encode: () => Uint8Array): Uint8Array {
  try {
    return encode()
  } catch (cause) {
    throw unsupported(cause)
  }
}

function unsupported(cause?: unknown): GatewayError {
  return new GatewayError('TRANSCODE_UNSUPPORTED', 'no codec for this transfer syntax with such samples', { cause })
}
