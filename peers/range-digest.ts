/**
 * The digest of a range: SHA-256 over the SHA-256 of each of its pieces, a piece being what the range
 * holds of one object. A piece that is a whole object has the digest that the manifest signs, so both
 * sides hash every byte once, where a digest of the content would make the receiver hash it twice.
 */
import { createHash } from 'node:crypto'
import type { LeafMap, Piece } from './leaves.ts'

export const rangeDigestField = 'hanse-range-digest'

/** SHA-256 of bytes. */
export function sha256Of(bytes: Uint8Array): Buffer {
  return createHash('sha256').update(bytes).digest()
}

/** The range's digest from those of its pieces, in order. */
export function rangeDigest(pieceDigests: readonly Uint8Array[]): Buffer {
  const hash = createHash('sha256')
  for (const digest of pieceDigests) hash.update(digest)
  return hash.digest()
}

/** True when the piece is its whole object. */
export function isWholeObject(piece: Piece, map: LeafMap): boolean {
  return piece.length === map.sizeOf(piece.ordinal)
}

/** A digest field: `sha-256=:` base64 `:` (the syntax of RFC 9530 §2). */
export function formatDigestField(sha256: Uint8Array): string {
  return `sha-256=:${Buffer.from(sha256).toString('base64')}:`
}

/** The SHA-256 of a digest field; undefined when it holds none. */
export function parseDigestField(header: string | string[] | undefined): Buffer | undefined {
  const text = Array.isArray(header) ? header.join(',') : (header ?? '')
  const match = /(?:^|,)\s*sha-256=:([A-Za-z0-9+/]{43}=):\s*(?:,|$)/.exec(text)
  return match?.[1] === undefined ? undefined : Buffer.from(match[1], 'base64')
}
