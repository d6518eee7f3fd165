/**
 * The Merkle tree of RFC 6962 §2.1 over SHA-256, kept as its frontier: the roots of the perfect
 * subtrees that the current size is made of, largest first (one per 1 bit of the size). Appending a
 * leaf and asking for the root need nothing else.
 */
import { hash } from 'node:crypto'

/** Roots of the perfect subtrees, largest first; each 32 bytes. */
export type Frontier = readonly Buffer[]

const leafPrefix = Buffer.of(0)
const nodePrefix = Buffer.of(1)

/** Root of the empty tree: SHA-256 of nothing. */
export const emptyRoot: Buffer = hash('sha256', '', 'buffer')

/** `SHA-256(0x00 || entry)`. */
export function leafHash(entry: Uint8Array): Buffer {
  return hash('sha256', Buffer.concat([leafPrefix, entry]), 'buffer')
}

/** `SHA-256(0x01 || left || right)`. */
export function nodeHash(left: Uint8Array, right: Uint8Array): Buffer {
  return hash('sha256', Buffer.concat([nodePrefix, left, right]), 'buffer')
}

/** A tree that grows: appends entries, knows its size and root. Not thread-safe, no I/O. */
export class MerkleTree {
  #size: number
  readonly #frontier: Buffer[]

  constructor(size = 0, frontier: Frontier = []) {
    this.#size = size
    this.#frontier = [...frontier]
  }

  get size(): number {
    return this.#size
  }

  get frontier(): Frontier {
    return this.#frontier
  }

  append(entry: Uint8Array): void {
    let node = leafHash(entry)
    // One perfect subtree merges for each trailing 1 bit of the size; sizes pass 2^31, so no bit operators.
    for (let rest = this.#size; rest % 2 === 1; rest = (rest - 1) / 2) {
      const left = this.#frontier.pop()
      if (!left) throw new RangeError(`frontier too short for a tree of ${this.#size} leaves`)
      node = nodeHash(left, node)
    }
    this.#frontier.push(node)
    this.#size += 1
  }

  root(): Buffer {
    return (
      this.#frontier.reduceRight<Buffer | undefined>(
        (right, left) => (right ? nodeHash(left, right) : left),
        undefined,
      ) ?? emptyRoot
    )
  }
}
