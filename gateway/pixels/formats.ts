/** What becomes of the image attributes when pixels are decompressed and compressed (PS3.5 §8.2, PS3.3 §C.7.6.3). */
import type { NewElement } from '../dicom/part10-writer.ts'
import type { Change } from '../dicom/recode.ts'
import type { Tag } from '../dicom/tag.ts'
import { GatewayError } from '../errors.ts'
import type { ImageFormat } from './image.ts'
import { fitsRle } from './rle.ts'
import type { Compression } from './syntaxes.ts'

/** The format of the frames when they are decompressed. */
export function nativeFormat(stored: ImageFormat, from: Compression): ImageFormat {
  if (from === 'none' || from === 'raw') return stored
  // RLE has whole planes only (PS3.5 §G.2), so what calls itself subsampled is not.
  if (from === 'rle') return { ...stored, photometric: stored.photometric.replace(/_422$/, '') }
  return stored
}

/**
 * The format in which frames of `native` are written.
 *
 * @throws GatewayError TRANSCODE_UNSUPPORTED when the compression has no room for it
 */
export function writtenFormat(native: ImageFormat, to: Compression): ImageFormat {
  if (to === 'none') return native
  if (/_42[02]$/.test(native.photometric)) throw unsupported('subsampled color')
  if (to === 'rle' && fitsRle(native)) return native
  throw unsupported(`${native.bitsAllocated} bits in ${native.samplesPerPixel} samples`)
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
