/** What becomes of the image attributes when pixels are decompressed and compressed (PS3.5 §8.2, PS3.3 §C.7.6.3). */
import type { NewElement } from '../dicom/part10-writer.ts'
import type { Change } from '../dicom/recode.ts'
import type { Tag } from '../dicom/tag.ts'
import { GatewayError } from '../errors.ts'
import { type Codestream, isYcc } from './codestream.ts'
import type { ImageFormat } from './image.ts'
import { fitsRle } from './rle.ts'
import type { Compression } from './syntaxes.ts'

/**
 * The format of the frames when they are decompressed.
 *
 * @param stream  the header of the first frame, for the compressions that have one
 */
export function nativeFormat(stored: ImageFormat, from: Compression, stream: Codestream | undefined): ImageFormat {
  if (from === 'none' || from === 'raw' || from === 'deflate') return stored
  const { samplesPerPixel, bitsStored } = stored
  // Codecs give each pixel all of its samples.
  const photometric = stored.photometric.replace(/_42[02]$/, '')
  if (from === 'rle') return { ...stored, photometric }
  // A code stream has its samples in the lowest bits, unless it has whole cells.
  const highBit = stream === undefined || stream.precision === bitsStored ? bitsStored - 1 : stored.highBit
  if (samplesPerPixel === 1) return { ...stored, highBit }
  return { ...stored, highBit, isPlanar: false, photometric: nativeColor(stored, photometric, from, stream) }
}

function nativeColor(
  stored: ImageFormat,
  photometric: string,
  from: Compression,
  stream: Codestream | undefined,
): string {
  if (stored.samplesPerPixel !== 3) return photometric
  if (from === 'jpeg-xl') return 'RGB'
  if (from === 'jpeg-2000' || from === 'htj2k') {
    return stream?.isTransformed || /^YBR_(RCT|ICT)$/.test(photometric) ? 'RGB' : photometric
  }
  if (from !== 'jpeg' || stream === undefined || stream.isPredicted) return photometric
  return isYcc(stream, stored) || stream.saysYcc === false ? 'RGB' : photometric
}

/**
 * The format in which frames of `native` are written.
 *
 * @throws GatewayError TRANSCODE_UNSUPPORTED when the compression has no room for it
 */
export function writtenFormat(native: ImageFormat, to: Compression): ImageFormat {
  if (to === 'none') return native
  if (/_42[02]$/.test(native.photometric)) throw unsupported('subsampled color')
  const { samplesPerPixel, bitsAllocated, photometric } = native
  if (to === 'rle' && fitsRle(native)) return native
  const isGray = samplesPerPixel === 1 && (bitsAllocated === 8 || bitsAllocated === 16)
  if (to !== 'rle' && isGray) return native
  const isColor = samplesPerPixel === 3 && bitsAllocated === 8 && (photometric === 'RGB' || photometric === 'YBR_FULL')
  const isTransformed = to === 'htj2k' || (to === 'jpeg-2000' && photometric === 'RGB')
  if (to !== 'rle' && isColor && !(isTransformed && photometric !== 'RGB')) {
    return { ...native, isPlanar: false, photometric: isTransformed ? 'YBR_RCT' : photometric }
  }
  throw unsupported(`${bitsAllocated} bits in ${samplesPerPixel} samples`)
}

/** The elements to change so that they tell of `after` instead of `before`. */
export function formatChanges(before: ImageFormat, after: ImageFormat): Map<Tag, Change> {
  const changes = new Map<Tag, Change>()
  const set = (element: NewElement): void => {
    changes.set(element.tag, element)
  }
  if (after.photometric !== before.photometric) set({ tag: 0x00280004, value: after.photometric })
  if (after.isPlanar !== before.isPlanar) set({ tag: 0x00280006, value: after.isPlanar ? 1 : 0 })
  if (after.highBit !== before.highBit) set({ tag: 0x00280102, value: after.highBit })
  return changes
}

function unsupported(what: string): GatewayError {
  return new GatewayError('TRANSCODE_UNSUPPORTED', `this transfer syntax cannot hold the image without loss: ${what}`)
}
