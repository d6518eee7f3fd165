/** Transfer syntaxes as far as pixels go: what can be read, what can be written, and which one suits a receiver. */
import {
  deflatedExplicitVrLittleEndian,
  explicitVrBigEndian,
  explicitVrLittleEndian,
  implicitVrLittleEndian,
} from '../dicom/uid.ts'

/** The compression of a transfer syntax; `none` is native pixel data. */
export type Compression = 'none' | 'raw' | 'rle' | 'deflate' | 'jpeg' | 'jpeg-ls' | 'jpeg-2000' | 'htj2k' | 'jpeg-xl'

/** What is known of a transfer syntax. */
export interface PixelSyntax {
  readonly compression: Compression
  /** Objects in it may have lost information, so that they are only ever decompressed. */
  readonly mayBeLossy: boolean
  /** We write it, without loss. */
  readonly isWritten: boolean
  /** We write it with loss, where a person has named it. */
  readonly isNamed: boolean
}

type Ways = '' | 'lossy' | 'write' | 'lossy write' | 'lossy named'

const syntax = (compression: Compression, how: Ways): PixelSyntax => ({
  compression,
  mayBeLossy: how.includes('lossy'),
  isWritten: how.includes('write'),
  isNamed: how.includes('named'),
})

/** In the order in which they are offered to a receiver: first those that cost least and that everybody reads. */
const pixelSyntaxes: ReadonlyMap<string, PixelSyntax> = new Map([
  [explicitVrLittleEndian, syntax('none', 'write')],
  [implicitVrLittleEndian, syntax('none', 'write')],
  [deflatedExplicitVrLittleEndian, syntax('none', '')],
  [explicitVrBigEndian, syntax('none', 'write')],
  ['1.2.840.10008.1.2.4.80', syntax('jpeg-ls', 'write')],
  ['1.2.840.10008.1.2.4.70', syntax('jpeg', 'write')],
  ['1.2.840.10008.1.2.4.57', syntax('jpeg', 'write')],
  ['1.2.840.10008.1.2.4.201', syntax('htj2k', 'write')],
  ['1.2.840.10008.1.2.4.202', syntax('htj2k', 'write')],
  ['1.2.840.10008.1.2.4.90', syntax('jpeg-2000', 'write')],
  ['1.2.840.10008.1.2.5', syntax('rle', 'write')],
  ['1.2.840.10008.1.2.4.203', syntax('htj2k', 'lossy write')],
  ['1.2.840.10008.1.2.4.91', syntax('jpeg-2000', 'lossy write')],
  ['1.2.840.10008.1.2.4.50', syntax('jpeg', 'lossy named')],
  ['1.2.840.10008.1.2.4.51', syntax('jpeg', 'lossy named')],
  ['1.2.840.10008.1.2.4.53', syntax('jpeg', 'lossy')],
  ['1.2.840.10008.1.2.4.55', syntax('jpeg', 'lossy')],
  ['1.2.840.10008.1.2.4.81', syntax('jpeg-ls', 'lossy named')],
  ['1.2.840.10008.1.2.4.110', syntax('jpeg-xl', '')],
  ['1.2.840.10008.1.2.4.111', syntax('jpeg-xl', 'lossy')],
  ['1.2.840.10008.1.2.4.112', syntax('jpeg-xl', 'lossy')],
  ['1.2.840.10008.1.2.8.1', syntax('deflate', '')],
  ['1.2.840.10008.1.2.1.98', syntax('raw', '')],
])

/** What is known of a transfer syntax; undefined for those whose pixels we do not read. */
export function pixelSyntax(uid: string): PixelSyntax | undefined {
  return pixelSyntaxes.get(uid)
}

/**
 * True when objects of one transfer syntax can be had in another one, without loss of anything that is left in them: a
 * lossy source is only ever decompressed. A single object may still refuse, by TRANSCODE_UNSUPPORTED.
 */
export function canTranscode(fromUid: string, toUid: string): boolean {
  const from = pixelSyntax(fromUid)
  const to = pixelSyntax(toUid)
  if (fromUid === toUid || from === undefined || to === undefined || !to.isWritten) return false
  return !from.mayBeLossy || to.compression === 'none'
}

/**
 * True when objects of one transfer syntax can be compressed with loss into another one. Nobody but a person who names
 * that syntax may choose it: it is no part of `canTranscode`, thus of no negotiation. A single object may still refuse,
 * by TRANSCODE_UNSUPPORTED.
 */
export function canCompress(fromUid: string, toUid: string): boolean {
  return fromUid !== toUid && pixelSyntax(fromUid) !== undefined && pixelSyntax(toUid)?.isNamed === true
}

/**
 * The transfer syntaxes to send an object in, best first: as it is stored where the receiver takes that, then those that
 * it can be transcoded to. Empty when there are none.
 *
 * @param stored  the transfer syntax of the object
 * @param accepted  those that the receiver takes
 */
export function preferredSyntaxes(stored: string, accepted: Iterable<string>): string[] {
  const taken = new Set(accepted)
  const targets = [...pixelSyntaxes.keys()].filter(uid => taken.has(uid) && canTranscode(stored, uid))
  return taken.has(stored) ? [stored, ...targets] : targets
}
