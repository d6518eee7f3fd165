/**
 * What becomes of an object that is compressed with loss: the format of its samples (PS3.5 §8.2.1, §8.2.3), and what it
 * says of itself (PS3.3 §C.7.6.1.1.5): that it was derived, how, how far, and of what.
 */
import type { ByteSource } from '../dicom/byte-source.ts'
import { asWritten } from '../dicom/coerce.ts'
import { type Dataset, itemsOf, stringOf, stringsOf } from '../dicom/dataset.ts'
import { readPart10 } from '../dicom/part10-reader.ts'
import type { NewElement } from '../dicom/part10-writer.ts'
import type { Change } from '../dicom/recode.ts'
import type { Tag } from '../dicom/tag.ts'
import { GatewayError } from '../errors.ts'
import { formatChanges } from './formats.ts'
import type { ImageFormat } from './image.ts'

/** The object that is to come of a compression with loss. */
export interface Derived {
  /** Its SOP Instance UID; the one in the file where that is new already. */
  readonly sopInstanceUid?: string | undefined
  /** The SOP Instance UID of the object that it comes of, to be named in it. */
  readonly predecessor?: string | undefined
}

/** By how much a sample of JPEG-LS may differ: as Orthanc has it. */
export const nearestSamples = 2

const baseline = '1.2.840.10008.1.2.4.50'
const extended = '1.2.840.10008.1.2.4.51'
const nearLossless = '1.2.840.10008.1.2.4.81'

/**
 * The format in which frames of `native` are compressed with loss: what a syntax has room for, as Orthanc has it.
 *
 * @throws GatewayError TRANSCODE_UNSUPPORTED
 */
export function lossyFormat(native: ImageFormat, toUid: string): ImageFormat {
  const { samplesPerPixel, bitsAllocated, bitsStored, isSigned, photometric } = native
  const isGray = samplesPerPixel === 1 && photometric.startsWith('MONOCHROME') && bitsAllocated <= 16 && bitsStored > 1
  const isColor = samplesPerPixel === 3 && bitsAllocated === 8 && /^(RGB$|YBR_(FULL|PARTIAL))/.test(photometric)
  const isPalette = samplesPerPixel === 1 && photometric === 'PALETTE COLOR'
  if (isSigned) throw unsupported('negative numbers')
  if (toUid === nearLossless) {
    if (isGray) return { ...native, highBit: bitsStored - 1 }
    if (isColor && !photometric.endsWith('_422')) return { ...native, isPlanar: false }
    throw unsupported(`${photometric} of ${bitsStored} bits`)
  }
  const bytes = { ...native, bitsAllocated: 8, bitsStored: 8, highBit: 7, isPlanar: false }
  if (bitsStored === 8 && (isColor || isPalette)) return { ...bytes, samplesPerPixel: 3, photometric: 'YBR_FULL_422' }
  if (isGray && (bitsStored === 8 || (toUid === extended && bitsStored < 8))) return bytes
  if (isGray && toUid === extended && bitsStored <= 12) return { ...native, bitsStored: 12, highBit: 11 }
  throw unsupported(`${photometric} of ${bitsStored} bits`)
}

/**
 * The elements of the top level that tell of the compression.
 *
 * @param ratio  how many times larger the samples were
 * @throws GatewayError DICOM_UNREADABLE, DICOM_LIMIT
 */
export async function lossyChanges(
  source: ByteSource,
  { stored, written }: { readonly stored: ImageFormat; readonly written: ImageFormat },
  how: Derived & { readonly to: string; readonly quality: number; readonly ratio: number },
): Promise<Map<Tag, Change>> {
  const { dataset } = await readPart10(source, { stopBefore: 0x7fe00000 })
  const { to, quality, ratio, sopInstanceUid, predecessor } = how
  const changes = formatChanges(stored, written)
  const set = (element: NewElement): unknown => changes.set(element.tag, element)
  set({ tag: 0x00280002, value: written.samplesPerPixel })
  if (written.samplesPerPixel > 1) set({ tag: 0x00280006, value: 0 })
  set({ tag: 0x00280100, value: written.bitsAllocated })
  set({ tag: 0x00280101, value: written.bitsStored })
  if (written.samplesPerPixel !== stored.samplesPerPixel) for (const tag of palettes) changes.set(tag, 'remove')
  const [, ...rest] = stringsOf(dataset, imageType)
  set({ tag: imageType, value: ['DERIVED', ...(rest.length > 0 ? rest : ['SECONDARY'])] })
  if (sopInstanceUid !== undefined) set({ tag: 0x00080018, value: sopInstanceUid })
  set({ tag: 0x00082111, value: description(dataset, to, { quality, ratio }) })
  if (predecessor !== undefined) {
    const source = [
      { tag: 0x00081150, value: stringOf(dataset, 0x00080016) ?? '' },
      { tag: 0x00081155, value: predecessor },
      { tag: 0x0040a170, items: [code('121320', 'Uncompressed predecessor')] },
    ]
    set({ tag: 0x00082112, items: [...itemsOf(dataset, 0x00082112).map(asWritten), source] })
  }
  const derivations = itemsOf(dataset, 0x00089215).map(asWritten)
  set({ tag: 0x00089215, items: [...derivations, code('113040', 'Lossy Compression')] })
  set({ tag: 0x00282110, value: '01' })
  // Each step has its value (PS3.3 §C.7.6.1.1.5.2).
  set({ tag: 0x00282112, value: [...stringsOf(dataset, 0x00282112), ratio.toFixed(2)] })
  const method = to === nearLossless ? 'ISO_14495_1' : 'ISO_10918_1'
  set({ tag: 0x00282114, value: [...stringsOf(dataset, 0x00282114), method] })
  return changes
}

const imageType = 0x00080008
/** Descriptors and tables of PALETTE COLOR, and its UID. */
const palettes = [
  0x00281101, 0x00281102, 0x00281103, 0x00281199, 0x00281201, 0x00281202, 0x00281203, 0x00281221, 0x00281222,
  0x00281223,
]
const longestDescription = 1024

function description(dataset: Dataset, to: string, { quality, ratio }: { quality: number; ratio: number }): string {
  const jpeg = `JPEG ${to === baseline ? 'Baseline' : 'Extended'}, quality ${quality}`
  const codec = to === nearLossless ? `JPEG-LS near-lossless, samples within ${nearestSamples}` : jpeg
  const text = `Lossy compression with ${codec}, compression ratio ${ratio.toFixed(2)}`
  const before = stringOf(dataset, 0x00082111)
  const both = before ? `${text} [${before}]` : text
  return both.length <= longestDescription ? both : text
}

const code = (value: string, meaning: string): NewElement[] => [
  { tag: 0x00080100, value },
  { tag: 0x00080102, value: 'DCM' },
  { tag: 0x00080104, value: meaning },
]

function unsupported(what: string): GatewayError {
  return new GatewayError('TRANSCODE_UNSUPPORTED', `this lossy transfer syntax has no room for the image: ${what}`)
}
