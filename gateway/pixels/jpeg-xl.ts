/** What the header of a JPEG XL code stream says of its samples (ISO/IEC 18181-1). */
import { unreadable } from './codestream.ts'

/**
 * The bits of each sample.
 *
 * @throws GatewayError PIXELS_UNREADABLE, also for previews, animations and samples that are no integers
 */
export function jpegXlPrecision(bytes: Uint8Array): number {
  const bits = new Bits(bytes, startOfCodestream(bytes) + 2)
  skipSize(bits)
  const isAllDefault = bits.take(1) === 1
  if (isAllDefault) return 8
  const hasExtraFields = bits.take(1) === 1
  if (hasExtraFields) {
    bits.take(3) // orientation
    if (bits.take(3) !== 0) throw unreadable('intrinsic sizes, previews and animations are not read')
  }
  const isFloat = bits.take(1) === 1
  if (isFloat) throw unreadable('expected samples that are integers')
  return [8, 10, 12][bits.take(2)] ?? bits.take(6) + 1
}

/** SizeHeader: the height, then a ratio or the width. */
function skipSize(bits: Bits): void {
  const isSmall = bits.take(1) === 1
  const skipLength = (): unknown => (isSmall ? bits.take(5) : bits.take([9, 13, 18, 30][bits.take(2)] ?? 0))
  skipLength()
  const hasRatio = bits.take(3) !== 0
  if (!hasRatio) skipLength()
}

/** The signature of a code stream at the start, or in a box `jxlc` or `jxlp` of the file format. */
function startOfCodestream(bytes: Uint8Array): number {
  if (bytes[0] === 0xff && bytes[1] === 0x0a) return 0
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  for (let at = 0; at + 16 <= bytes.length; ) {
    const length = view.getUint32(at)
    const type = view.getUint32(at + 4)
    const header = length === 1 ? 16 : 8
    const start = at + header + (type === partialBox ? 4 : 0)
    if ((type === codestreamBox || type === partialBox) && bytes[start] === 0xff && bytes[start + 1] === 0x0a)
      return start
    if (length === 0) break
    at += length === 1 ? Number(view.getBigUint64(at + 8)) : Math.max(8, length)
  }
  throw unreadable('expected the header of a JPEG XL image')
}

const codestreamBox = 0x6a786c63
const partialBox = 0x6a786c70

/** Bits, the least significant of each byte first. */
class Bits {
  readonly #bytes: Uint8Array
  #at: number

  constructor(bytes: Uint8Array, offset: number) {
    this.#bytes = bytes
    this.#at = 8 * offset
  }

  take(count: number): number {
    let value = 0
    for (let i = 0; i < count; i++, this.#at++) {
      const byte = this.#bytes[this.#at >> 3]
      if (byte === undefined) throw unreadable('the code stream ends early')
      value += ((byte >> (this.#at & 7)) & 1) * 2 ** i
    }
    return value
  }
}
