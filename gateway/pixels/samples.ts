/** Samples between the cells of a data set and those that codecs take: 8 or 16 bits, by pixel. */

/** Samples as numbers, in cells of 8 or 16 bits. */
export type Cells = Uint8Array | Uint16Array

/** The samples of a frame, little endian; a view where the bytes lie as they must. */
export function cellsOf(bytes: Uint8Array, bits: number): Cells {
  if (bits <= 8) return bytes
  const aligned = bytes.byteOffset % 2 === 0 ? bytes : new Uint8Array(bytes)
  return new Uint16Array(aligned.buffer, aligned.byteOffset, aligned.length >> 1)
}

/** The bytes of samples. */
export function bytesOf(cells: Cells): Uint8Array {
  return new Uint8Array(cells.buffer, cells.byteOffset, cells.byteLength)
}

/**
 * Decoded samples in the cells of the data set, as wide as Bits Allocated. What a codec leaves in the bits above its
 * precision stays: zeros, or the sign where the code stream has one. Samples of one bit are packed (PS3.5 §8.1.1).
 */
export function inCells(cells: Cells, isSigned: boolean, bitsAllocated: number): Uint8Array {
  if (bitsAllocated === 1) return packed(cells)
  if (cells instanceof Uint16Array || bitsAllocated <= 8) return bytesOf(cells)
  const out = new Uint16Array(cells.length)
  for (let i = 0; i < cells.length; i++) {
    const value = cells[i] ?? 0
    out[i] = isSigned ? (value << 24) >> 24 : value
  }
  return bytesOf(out)
}

function packed(cells: Cells): Uint8Array {
  const out = new Uint8Array(Math.ceil(cells.length / 8))
  for (let i = 0; i < cells.length; i++) out[i >> 3] = (out[i >> 3] ?? 0) | (((cells[i] ?? 0) & 1) << (i & 7))
  return out
}

/**
 * True when every sample is a number of `bits`: nothing else, such as an overlay, is in the rest of the cell, and
 * negative numbers have all bits above the sign set.
 */
export function fitBits(cells: Cells, bits: number, isSigned: boolean): boolean {
  const width = 8 * cells.BYTES_PER_ELEMENT
  if (bits >= width) return true
  const limit = 2 ** bits
  const shift = 32 - width
  const half = limit / 2
  for (let i = 0; i < cells.length; i++) {
    const cell = cells[i] ?? 0
    const value = isSigned ? (cell << shift) >> shift : cell
    if (isSigned ? value < -half || value >= half : value >= limit) return false
  }
  return true
}

/** The lowest bits of each sample, in the smallest cells. */
export function narrowed(cells: Cells, bits: number): Cells {
  const mask = 2 ** bits - 1
  const out = bits > 8 ? new Uint16Array(cells.length) : new Uint8Array(cells.length)
  for (let i = 0; i < cells.length; i++) out[i] = (cells[i] ?? 0) & mask
  return out
}

/**
 * YCbCr as in JFIF to RGB, in place: the equations of PS3.3 §C.7.6.3.1.2 in numbers with 16 binary digits behind the
 * point, rounded as libjpeg does, so that everybody gets the same samples.
 */
export function yccToRgb(cells: Cells, precision: number): void {
  const center = 2 ** (precision - 1)
  const max = 2 ** precision - 1
  const within = (value: number): number => (value < 0 ? 0 : value > max ? max : value)
  for (let i = 0; i + 2 < cells.length; i += 3) {
    const y = cells[i] ?? 0
    const cb = (cells[i + 1] ?? 0) - center
    const cr = (cells[i + 2] ?? 0) - center
    cells[i] = within(y + ((91_881 * cr + half) >> 16))
    cells[i + 1] = within(y + ((-22_554 * cb - 46_802 * cr + half) >> 16))
    cells[i + 2] = within(y + ((116_130 * cb + half) >> 16))
  }
}

const half = 32_768
