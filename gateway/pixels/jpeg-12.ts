/**
 * JPEG of up to 12 bits for each sample, one component: sequential DCT with Huffman tables of its own (ITU-T T.81,
 * process 4), which the libjpeg of dcmjs-codecs decodes but does not encode. Synchronous.
 */
import { BitWriter, SymbolCounter } from './huffman.ts'

/** Columns of the zigzag sequence (T.81 figure A.6): the place in a block of each coefficient in its order. */
const zigzag = Uint8Array.of(
  ...[
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7, 14, 21,
    28,
  ],
  ...[
    35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47,
  ],
  ...[55, 62, 63],
)

/** Table K.1 of T.81: luminance. */
const luminance = Uint8Array.of(
  ...[
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51,
  ],
  ...[
    87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92, 49, 64, 78, 87, 103, 121, 120, 101,
  ],
  ...[72, 92, 95, 98, 112, 100, 103, 99],
)

const precision = 12
const middle = 2 ** (precision - 1)
const greatestAc = 16_383
const endOfBlock = 0x00
const sixteenZeros = 0xf0

/** The cosines of the transform, scaled: row u, column x (T.81 §A.3.3). */
const cosines = Float64Array.from({ length: 64 }, (_, i) => {
  const [u, x] = [i >> 3, i & 7]
  return (u === 0 ? Math.SQRT1_2 : 1) * 0.5 * Math.cos(((2 * x + 1) * u * Math.PI) / 16)
})

/**
 * The code stream.
 *
 * @param samples  row by row, each below 4096
 * @param quality  1 to 100, as libjpeg scales its tables
 */
export function encodeJpeg12(
  samples: Uint16Array,
  { rows, columns }: { readonly rows: number; readonly columns: number },
  quality: number,
): Uint8Array {
  const steps = stepsFor(quality)
  const blocks = transformed(samples, { rows, columns }, steps)
  const [dc, ac] = [new SymbolCounter(), new SymbolCounter()]
  eachSymbol(blocks, (isFirst, symbol) => (isFirst ? dc : ac).count(symbol))
  const [first, others] = [dc.table(), ac.table()]
  const out = new BitWriter()
  out.marker(0xd8, [])
  out.marker(0xdb, [0, ...zigzag.map(place => steps[place] ?? 1)])
  out.marker(0xc1, [precision, rows >> 8, rows & 255, columns >> 8, columns & 255, 1, 1, 0x11, 0])
  out.marker(0xc4, [0x00, ...first.counts, ...first.symbols])
  out.marker(0xc4, [0x10, ...others.counts, ...others.symbols])
  out.marker(0xda, [1, 1, 0x00, 0, 63, 0])
  eachSymbol(blocks, (isFirst, symbol, bits, size) => {
    const { codes, lengths } = isFirst ? first : others
    out.put(codes[symbol] ?? 0, lengths[symbol] ?? 0)
    if (size > 0) out.put(bits, size)
  })
  out.fill()
  out.marker(0xd9, [])
  return out.bytes()
}

function stepsFor(quality: number): Uint8Array {
  const scale = quality < 50 ? Math.floor(5000 / quality) : 200 - 2 * quality
  return luminance.map(step => Math.min(255, Math.max(1, Math.floor((step * scale + 50) / 100))))
}

// ---- transform --------------------------------------------------------------------------------------

/** The quantized coefficients of all blocks in zigzag order, the first of each as the difference to the one before. */
function transformed(
  samples: Uint16Array,
  { rows, columns }: { readonly rows: number; readonly columns: number },
  steps: Uint8Array,
): Int16Array {
  const [high, wide] = [Math.ceil(rows / 8), Math.ceil(columns / 8)]
  const out = new Int16Array(64 * high * wide)
  const [block, half, whole] = [new Float64Array(64), new Float64Array(64), new Float64Array(64)]
  let [at, before] = [0, 0]
  for (let top = 0; top < rows; top += 8) {
    for (let left = 0; left < columns; left += 8) {
      for (let i = 0; i < 64; i++) {
        // Beyond the edge its last samples are repeated.
        const row = Math.min(rows - 1, top + (i >> 3))
        block[i] = (samples[row * columns + Math.min(columns - 1, left + (i & 7))] ?? 0) - middle
      }
      multiplied(half, block)
      multiplied(whole, half)
      for (let i = 0; i < 64; i++) {
        const place = zigzag[i] ?? 0
        const value = Math.round((whole[place] ?? 0) / (steps[place] ?? 1))
        out[at + i] = i === 0 ? value - before : Math.max(-greatestAc, Math.min(greatestAc, value))
        if (i === 0) before = value
      }
      at += 64
    }
  }
  return out
}

/** The rows of a block by the cosines, transposed: twice is the transform. */
function multiplied(out: Float64Array, block: Float64Array): void {
  for (let row = 0; row < 8; row++) {
    for (let u = 0; u < 8; u++) {
      let sum = 0
      for (let x = 0; x < 8; x++) sum += (block[8 * row + x] ?? 0) * (cosines[8 * u + x] ?? 0)
      out[8 * u + row] = sum
    }
  }
}

// ---- entropy coding ---------------------------------------------------------------------------------

/** The symbols of all blocks in order, each with the bits that follow its code (T.81 §F.1.2). */
function eachSymbol(
  blocks: Int16Array,
  visit: (isFirst: boolean, symbol: number, bits: number, size: number) => void,
): void {
  for (let at = 0; at < blocks.length; at += 64) {
    let zeros = 0
    for (let i = 0; i < 64; i++) {
      const value = blocks[at + i] ?? 0
      if (value === 0 && i > 0) {
        zeros++
        continue
      }
      for (; zeros > 15; zeros -= 16) visit(false, sixteenZeros, 0, 0)
      const size = 32 - Math.clz32(Math.abs(value))
      visit(i === 0, (zeros << 4) | size, value < 0 ? value + 2 ** size - 1 : value, size)
      zeros = 0
    }
    if (zeros > 0) visit(false, endOfBlock, 0, 0)
  }
}
