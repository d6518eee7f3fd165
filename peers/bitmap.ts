/**
 * A set of leaf numbers as bits: bit `n` is bit `n & 7` (least significant first) of byte `n >> 3`.
 * On the wire it is base64 of exactly `ceil(leaves / 8)` bytes with the unused high bits of the last
 * byte zero; in the database the same bytes.
 */
import { GatewayError } from '../gateway/errors.ts'

/** A run of leaves, both ends included, as in `leaves/{from}-{to}`. */
export interface LeafRun {
  readonly from: number
  readonly to: number
}

/** Bytes that hold `leaves` bits. */
export function bitmapBytes(leaves: number): number {
  return Math.ceil(leaves / 8)
}

/** A fixed number of leaves, each in the set or not. */
export class Bitmap {
  readonly leaves: number
  readonly bytes: Uint8Array

  constructor(leaves: number, bytes: Uint8Array = new Uint8Array(bitmapBytes(leaves))) {
    if (bytes.length !== bitmapBytes(leaves)) {
      throw new GatewayError('PEER_PROTOCOL', `expected a bitmap of ${bitmapBytes(leaves)} bytes, got ${bytes.length}`)
    }
    if ((leaves & 7) !== 0 && (bytes[bytes.length - 1] ?? 0) >> (leaves & 7) !== 0) {
      throw new GatewayError('PEER_PROTOCOL', 'expected the unused bits of the bitmap to be zero')
    }
    this.leaves = leaves
    this.bytes = bytes
  }

  /** Every leaf in the set. */
  static full(leaves: number): Bitmap {
    const map = new Bitmap(leaves)
    if (leaves > 0) map.add({ from: 0, to: leaves - 1 })
    return map
  }

  /** @throws GatewayError PEER_PROTOCOL when the text is not base64 of the right length */
  static fromBase64(text: string, leaves: number): Bitmap {
    const bytes = Buffer.from(text, 'base64')
    if (bytes.toString('base64') !== text) throw new GatewayError('PEER_PROTOCOL', 'expected the bitmap in base64')
    return new Bitmap(leaves, new Uint8Array(bytes))
  }

  toBase64(): string {
    return Buffer.from(this.bytes.buffer, this.bytes.byteOffset, this.bytes.byteLength).toString('base64')
  }

  has(leaf: number): boolean {
    return (((this.bytes[leaf >> 3] ?? 0) >> (leaf & 7)) & 1) === 1
  }

  add(run: LeafRun): void {
    for (let leaf = run.from; leaf <= run.to; leaf++) {
      this.bytes[leaf >> 3] = (this.bytes[leaf >> 3] ?? 0) | (1 << (leaf & 7))
    }
  }

  remove(run: LeafRun): void {
    for (let leaf = run.from; leaf <= run.to; leaf++) {
      this.bytes[leaf >> 3] = (this.bytes[leaf >> 3] ?? 0) & ~(1 << (leaf & 7))
    }
  }

  /** Leaves in the set. */
  count(): number {
    let total = 0
    for (let byte of this.bytes) for (; byte !== 0; byte &= byte - 1) total++
    return total
  }

  /** The leaves that are not in the set. */
  complement(): Bitmap {
    const map = Bitmap.full(this.leaves)
    for (let index = 0; index < map.bytes.length; index++) {
      map.bytes[index] = (map.bytes[index] ?? 0) & ~(this.bytes[index] ?? 0)
    }
    return map
  }

  /** The first run of leaves in the set at or after `start`, at most `most` long; undefined when there is none. */
  nextRun(start: number, most: number): LeafRun | undefined {
    let from = start
    while (from < this.leaves && !this.has(from)) from += this.bytes[from >> 3] === 0 ? 8 - (from & 7) : 1
    if (from >= this.leaves) return undefined
    let to = from
    while (to + 1 < this.leaves && to + 1 - from < most && this.has(to + 1)) to++
    return { from, to }
  }
}
