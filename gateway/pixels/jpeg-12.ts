/**
 * JPEG of up to 12 bits for each sample, one component: sequential DCT with Huffman tables of its own (ITU-T T.81,
 * process 4), which the libjpeg of dcmjs-codecs decodes but does not encode. Synchronous.
 */

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
  const [dc, ac] = [new Counter(), new Counter()]
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

interface HuffmanTable {
  /** How many codes have 1 to 16 bits. */
  readonly counts: Uint8Array
  /** In the order of their codes. */
  readonly symbols: readonly number[]
  readonly codes: Uint16Array
  readonly lengths: Uint8Array
}

/** Counts symbols, and makes the table that suits them. */
class Counter {
  /** The last one is no symbol: it keeps the code of ones only free (T.81 §K.2). */
  readonly #counts = new Float64Array(257).fill(1, 256)

  count(symbol: number): void {
    this.#counts[symbol] = (this.#counts[symbol] ?? 0) + 1
  }

  table(): HuffmanTable {
    const sizes = codeSizes(this.#counts)
    const counts = limitedCounts(sizes)
    const symbols = [...sizes.keys()]
      .filter(symbol => symbol < 256 && (sizes[symbol] ?? 0) > 0)
      .sort((a, b) => (sizes[a] ?? 0) - (sizes[b] ?? 0) || a - b)
    const [codes, lengths] = [new Uint16Array(256), new Uint8Array(256)]
    let [code, next] = [0, 0]
    for (const [index, count] of counts.entries()) {
      for (let i = 0; i < count; i++) {
        const symbol = symbols[next++] ?? 0
        codes[symbol] = code++
        lengths[symbol] = index + 1
      }
      code *= 2
    }
    return { counts, symbols, codes, lengths }
  }
}

/** How long the code of each symbol is without a limit: the two rarest are joined until one is left (T.81 figure K.1). */
function codeSizes(counts: Float64Array): Uint16Array {
  const left = Float64Array.from(counts)
  const sizes = new Uint16Array(left.length)
  const groups = Array.from(left, (count, symbol) => (count > 0 ? [symbol] : []))
  const rarest = (but: number): number => {
    let found = -1
    for (let i = 0; i < left.length; i++) {
      const count = left[i] ?? 0
      if (count > 0 && i !== but && (found < 0 || count <= (left[found] ?? 0))) found = i
    }
    return found
  }
  for (;;) {
    const one = rarest(-1)
    const other = rarest(one)
    if (other < 0) return sizes
    left[one] = (left[one] ?? 0) + (left[other] ?? 0)
    left[other] = 0
    const joined = [...(groups[one] ?? []), ...(groups[other] ?? [])]
    groups[one] = joined
    for (const symbol of joined) sizes[symbol] = (sizes[symbol] ?? 0) + 1
  }
}

/** How many codes have 1 to 16 bits: longer ones are shortened in pairs (T.81 figure K.3). */
function limitedCounts(sizes: Uint16Array): Uint8Array {
  const counts = new Array<number>(258).fill(0)
  for (const size of sizes) if (size > 0) counts[size] = (counts[size] ?? 0) + 1
  const add = (size: number, count: number): void => {
    counts[size] = (counts[size] ?? 0) + count
  }
  for (let size = counts.length - 1; size > 16; size--) {
    while ((counts[size] ?? 0) > 0) {
      let shorter = size - 2
      while ((counts[shorter] ?? 0) === 0) shorter--
      add(size, -2)
      add(size - 1, 1)
      add(shorter + 1, 2)
      add(shorter, -1)
    }
  }
  // What is no symbol has one of the longest codes.
  const longest = counts.findLastIndex(count => count > 0)
  add(longest, -1)
  return Uint8Array.from(counts.slice(1, 17))
}

/** Writes segments, and bits with a zero behind each byte of ones (T.81 §F.1.2.3). */
class BitWriter {
  #bytes = new Uint8Array(65_536)
  #length = 0
  #held = 0
  #heldBits = 0

  marker(code: number, content: readonly number[]): void {
    const length = content.length + 2
    const segment = content.length > 0 ? [0xff, code, length >> 8, length & 255, ...content] : [0xff, code]
    for (const byte of segment) this.#push(byte)
  }

  /** @param size  1 to 16 */
  put(bits: number, size: number): void {
    this.#held = (this.#held << size) | bits
    this.#heldBits += size
    while (this.#heldBits >= 8) {
      this.#heldBits -= 8
      const byte = (this.#held >>> this.#heldBits) & 255
      this.#push(byte)
      if (byte === 255) this.#push(0)
    }
    this.#held &= 2 ** this.#heldBits - 1
  }

  /** Ones up to the end of the byte. */
  fill(): void {
    const left = (8 - this.#heldBits) % 8
    if (left > 0) this.put(2 ** left - 1, left)
  }

  bytes(): Uint8Array {
    return this.#bytes.slice(0, this.#length)
  }

  #push(byte: number): void {
    if (this.#length === this.#bytes.length) {
      const longer = new Uint8Array(2 * this.#length)
      longer.set(this.#bytes)
      this.#bytes = longer
    }
    this.#bytes[this.#length++] = byte
  }
}
