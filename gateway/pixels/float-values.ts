/** Float Pixel Data and Double Float Pixel Data (PS3.3 §C.7.6.24): samples that are real numbers, of one component. */
import type { ImageFormat } from './image.ts'

/** The numbers of a frame of 32 or 64 bits, little endian; NaN and infinities are among them. */
export function floatValues(native: Uint8Array, { rows, columns, bitsAllocated }: ImageFormat): Float64Array {
  const view = new DataView(native.buffer, native.byteOffset, native.byteLength)
  const values = new Float64Array(rows * columns)
  for (let i = 0; i < values.length; i++) {
    values[i] = bitsAllocated === 64 ? view.getFloat64(8 * i, true) : view.getFloat32(4 * i, true)
  }
  return values
}

/** Grey levels over all that is finite: the least value black, the greatest white. What is no number is black. */
export function stretchedFloats(values: Float64Array): Uint8Array {
  let [least, most] = [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]
  for (const value of values) {
    if (!Number.isFinite(value)) continue
    if (value < least) least = value
    if (value > most) most = value
  }
  const out = new Uint8ClampedArray(values.length)
  // Halves, so that the range of the greatest doubles is finite, too.
  const range = most / 2 - least / 2
  if (range > 0) for (let i = 0; i < values.length; i++) out[i] = (((values[i] ?? 0) / 2 - least / 2) / range) * 255
  return new Uint8Array(out.buffer)
}
