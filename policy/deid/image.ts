/** What a data set says about its pixels, and how native ones lie in the bytes (PS3.5 §8). */
import { type Dataset, type Element, findElement, numbersOf, stringOf } from '../../gateway/dicom/dataset.ts'

/** The Image Pixel attributes (PS3.3 §C.7.6.3), with the defaults that readers use. */
export interface Image {
  readonly rows: number
  readonly columns: number
  readonly frames: number
  readonly samples: number
  readonly bitsAllocated: number
  readonly bitsStored: number
  readonly isSigned: boolean
  readonly photometric: string
  /** Planes follow each other instead of samples (0028,0006). */
  readonly isPlanar: boolean
  readonly pixelData: Element
}

/** A rectangle of pixels: x, y, width, height; beyond the image is allowed. */
export type Region = readonly [x: number, y: number, width: number, height: number]

const pixelDataTags = [0x7fe00010, 0x7fe00008, 0x7fe00009] as const

/** The image of a data set; undefined when it has no pixel data. */
export function imageOf(dataset: Dataset): Image | undefined {
  const pixelData = pixelDataTags.map(tag => findElement(dataset, tag)).find(found => found !== undefined)
  if (pixelData === undefined) return undefined
  const number = (tag: number, fallback: number): number => numbersOf(dataset, tag)[0] ?? fallback
  const bitsAllocated = number(0x00280100, 8)
  return {
    rows: number(0x00280010, 0),
    columns: number(0x00280011, 0),
    frames: Math.max(1, number(0x00280008, 1) || 1),
    samples: number(0x00280002, 1),
    bitsAllocated,
    bitsStored: number(0x00280101, bitsAllocated),
    isSigned: number(0x00280103, 0) === 1,
    photometric: stringOf(dataset, 0x00280004) ?? '',
    isPlanar: number(0x00280006, 0) === 1,
    pixelData,
  }
}

/** How native pixels lie in the bytes; undefined for a form that is not known. */
export interface NativeLayout {
  readonly frameBits: number
  /** Bytes of all frames, without padding. */
  readonly totalBytes: number
}

/** The layout of native pixels; undefined where rows, columns or bits make none. */
export function nativeLayout(image: Image): NativeLayout | undefined {
  const { rows, columns, frames, samples, bitsAllocated, photometric } = image
  if (![1, 8, 16, 32, 64].includes(bitsAllocated) || rows <= 0 || columns <= 0 || samples <= 0) return undefined
  const isHalved = photometric === 'YBR_FULL_422' || photometric === 'YBR_PARTIAL_422'
  if (photometric.endsWith('_420')) return undefined
  const frameBits = rows * columns * (isHalved ? 2 : samples) * bitsAllocated
  const totalBytes = Math.ceil((frameBits * frames) / 8)
  return Number.isSafeInteger(frameBits * frames) ? { frameBits, totalBytes } : undefined
}

/** Paints over parts of native pixel data while they pass. */
export interface Painter {
  /** Changes `bytes`, which lie at `at` in the pixel data. */
  paint(bytes: Uint8Array, at: number): void
}

/**
 * Fills regions of every frame with black, and what lies behind the last frame with zeros.
 *
 * @param isWordSwapped  8-bit pixels as big-endian words (PS3.5 §8.1.2)
 */
export function painterOf(
  image: Image,
  layout: NativeLayout,
  regions: readonly Region[],
  isWordSwapped: boolean,
  bigEndian: boolean,
): Painter {
  const boxes = regions.map(region => clip(region, image)).filter(([, , width, height]) => width > 0 && height > 0)
  const fill = image.bitsAllocated === 1 ? bitFiller(image, layout, boxes) : byteFiller(image, layout, boxes, bigEndian)
  return {
    paint(bytes, at) {
      fill(at, bytes.length, (from, to, byteAt) => {
        for (let place = from; place < to; place++) {
          const index = (isWordSwapped ? place ^ 1 : place) - at
          if (index >= 0 && index < bytes.length) bytes[index] = byteAt(place, bytes[index] ?? 0)
        }
      })
      const tail = (isWordSwapped ? layout.totalBytes + (layout.totalBytes & 1) : layout.totalBytes) - at
      if (tail < bytes.length) bytes.fill(0, Math.max(0, tail))
    },
  }
}

/** Reports runs of bytes that touch `length` bytes at `at`, a little more where words are swapped. */
type Filler = (
  at: number,
  length: number,
  run: (from: number, to: number, byteAt: (place: number, old: number) => number) => void,
) => void

function clip([x, y, width, height]: Region, { rows, columns, photometric }: Image): Region {
  // Two pixels share their colour there.
  const even = photometric.endsWith('_422')
  const left = Math.max(0, even ? x & ~1 : x)
  const right = Math.min(columns, even ? (x + width + 1) & ~1 : x + width)
  const top = Math.max(0, y)
  return [left, top, right - left, Math.min(rows, y + height) - top]
}

function byteFiller(image: Image, layout: NativeLayout, boxes: readonly Region[], bigEndian: boolean): Filler {
  const { rows, columns, samples, isPlanar, frames, bitsAllocated, photometric } = image
  const isHalved = photometric.endsWith('_422')
  const planes = isPlanar && samples > 1 && !isHalved ? samples : 1
  const pixelBytes = isHalved ? 2 : ((planes > 1 ? 1 : samples) * bitsAllocated) / 8
  const frameBytes = layout.frameBits / 8
  const planeBytes = frameBytes / planes
  const rowBytes = columns * pixelBytes
  const patterns = Array.from({ length: planes }, (_, plane) => patternOf(image, plane, planes, bigEndian))
  return (at, length, run) => {
    const end = at + length + 1
    const begin = Math.max(0, at - 1)
    for (let frame = Math.floor(begin / frameBytes); frame < frames && frame * frameBytes < end; frame++) {
      for (const [plane, pattern] of patterns.entries()) {
        const base = frame * frameBytes + plane * planeBytes
        if (base >= end || base + rows * rowBytes <= begin) continue
        for (const [x, y, width, height] of boxes) {
          const first = Math.max(y, Math.floor((begin - base) / rowBytes))
          const last = Math.min(y + height - 1, Math.floor((end - 1 - base) / rowBytes))
          for (let row = first; row <= last; row++) {
            const start = base + row * rowBytes + x * pixelBytes
            const to = Math.min(start + width * pixelBytes, end)
            run(Math.max(start, begin), to, place => pattern[(place - start) % pattern.length] ?? 0)
          }
        }
      }
    }
  }
}

function bitFiller({ rows, columns, frames, samples }: Image, layout: NativeLayout, boxes: readonly Region[]): Filler {
  return (at, length, run) => {
    const { frameBits } = layout
    for (
      let frame = Math.floor((at * 8) / frameBits);
      frame < frames && frame * frameBits < (at + length) * 8;
      frame++
    ) {
      for (let plane = 0; plane < samples; plane++) {
        const base = frame * frameBits + plane * rows * columns
        for (const [x, y, width, height] of boxes) {
          for (let row = y; row < y + height; row++) {
            const from = base + row * columns + x
            const to = from + width
            run(from >> 3, ((to - 1) >> 3) + 1, (place, old) => old & ~bitMask(from, to, place))
          }
        }
      }
    }
  }
}

/** The bits of the byte at `place` that lie in from..to; pixels begin with the least significant bit (PS3.5 §8.1.1). */
function bitMask(from: number, to: number, place: number): number {
  const low = Math.max(0, from - place * 8)
  const high = Math.min(8, to - place * 8)
  return low >= high ? 0 : ((1 << high) - 1) & ~((1 << low) - 1)
}

/** The bytes of black: of a pixel, of a sample where planes lie apart, of a pair where two share their colour. */
function patternOf(image: Image, plane: number, planes: number, bigEndian: boolean): readonly number[] {
  const { photometric, samples, bitsAllocated } = image
  if (photometric.endsWith('_422')) return [0, 0, 128, 128]
  const sample = (index: number): number[] => {
    const value = blackOf(image, index)
    const bytes = Array.from({ length: bitsAllocated / 8 }, (_, at) => Number((value >> BigInt(8 * at)) & 0xffn))
    return bigEndian ? bytes.reverse() : bytes
  }
  return planes > 1 ? sample(plane) : Array.from({ length: samples }, (_, index) => sample(index)).flat()
}

function blackOf({ photometric, bitsStored, isSigned }: Image, sample: number): bigint {
  const bits = BigInt(Math.max(1, bitsStored))
  if (photometric.startsWith('YBR') && photometric !== 'YBR_RCT') return sample === 0 ? 0n : 1n << (bits - 1n)
  if (photometric !== 'MONOCHROME1') return 0n
  return isSigned ? (1n << (bits - 1n)) - 1n : (1n << bits) - 1n
}
