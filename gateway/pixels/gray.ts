/** Samples as numbers: out of their cells, in grey or in color. */
import type { Display, Lut } from './display.ts'
import { type ImageFormat, rearranged } from './image.ts'

/** Samples of one component, as the data set means them. */
export type Values = Int16Array | Uint16Array | Float64Array

/** The numbers of a frame with one sample for each pixel: bits beside Bits Stored removed, signs extended. */
export function grayValues(native: Uint8Array, format: ImageFormat): Values {
  const { rows, columns, bitsAllocated, bitsStored, highBit, isSigned } = format
  const count = rows * columns
  const view = new DataView(native.buffer, native.byteOffset, native.byteLength)
  if (bitsAllocated > 16) {
    return Float64Array.from({ length: count }, (_, i) => wideValue(view, i, bitsAllocated / 8, isSigned))
  }
  const cells = bitsAllocated <= 8 ? native : uint16s(native)
  const values = isSigned ? new Int16Array(count) : new Uint16Array(count)
  const up = 32 - 1 - highBit
  const down = 32 - bitsStored
  // What is above the high bit goes out at the top, what is below comes down with the sign, or zeros.
  if (isSigned) for (let i = 0; i < count; i++) values[i] = ((cells[i] ?? 0) << up) >> down
  else for (let i = 0; i < count; i++) values[i] = ((cells[i] ?? 0) << up) >>> down
  return values
}

/**
 * The frame as RGB of 8 bits, pixel by pixel; undefined for what is grey.
 *
 * @returns rows x columns x 3 bytes
 */
export function colorOf(
  native: Uint8Array,
  format: ImageFormat,
  display: Pick<Display, 'palette'>,
): Uint8Array | undefined {
  const { samplesPerPixel, bitsAllocated, photometric } = format
  if (display.palette && samplesPerPixel === 1) return paletteColor(grayValues(native, format), display.palette)
  if (samplesPerPixel < 3) return undefined
  if (/_422$/.test(photometric)) return toRgb(upsampled(native, format), photometric)
  const byPixel = rearranged(native, format, false)
  const bytes = bitsAllocated === 8 ? byPixel : highBytes(byPixel, format)
  const three = samplesPerPixel === 3 ? bytes : withoutFourth(bytes)
  return photometric.startsWith('YBR') ? toRgb(three, photometric) : three
}

function uint16s(bytes: Uint8Array): Uint16Array {
  const aligned = bytes.byteOffset % 2 === 0 ? bytes : new Uint8Array(bytes)
  return new Uint16Array(aligned.buffer, aligned.byteOffset, aligned.length >> 1)
}

function wideValue(view: DataView, index: number, width: number, isSigned: boolean): number {
  if (width === 4) return isSigned ? view.getInt32(4 * index, true) : view.getUint32(4 * index, true)
  if (width === 8) return Number(isSigned ? view.getBigInt64(8 * index, true) : view.getBigUint64(8 * index, true))
  let value = 0
  for (let byte = width - 1; byte >= 0; byte--) value = value * 256 + view.getUint8(width * index + byte)
  return isSigned && value >= 256 ** width / 2 ? value - 256 ** width : value
}

function paletteColor(values: Values, [red, green, blue]: readonly [Lut, Lut, Lut]): Uint8Array {
  const out = new Uint8Array(3 * values.length)
  const tables = [red, green, blue].map(lut => ({ first: lut.first, bytes: entriesAsBytes(lut) }))
  for (const [channel, { first, bytes }] of tables.entries()) {
    const last = bytes.length - 1
    for (let i = 0; i < values.length; i++) {
      const index = (values[i] ?? 0) - first
      out[3 * i + channel] = bytes[index < 0 ? 0 : index > last ? last : index] ?? 0
    }
  }
  return out
}

/** Tables of 16 bits whose entries are bytes all the same are known. */
function entriesAsBytes({ entries, bits }: Lut): Uint8Array {
  const shift = bits > 8 && entries.some(entry => entry > 255) ? bits - 8 : 0
  return Uint8Array.from(entries, entry => entry >> shift)
}

function highBytes(bytes: Uint8Array, { bitsAllocated, bitsStored }: ImageFormat): Uint8Array {
  const shift = Math.max(0, bitsStored - 8)
  if (bitsAllocated === 16) return Uint8Array.from(uint16s(bytes), cell => cell >> shift)
  const width = bitsAllocated / 8
  return Uint8Array.from({ length: bytes.length / width }, (_, i) => bytes[i * width + width - 1] ?? 0)
}

function withoutFourth(bytes: Uint8Array): Uint8Array {
  const out = new Uint8Array((bytes.length / 4) * 3)
  for (let i = 0; i < out.length; i++) out[i] = bytes[Math.floor(i / 3) * 4 + (i % 3)] ?? 0
  return out
}

/** YBR_FULL_422 and YBR_PARTIAL_422 without compression: Y Y Cb Cr for each two pixels (PS3.3 §C.7.6.3.1.2). */
function upsampled(bytes: Uint8Array, { rows, columns }: ImageFormat): Uint8Array {
  const out = new Uint8Array(rows * columns * 3)
  for (let i = 0; i < rows * columns; i++) {
    const pair = (i >> 1) * 4
    out[3 * i] = bytes[pair + (i & 1)] ?? 0
    out[3 * i + 1] = bytes[pair + 2] ?? 0
    out[3 * i + 2] = bytes[pair + 3] ?? 0
  }
  return out
}

/** YBR_FULL and YBR_PARTIAL to RGB, 8 bits (PS3.3 §C.7.6.3.1.2). */
function toRgb(ybr: Uint8Array, photometric: string): Uint8Array {
  const isPartial = photometric.startsWith('YBR_PARTIAL')
  const [gain, black, colorGain] = isPartial ? [255 / 219, 16, 255 / 224] : [1, 0, 1]
  const out = new Uint8ClampedArray(ybr.length)
  for (let i = 0; i + 2 < ybr.length; i += 3) {
    const y = ((ybr[i] ?? 0) - black) * gain
    const cb = ((ybr[i + 1] ?? 0) - 128) * colorGain
    const cr = ((ybr[i + 2] ?? 0) - 128) * colorGain
    out[i] = y + 1.402 * cr
    out[i + 1] = y - 0.344136 * cb - 0.714136 * cr
    out[i + 2] = y + 1.772 * cb
  }
  return new Uint8Array(out.buffer)
}
