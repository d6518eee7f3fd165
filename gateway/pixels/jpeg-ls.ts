/**
 * Decodes JPEG-LS images of one component (ITU-T T.87). CharLS does not read all of them: it gives up where the
 * differences between samples of 16 bits need Golomb codes with k beyond 15, as those of signed samples may.
 */
import { unreadable } from './codestream.ts'
import type { Cells } from './samples.ts'

/** The parameters of a scan (T.87 §C.2.4.1.1). */
interface Parameters {
  readonly maxValue: number
  readonly near: number
  readonly thresholds: readonly [number, number, number]
  readonly reset: number
}

/** The order of run lengths, J of T.87 §A.2.1. */
const runOrders = [
  0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 9, 10, 11, 12, 13, 14, 15,
] as const

/**
 * The samples of an image of one component.
 *
 * @param precision  bits of each sample, from the frame header
 * @throws GatewayError PIXELS_UNREADABLE
 */
export function decodeJpegLs(
  bytes: Uint8Array,
  { rows, columns, precision }: { readonly rows: number; readonly columns: number; readonly precision: number },
): Cells {
  const { at, parameters } = readHeader(bytes, precision)
  const out = precision > 8 ? new Uint16Array(rows * columns) : new Uint8Array(rows * columns)
  const scan = new Scan(new BitReader(bytes, at), parameters)
  // One sample more at each end: those left and right of the line (T.87 §A.2.1).
  let above = new Int32Array(columns + 2)
  let line = new Int32Array(columns + 2)
  for (let y = 0; y < rows; y++) {
    above[columns + 1] = above[columns] ?? 0
    line[0] = above[1] ?? 0
    scan.line(above, line, columns)
    for (let x = 0; x < columns; x++) out[y * columns + x] = line[x + 1] ?? 0
    ;[above, line] = [line, above]
  }
  return out
}

function readHeader(bytes: Uint8Array, precision: number): { at: number; parameters: Parameters } {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  let preset: readonly number[] = []
  for (let at = 2; at + 4 <= bytes.length; ) {
    const marker = view.getUint8(at + 1)
    const end = at + 2 + view.getUint16(at + 2)
    if (view.getUint8(at) !== 0xff || end > bytes.length || end < at + 4) break
    if (marker === 0xf8 && end - at >= 15 && view.getUint8(at + 4) === 1) {
      preset = [5, 7, 9, 11, 13].map(offset => view.getUint16(at + offset))
    } else if (marker === 0xf8 || marker === 0xdd) throw unreadable('restart intervals and tables are not read')
    else if (marker === 0xda && end - at >= 10) {
      return { at: end, parameters: parametersOf(preset, precision, view.getUint8(at + 7)) }
    }
    at = end
  }
  throw unreadable('expected a scan of a JPEG-LS image')
}

/** What a preset leaves out has the defaults of T.87 §C.2.4.1.1.1. */
function parametersOf(preset: readonly number[], precision: number, near: number): Parameters {
  const maxValue = preset[0] || 2 ** precision - 1
  const isLarge = maxValue >= 128
  const factor = isLarge ? (Math.min(maxValue, 4_095) + 128) >> 8 : Math.floor(256 / (maxValue + 1))
  const clamp = (value: number, least: number): number => (value > maxValue || value < least ? least : value)
  const basic = (base: number, large: number, slope: number): number =>
    isLarge ? factor * (base - large) + large + slope * near : Math.max(large, Math.floor(base / factor) + slope * near)
  const first = preset[1] || clamp(basic(3, 2, 3), near + 1)
  const second = preset[2] || clamp(basic(7, 3, 5), first)
  const third = preset[3] || clamp(basic(21, 4, 7), second)
  const reset = preset[4] || 64
  const isValid = maxValue < 2 ** precision && near <= Math.min(255, maxValue / 2) && near < first && reset >= 3
  if (!isValid || first > second || second > third || third > maxValue) throw unreadable('parameters out of range')
  return { maxValue, near, thresholds: [first, second, third], reset }
}

/** Bits of a scan: a bit of zero follows each byte of ones (T.87 §C.1). */
class BitReader {
  readonly #bytes: Uint8Array
  #at: number
  #held = 0
  #bits = 0
  #isAfterOnes = false

  constructor(bytes: Uint8Array, at: number) {
    this.#bytes = bytes
    this.#at = at
  }

  bit(): number {
    if (this.#bits === 0) this.#fill()
    return (this.#held >> --this.#bits) & 1
  }

  /** A number of up to 24 bits. */
  bits(count: number): number {
    let value = 0
    let wanted = count
    while (wanted > 0) {
      if (this.#bits === 0) this.#fill()
      const taken = Math.min(wanted, this.#bits)
      this.#bits -= taken
      wanted -= taken
      value = (value << taken) | ((this.#held >> this.#bits) & ((1 << taken) - 1))
    }
    return value
  }

  #fill(): void {
    const byte = this.#bytes[this.#at++]
    if (byte === undefined || (this.#isAfterOnes && byte > 0x7f)) throw unreadable('the code stream ends early')
    this.#held = byte
    this.#bits = this.#isAfterOnes ? 7 : 8
    this.#isAfterOnes = byte === 0xff
  }
}

const runContexts = 365

/** The state of a scan; names of variables as in T.87 Annex A. */
class Scan {
  readonly #reader: BitReader
  readonly #p: Parameters
  readonly #step: number
  readonly #range: number
  readonly #rangeBits: number
  readonly #limit: number
  readonly #a: Int32Array
  readonly #b = new Int32Array(runContexts)
  readonly #c = new Int32Array(runContexts)
  readonly #n = new Int32Array(runContexts + 2).fill(1)
  readonly #negative = new Int32Array(2)
  #runIndex = 0

  constructor(reader: BitReader, parameters: Parameters) {
    this.#reader = reader
    this.#p = parameters
    const { maxValue, near } = parameters
    this.#step = 2 * near + 1
    this.#range = Math.floor((maxValue + 2 * near) / this.#step) + 1
    this.#rangeBits = bitsFor(this.#range)
    const bits = Math.max(2, bitsFor(maxValue + 1))
    this.#limit = 2 * (bits + Math.max(8, bits))
    this.#a = new Int32Array(runContexts + 2).fill(Math.max(2, (this.#range + 32) >> 6))
  }

  /** Decodes one line; sample x is at x + 1. */
  line(above: Int32Array, line: Int32Array, columns: number): void {
    const { near } = this.#p
    for (let x = 1; x <= columns; x++) {
      const ra = line[x - 1] ?? 0
      const rb = above[x] ?? 0
      const rc = above[x - 1] ?? 0
      const d1 = (above[x + 1] ?? 0) - rb
      const d2 = rb - rc
      const d3 = rc - ra
      if (Math.abs(d1) > near || Math.abs(d2) > near || Math.abs(d3) > near) {
        const context = 81 * this.#quantize(d1) + 9 * this.#quantize(d2) + this.#quantize(d3)
        line[x] = this.#regular(context, ra, rb, rc)
      } else x = this.#run(above, line, x, columns)
    }
  }

  #quantize(d: number): number {
    const [t1, t2, t3] = this.#p.thresholds
    const size = Math.abs(d)
    const region = size >= t3 ? 4 : size >= t2 ? 3 : size >= t1 ? 2 : size > this.#p.near ? 1 : 0
    return d < 0 ? -region : region
  }

  #regular(signed: number, ra: number, rb: number, rc: number): number {
    const sign = signed < 0 ? -1 : 1
    const q = Math.abs(signed)
    const edge = rc >= Math.max(ra, rb) ? Math.min(ra, rb) : rc <= Math.min(ra, rb) ? Math.max(ra, rb) : ra + rb - rc
    const predicted = Math.min(this.#p.maxValue, Math.max(0, edge + sign * (this.#c[q] ?? 0)))
    const n = this.#n[q] ?? 1
    const k = golombOrder(n, this.#a[q] ?? 0)
    const mapped = this.#golomb(k, this.#limit)
    // Inverse of the error mapping (T.87 §A.5.2): with a bias below, even numbers are negative.
    const isSwapped = this.#p.near === 0 && k === 0 && 2 * (this.#b[q] ?? 0) <= -n
    const half = mapped >> 1
    const error = (mapped & 1) === (isSwapped ? 1 : 0) ? half : -half - 1
    this.#update(q, error)
    return this.#reconstruct(predicted, sign * error)
  }

  /** Variables of a context after an error (T.87 §A.6). */
  #update(q: number, error: number): void {
    let a = (this.#a[q] ?? 0) + Math.abs(error)
    let b = (this.#b[q] ?? 0) + error * this.#step
    let n = this.#n[q] ?? 1
    let c = this.#c[q] ?? 0
    if (n === this.#p.reset) {
      a >>= 1
      b >>= 1
      n >>= 1
    }
    n++
    if (b <= -n) {
      b = Math.max(b + n, 1 - n)
      if (c > -128) c--
    } else if (b > 0) {
      b = Math.min(b - n, 0)
      if (c < 127) c++
    }
    this.#a[q] = a
    this.#b[q] = b
    this.#n[q] = n
    this.#c[q] = c
  }

  /** A run from `x` on and the sample that ends it; returns the last sample that was decoded. */
  #run(above: Int32Array, line: Int32Array, start: number, columns: number): number {
    const value = line[start - 1] ?? 0
    let x = start
    while (this.#reader.bit() === 1) {
      const wanted = 1 << (runOrders[this.#runIndex] ?? 0)
      const end = Math.min(x + wanted, columns + 1)
      line.fill(value, x, end)
      if (end - x === wanted) this.#runIndex = Math.min(31, this.#runIndex + 1)
      x = end
      if (x > columns) return columns
    }
    const order = runOrders[this.#runIndex] ?? 0
    const end = x + this.#reader.bits(order)
    if (end > columns) throw unreadable('a run is longer than its line')
    line.fill(value, x, end)
    line[end] = this.#interruption(value, above[end] ?? 0, this.#limit - order - 1)
    if (this.#runIndex > 0) this.#runIndex--
    return end
  }

  /** The sample that ends a run (T.87 §A.7.2). */
  #interruption(ra: number, rb: number, limit: number): number {
    const type = Math.abs(ra - rb) <= this.#p.near ? 1 : 0
    const q = runContexts + type
    let n = this.#n[q] ?? 1
    let a = this.#a[q] ?? 0
    let negative = this.#negative[type] ?? 0
    const k = golombOrder(n, type === 1 ? a + (n >> 1) : a)
    const mapped = this.#golomb(k, limit)
    const folded = mapped + type
    const isOdd = (folded & 1) === 1
    const size = (folded + 1) >> 1
    const error = (k !== 0 || 2 * negative >= n) === isOdd ? -size : size
    if (error < 0) negative++
    a += (mapped + 1 - type) >> 1
    if (n === this.#p.reset) {
      a >>= 1
      n >>= 1
      negative >>= 1
    }
    this.#a[q] = a
    this.#n[q] = n + 1
    this.#negative[type] = negative
    return type === 1 ? this.#reconstruct(ra, error) : this.#reconstruct(rb, ra > rb ? -error : error)
  }

  #reconstruct(predicted: number, error: number): number {
    const { maxValue, near } = this.#p
    const span = this.#range * this.#step
    let value = predicted + error * this.#step
    if (value < -near) value += span
    else if (value > maxValue + near) value -= span
    return Math.min(maxValue, Math.max(0, value))
  }

  /** A limited Golomb code (T.87 §A.5.3). */
  #golomb(k: number, limit: number): number {
    const most = limit - this.#rangeBits - 1
    let high = 0
    while (this.#reader.bit() === 0) {
      if (++high > most) throw unreadable('a code is longer than allowed')
    }
    if (high === most) return this.#reader.bits(this.#rangeBits) + 1
    return high * (1 << k) + this.#reader.bits(k)
  }
}

/** The least k with n * 2^k >= a. */
function golombOrder(n: number, a: number): number {
  let k = 0
  while (n << k < a && k < 24) k++
  return k
}

function bitsFor(count: number): number {
  return Math.ceil(Math.log2(count))
}
