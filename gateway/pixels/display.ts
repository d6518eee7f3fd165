/** How an image wants to be shown: what becomes of its samples until they are grey or color of 8 bits (PS3.3 §C.11, §C.7.6.3). */
import type { ByteSource } from '../dicom/byte-source.ts'
import { type Dataset, findElement, itemsOf, numbersOf, stringOf } from '../dicom/dataset.ts'
import { DatasetBuilder } from '../dicom/dataset-builder.ts'
import { walk } from '../dicom/element-walker.ts'
import { inflateSource } from '../dicom/inflate-source.ts'
import { findLayout } from '../dicom/part10-layout.ts'
import type { Tag } from '../dicom/tag.ts'
import { GatewayError } from '../errors.ts'
import { expandSegments } from './segmented-palette.ts'

/** A lookup table: the entry of each value from `first` on; values outside take the first or last entry. */
export interface Lut {
  readonly first: number
  readonly bits: number
  readonly entries: Uint16Array
}

/** A window, in rescaled values. */
export interface Window {
  readonly center: number
  /** Above 0. */
  readonly width: number
  readonly shape: 'linear' | 'sigmoid'
}

/** The transformations of one frame. */
export interface Display {
  /** Both Rescale Slope and Rescale Intercept, or 1 and 0. */
  readonly slope: number
  readonly intercept: number
  /** Instead of them. */
  readonly modalityLut: Lut | undefined
  /** The first one where there are several. */
  readonly window: Window | undefined
  /** Where there is no window. */
  readonly voiLut: Lut | undefined
  /** Red, green, blue of PALETTE COLOR. */
  readonly palette: readonly [Lut, Lut, Lut] | undefined
}

const pixelData = 0x7fe00010
const sharedGroups = 0x52009229
const perFrameGroups = 0x52009230
const voiLutSequence = 0x00283010
const lutDescriptor = 0x00283002
const lutData = 0x00283006
/** 65,536 entries of 16 bits. */
const longestLutBytes = 131_072
const maxInflatedBytes = 268_435_456

/**
 * Reads the transformations of a frame, those of functional groups before those of the image (PS3.3 §C.7.6.16).
 *
 * @param frame  from 0
 * @throws GatewayError DICOM_UNREADABLE, DICOM_LIMIT
 */
export async function readDisplay(source: ByteSource, frame: number): Promise<Display> {
  const dataset = await readAttributes(source)
  const groups = [itemsOf(dataset, perFrameGroups)[frame], itemsOf(dataset, sharedGroups)[0]].filter(
    group => group !== undefined,
  )
  const inGroup = (tag: Tag): readonly Dataset[] => groups.flatMap(group => itemsOf(group, tag))
  const rescaled = [...inGroup(0x00289145), dataset].find(part => numberOf(part, 0x00281053) !== undefined)
  const slope = rescaled && numberOf(rescaled, 0x00281053)
  const intercept = rescaled && numberOf(rescaled, 0x00281052)
  const isRescaled = slope !== undefined && intercept !== undefined && slope !== 0
  return {
    slope: isRescaled ? slope : 1,
    intercept: isRescaled ? intercept : 0,
    modalityLut: lutOf(itemsOf(dataset, 0x00283000)[0], lutDescriptor, lutData),
    window: [...inGroup(0x00289132), dataset].map(windowOf).find(window => window !== undefined),
    voiLut: lutOf(itemsOf(dataset, voiLutSequence)[0], lutDescriptor, lutData),
    palette: paletteOf(dataset),
  }
}

async function readAttributes(source: ByteSource): Promise<Dataset> {
  const { datasetOffset, encoding, isDeflated, window } = await findLayout(source)
  const builder = new DatasetBuilder(
    ({ tag, length }, depth, holdsItems) => {
      if (depth === 0 && tag >= pixelData) return 'stop'
      const isWanted = tag >>> 16 === 0x28 || (depth === 0 && (tag === sharedGroups || tag === perFrameGroups))
      if (!isWanted) return 'omit'
      if (holdsItems) return 'enter'
      return length <= longestLutBytes ? 'value' : 'omit'
    },
    bytes => Buffer.from(bytes),
  )
  if (isDeflated) {
    await using inflated = inflateSource(source, datasetOffset, maxInflatedBytes)
    await walk(inflated, { offset: 0, encoding }, builder)
  } else await walk(source, { offset: datasetOffset, encoding, window }, builder)
  return builder.dataset
}

function numberOf(dataset: Dataset, tag: Tag): number | undefined {
  const [value] = numbersOf(dataset, tag)
  return value !== undefined && Number.isFinite(value) ? value : undefined
}

function windowOf(dataset: Dataset): Window | undefined {
  const center = numberOf(dataset, 0x00281050)
  const width = numberOf(dataset, 0x00281051)
  if (center === undefined || width === undefined || width <= 0) return undefined
  return { center, width, shape: stringOf(dataset, 0x00281056) === 'SIGMOID' ? 'sigmoid' : 'linear' }
}

function paletteOf(dataset: Dataset): Display['palette'] {
  if (stringOf(dataset, 0x00280004) !== 'PALETTE COLOR') return undefined
  const [red, green, blue] = [0, 1, 2].map(
    index =>
      lutOf(dataset, 0x00281101 + index, 0x00281201 + index) ??
      segmentedLutOf(dataset, 0x00281101 + index, 0x00281221 + index),
  )
  if (red && green && blue) return [red, green, blue]
  throw new GatewayError('PICTURE_UNSUPPORTED', 'expected a palette of red, green and blue, whole or in segments')
}

/** A table in segments (PS3.3 §C.7.9.2). */
function segmentedLutOf(dataset: Dataset, descriptor: Tag, data: Tag): Lut | undefined {
  const [count = 0, first = 0, bits = 16] = numbersOf(dataset, descriptor)
  const element = findElement(dataset, data)
  if (element?.value === undefined || (bits !== 8 && bits !== 16)) return undefined
  const { value, encoding } = element
  const view = new DataView(value.buffer, value.byteOffset, value.byteLength)
  const units =
    bits === 8
      ? value
      : Uint16Array.from({ length: value.length >>> 1 }, (_, index) => view.getUint16(2 * index, !encoding.bigEndian))
  const entries = expandSegments(units, bits, count === 0 ? 65_536 : count)
  return entries && { first, bits, entries }
}

/** A table and its descriptor: number of entries, first value, bits (PS3.3 §C.11.1.1). */
function lutOf(dataset: Dataset | undefined, descriptor: Tag, data: Tag): Lut | undefined {
  if (dataset === undefined) return undefined
  const [count = 0, first = 0, bits = 16] = numbersOf(dataset, descriptor)
  const element = findElement(dataset, data)
  if (element?.value === undefined || bits < 1 || bits > 16) return undefined
  const { value, encoding } = element
  const length = count === 0 ? 65_536 : count
  const view = new DataView(value.buffer, value.byteOffset, value.byteLength)
  // Tables of 8 bits may have two entries in each word (PS3.3 §C.7.6.3.1.6).
  const isPacked = value.length < 2 * length
  if (isPacked && value.length < length) return undefined
  const entries = Uint16Array.from({ length }, (_, index) =>
    isPacked ? (value[index] ?? 0) : view.getUint16(2 * index, !encoding.bigEndian),
  )
  return { first, bits: isPacked ? 8 : bits, entries }
}
