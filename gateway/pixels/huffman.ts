/** Huffman codes as JPEG has them: tables that suit what they code (ITU-T T.81 §K.2), and the bits that they become. */

/** A table of codes. */
export interface HuffmanTable {
  /** How many codes have 1 to 16 bits. */
  readonly counts: Uint8Array
  /** In the order of their codes. */
  readonly symbols: readonly number[]
  readonly codes: Uint16Array
  readonly lengths: Uint8Array
}

/** Counts symbols, and makes the table that suits them. */
export class SymbolCounter {
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
export class BitWriter {
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
