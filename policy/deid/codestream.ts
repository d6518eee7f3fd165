/**
 * Comments and application data inside compressed frames: text that devices write beside the pixels. They are
 * overwritten in place, so that lengths, offset tables and pixels stay what they are.
 */
import { HoldError } from './hold.ts'

/** Families of codestreams by what can be hidden in them. */
export type Codestream = 'jpeg' | 'jpeg-ls' | 'jpeg-2000' | 'jpeg-xl' | 'plain'

const jpegSyntax = /^1\.2\.840\.10008\.1\.2\.4\.(?:5\d|6[0-6]|70)$/

/** The family of an encapsulated transfer syntax; undefined for video and others that cannot be searched. */
export function codestreamOf(transferSyntaxUid: string): Codestream | undefined {
  if (jpegSyntax.test(transferSyntaxUid)) return 'jpeg'
  const syntax = /^1\.2\.840\.10008\.1\.2\.(.*)$/.exec(transferSyntaxUid)?.[1] ?? ''
  if (syntax === '4.80' || syntax === '4.81') return 'jpeg-ls'
  if (['4.90', '4.91', '4.92', '4.93', '4.201', '4.202', '4.203'].includes(syntax)) return 'jpeg-2000'
  if (['4.110', '4.111', '4.112'].includes(syntax)) return 'jpeg-xl'
  // RLE, deflated frames, uncompressed frames in fragments: nothing but pixels.
  if (syntax === '5' || syntax === '8.1' || syntax === '1.98') return 'plain'
  return undefined
}

/** True for bytes that begin a codestream of the family. */
export function beginsCodestream(bytes: Uint8Array, family: Codestream): boolean {
  const first = (bytes[0] ?? 0) * 256 + (bytes[1] ?? 0)
  return family === 'jpeg-2000' ? first === 0xff4f : first === 0xffd8
}

/**
 * Overwrites comments and application data of one frame, and what lies behind its end.
 *
 * @throws HoldError `codestream` when the markers cannot be followed
 */
export function cleanCodestream(bytes: Uint8Array, family: Codestream): void {
  if (family === 'plain') return
  if (family === 'jpeg-xl') {
    // The bare codestream has no metadata; the container has boxes of Exif and XML.
    if (bytes[0] !== 0xff || bytes[1] !== 0x0a) throw unreadable('JPEG XL container')
  } else if (family === 'jpeg-2000') cleanJpeg2000(bytes)
  else cleanJpeg(bytes, family)
}

function cleanJpeg(bytes: Uint8Array, family: 'jpeg' | 'jpeg-ls'): void {
  if (!beginsCodestream(bytes, family)) throw unreadable('no start of image')
  let at = 2
  while (at < bytes.length) {
    if (bytes[at] !== 0xff) throw unreadable('expected a marker')
    const marker = bytes[at + 1]
    if (marker === 0xff) {
      at++
      continue
    }
    if (marker === undefined) return
    if (marker === 0xd9) {
      bytes.fill(0, at + 2)
      return
    }
    if (marker === 0x01 || (marker >= 0xd0 && marker <= 0xd8)) {
      at += 2
      continue
    }
    if (marker < 0xc0) throw unreadable('reserved marker')
    const length = segmentLength(bytes, at + 2)
    const payload = bytes.subarray(at + 4, at + 2 + length)
    if (marker === 0xfe) payload.fill(0x20)
    else if (marker >= 0xe0 && marker <= 0xef) payload.fill(0, keptApplicationBytes(marker, payload))
    at += 2 + length
    if (marker === 0xda) at = endOfScan(bytes, at, family)
  }
}

/** What decoding needs of application data: JFIF's header, Adobe's and JPEG-LS's colour transform; no thumbnails. */
function keptApplicationBytes(marker: number, payload: Uint8Array): number {
  const begins = (text: string): boolean => Buffer.from(payload.subarray(0, text.length)).toString('latin1') === text
  if (marker === 0xe0 && begins('JFIF\0')) {
    // Without its thumbnail the header says so: 0 x 0.
    payload.fill(0, 12)
    return Math.min(14, payload.length)
  }
  if (marker === 0xee && begins('Adobe')) return 12
  if (marker === 0xe8 && begins('mrfx')) return 5
  return 0
}

/** The marker behind entropy-coded data: FF00 and restarts belong to it; in JPEG-LS, FF and a byte below 80 (ISO 14495-1). */
function endOfScan(bytes: Uint8Array, from: number, family: 'jpeg' | 'jpeg-ls'): number {
  for (let at = bytes.indexOf(0xff, from); at >= 0; at = bytes.indexOf(0xff, at + 1)) {
    const next = bytes[at + 1] ?? 0
    const isData = family === 'jpeg' ? next === 0 || next === 0xff : next < 0x80
    if (!isData && !(next >= 0xd0 && next <= 0xd7)) return at
  }
  return bytes.length
}

function cleanJpeg2000(bytes: Uint8Array): void {
  if (!beginsCodestream(bytes, 'jpeg-2000')) throw unreadable('no start of codestream')
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  let at = 2
  let tilePart: { readonly begin: number; readonly length: number } | undefined
  while (at + 2 <= bytes.length) {
    const marker = view.getUint16(at)
    if (marker === 0xffd9) {
      bytes.fill(0, at + 2)
      return
    }
    if (marker === 0xff93) {
      // Start of data: the tile-part's length leads behind it; 0 means up to the end (ISO 15444-1 A.4.2).
      if (tilePart === undefined) throw unreadable('data outside of a tile-part')
      if (tilePart.length === 0) return
      at = tilePart.begin + tilePart.length
      tilePart = undefined
      continue
    }
    if (marker < 0xff30 || marker > 0xffff) throw unreadable('expected a marker')
    if (marker <= 0xff3f) {
      at += 2
      continue
    }
    const length = segmentLength(bytes, at + 2)
    if (marker === 0xff90) {
      if (length !== 10) throw unreadable('tile-part header')
      tilePart = { begin: at, length: view.getUint32(at + 6) }
      if (tilePart.length !== 0 && tilePart.length < 14) throw unreadable('tile-part length')
    } else if (marker === 0xff64) bytes.fill(0x20, at + 6, at + 2 + length)
    at += 2 + length
  }
}

/** The length field of a marker segment, which counts itself. */
function segmentLength(bytes: Uint8Array, at: number): number {
  const length = (bytes[at] ?? 0) * 256 + (bytes[at + 1] ?? 0)
  if (length < 2 || at + length > bytes.length) throw unreadable('a marker segment is longer than the frame')
  return length
}

function unreadable(what: string): HoldError {
  return new HoldError('codestream', `a compressed frame cannot be searched for text: ${what}`, {
    tag: 0x7fe00010,
    rule: 'comments in codestreams are removed',
  })
}
