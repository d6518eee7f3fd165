/** Where the pixels of an object are: its Image Pixel attributes and its Pixel Data, read without the pixels. */
import type { ByteSource } from '../dicom/byte-source.ts'
import {
  type ByteRange,
  type Dataset,
  type Element,
  type Encoding,
  findElement,
  numbersOf,
  stringOf,
} from '../dicom/dataset.ts'
import { DatasetBuilder } from '../dicom/dataset-builder.ts'
import { walk } from '../dicom/element-walker.ts'
import { type InflateSource, inflateSource } from '../dicom/inflate-source.ts'
import { findLayout } from '../dicom/part10-layout.ts'
import { topLevel } from '../dicom/recode.ts'
import { GatewayError } from '../errors.ts'
import type { ImageFormat } from './image.ts'

/** An object, as far as its pixels are concerned. */
export interface PixelLayout {
  readonly transferSyntaxUid: string
  readonly sopClassUid: string | undefined
  readonly sopInstanceUid: string | undefined
  /** Where the data set begins; 0 is also the first byte of a deflated one when inflated. */
  readonly datasetOffset: number
  readonly hasMeta: boolean
  readonly encoding: Encoding
  readonly isDeflated: boolean
  /** Pixel Data (7FE0,0010) of the object itself; undefined where there is none. */
  readonly pixels: PixelElement | undefined
  /** Encapsulated Pixel Data in items, such as icons. */
  readonly nested: readonly PixelElement[]
}

/** One Pixel Data element with the attributes beside it. */
export interface PixelElement {
  /** The offset of the item it is in, or `topLevel`. */
  readonly item: number
  /** Undefined when the attributes that every image has are missing or make no sense. */
  readonly format: ImageFormat | undefined
  readonly frames: number
  readonly element: Element
  /** Without the Basic Offset Table; undefined for native pixel data. */
  readonly fragments: readonly ByteRange[] | undefined
  readonly basicOffsets: ByteRange | undefined
  /** Extended Offset Table (7FE0,0001), PS3.3 §C.7.6.3. */
  readonly extendedOffsets: readonly number[] | undefined
}

const pixelData = 0x7fe00010
const extendedOffsetTable = 0x7fe00001
const maxInflatedBytes = 4_294_967_296
const longestAttributeBytes = 64
const longestTableBytes = 67_108_864

/**
 * Reads the layout of an object: its headers, not its pixels.
 *
 * @throws GatewayError DICOM_UNREADABLE, DICOM_LIMIT
 */
export async function readPixelLayout(source: ByteSource): Promise<PixelLayout> {
  const { meta, transferSyntaxUid, datasetOffset, encoding, isDeflated, window } = await findLayout(source)
  const builder = new DatasetBuilder(
    ({ tag, length }, depth, holdsItems) => {
      if (depth === 0 && tag > pixelData) return 'stop'
      if (tag === pixelData) return holdsItems ? 'enter' : 'skip'
      if (holdsItems) return 'enter'
      const isWanted = tag >>> 16 === 0x28 || (depth === 0 && (tag === 0x00080016 || tag === 0x00080018))
      if (isWanted && length <= longestAttributeBytes) return 'value'
      return tag === extendedOffsetTable && length <= longestTableBytes ? 'value' : 'omit'
    },
    bytes => Buffer.from(bytes),
  )
  if (isDeflated) {
    await using inflated = inflateSource(source, datasetOffset, maxInflatedBytes)
    await walk(inflated, { offset: 0, encoding }, builder)
  } else await walk(source, { offset: datasetOffset, encoding, window }, builder)
  const { dataset } = builder
  return {
    transferSyntaxUid,
    sopClassUid: stringOf(dataset, 0x00080016),
    sopInstanceUid: stringOf(dataset, 0x00080018),
    datasetOffset,
    hasMeta: meta.elements.length > 0,
    encoding,
    isDeflated,
    pixels: pixelElement(dataset, topLevel),
    nested: [...nestedPixels(dataset)],
  }
}

/** The data set as bytes that are read forward; must be disposed. Offsets are those of the layout. */
export function datasetSource(source: ByteSource, layout: PixelLayout): ByteSource & Partial<AsyncDisposable> {
  if (layout.isDeflated) return inflated(source, layout)
  // The source stays its owner's, who may have given it a way to be disposed.
  return { sizeBytes: source.sizeBytes, read: (offset, length) => source.read(offset, length) }
}

function inflated(source: ByteSource, { datasetOffset }: PixelLayout): InflateSource {
  return inflateSource(source, datasetOffset, maxInflatedBytes)
}

function* nestedPixels({ elements }: Dataset): Generator<PixelElement> {
  for (const { items = [] } of elements) {
    for (const item of items) {
      const found = pixelElement(item, item.offset)
      if (found?.fragments !== undefined) yield found
      yield* nestedPixels(item)
    }
  }
}

function pixelElement(dataset: Dataset, item: number): PixelElement | undefined {
  const element = findElement(dataset, pixelData)
  if (element === undefined) return undefined
  const [basicOffsets, ...fragments] = element.fragments ?? []
  const [frames = 1] = numbersOf(dataset, 0x00280008)
  return {
    item,
    format: imageFormat(dataset),
    frames: Number.isInteger(frames) && frames > 0 ? frames : 1,
    element,
    fragments: element.fragments && fragments,
    basicOffsets,
    extendedOffsets: offsetTable(dataset),
  }
}

function imageFormat(dataset: Dataset): ImageFormat | undefined {
  const number = (tag: number): number | undefined => numbersOf(dataset, tag)[0]
  const samplesPerPixel = number(0x00280002) ?? 1
  const rows = number(0x00280010) ?? 0
  const columns = number(0x00280011) ?? 0
  const bitsAllocated = number(0x00280100) ?? 0
  const bitsStored = number(0x00280101) ?? bitsAllocated
  const highBit = number(0x00280102) ?? bitsStored - 1
  if (rows === 0 || columns === 0 || samplesPerPixel === 0 || samplesPerPixel > 4) return undefined
  if (bitsAllocated !== 1 && (bitsAllocated % 8 !== 0 || bitsAllocated > 64)) return undefined
  if (bitsStored === 0 || bitsStored > bitsAllocated || highBit >= bitsAllocated) return undefined
  return {
    rows,
    columns,
    samplesPerPixel,
    bitsAllocated,
    bitsStored,
    highBit,
    isSigned: number(0x00280103) === 1,
    photometric: stringOf(dataset, 0x00280004) ?? '',
    isPlanar: samplesPerPixel > 1 && number(0x00280006) === 1,
  }
}

function offsetTable(dataset: Dataset): number[] | undefined {
  const value = findElement(dataset, extendedOffsetTable)?.value
  if (value === undefined || value.length < 8) return undefined
  const view = new DataView(value.buffer, value.byteOffset, value.byteLength)
  return Array.from({ length: value.length >>> 3 }, (_, i) => Number(view.getBigUint64(8 * i, true)))
}

/** The format of an image that has one. @throws GatewayError DICOM_UNREADABLE */
export function formatOf({ format }: PixelElement): ImageFormat {
  if (format !== undefined) return format
  throw new GatewayError(
    'DICOM_UNREADABLE',
    'expected rows, columns and bits of the pixel data, found no sense in them',
  )
}
