/**
 * What the header of a compressed frame says of its samples: JPEG and JPEG-LS (ITU-T T.81 §B.2, T.87 §C), JPEG 2000 and
 * HTJ2K (ITU-T T.800 §A.5). Codecs trust these numbers with memory, so they are compared with the data set before.
 */
import { GatewayError } from '../errors.ts'
import type { ImageFormat } from './image.ts'
import type { Compression } from './syntaxes.ts'

/** The samples of a compressed frame. */
export interface Codestream {
  readonly rows: number
  readonly columns: number
  readonly components: number
  /** Bits of each sample; 0 when the header is not read for it. */
  readonly precision: number
  readonly isSigned: boolean
  /** The three components are YCbCr as in JFIF; undefined for a JPEG that does not say. */
  readonly saysYcc: boolean | undefined
  /** Of JPEG 2000: decoding undoes a color transform, so that RGB comes out. */
  readonly isTransformed: boolean
  /** Of JPEG: samples are predicted, not transformed. */
  readonly isPredicted: boolean
  /** Of JPEG-LS: components one after the other. */
  readonly isPlanar: boolean
}

/** Headers, with their comments and profiles, are not longer. */
export const longestHeaderBytes = 262_144

/**
 * Reads the header of a compressed frame; undefined for compressions whose codec looks for itself.
 *
 * @throws GatewayError PIXELS_UNREADABLE
 */
export function readCodestream(bytes: Uint8Array, compression: Compression): Codestream | undefined {
  switch (compression) {
    case 'jpeg':
    case 'jpeg-ls':
      return readJpeg(bytes, compression === 'jpeg-ls')
    case 'jpeg-2000':
    case 'htj2k':
      return readJpeg2000(bytes)
    default:
      return undefined
  }
}

/** Fails unless the code stream has the rows, columns and samples of the data set. @throws GatewayError PIXELS_UNREADABLE */
export function checkCodestream(stream: Codestream, format: ImageFormat): void {
  const { rows, columns, samplesPerPixel, bitsAllocated } = format
  if (stream.rows !== rows || stream.columns !== columns || stream.components !== samplesPerPixel) {
    throw unreadable('expected the rows, columns and samples of the data set')
  }
  if (stream.precision < 1 || stream.precision > Math.min(16, bitsAllocated)) {
    throw unreadable('expected samples of at most 16 bits that fit the data set')
  }
}

/**
 * True when the components are to be converted from YCbCr to RGB: those of a lossy JPEG, by its own word, else by that
 * of the data set. Data sets that say RGB beside a JFIF header are known to be wrong.
 */
export function isYcc({ components, isPredicted, isTransformed, saysYcc }: Codestream, stored: ImageFormat): boolean {
  if (components !== 3 || isPredicted || isTransformed) return false
  return saysYcc ?? stored.photometric.startsWith('YBR')
}

function readJpeg(bytes: Uint8Array, isLs: boolean): Codestream {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  let frame: Pick<Codestream, 'rows' | 'columns' | 'components' | 'precision' | 'isPredicted'> | undefined
  let saysYcc: boolean | undefined
  for (const { marker, at, length } of segments(view)) {
    if (isFrame(marker) && isLs === (marker === 0xf7) && length >= 6) {
      frame = {
        precision: view.getUint8(at),
        rows: view.getUint16(at + 1),
        columns: view.getUint16(at + 3),
        components: view.getUint8(at + 5),
        isPredicted: marker === 0xc3 || marker === 0xf7,
      }
      if (isNamedRgb(view, at, length)) saysYcc = false
    } else if (marker === 0xe0 && length >= 5 && view.getUint32(at) === jfif) saysYcc ??= true
    else if (marker === 0xee && length >= 12 && view.getUint32(at) === adobe) saysYcc = view.getUint8(at + 11) !== 0
    else if (marker === 0xda && frame !== undefined) {
      const count = length > 0 ? view.getUint8(at) : 0
      // The interleave mode follows the component selectors and NEAR (T.87 §C.2.3).
      const isPlanar =
        isLs && frame.components > 1 && length >= 3 + 2 * count && view.getUint8(at + 2 + 2 * count) === 0
      return { ...frame, saysYcc, isSigned: false, isTransformed: false, isPlanar }
    }
  }
  throw unreadable('expected the header of a JPEG image')
}

/** Components whose identifiers are the letters R, G and B. */
function isNamedRgb(view: DataView, at: number, length: number): boolean {
  return length >= 15 && [0x52, 0x47, 0x42].every((letter, i) => view.getUint8(at + 6 + 3 * i) === letter)
}

const jfif = 0x4a464946
const adobe = 0x41646f62

/** SOF markers: all of 0xC0 to 0xCF but DHT, JPG and DAC; 0xF7 is that of JPEG-LS. */
function isFrame(marker: number): boolean {
  const isSof = marker >= 0xc0 && marker <= 0xcf && marker !== 0xc4 && marker !== 0xc8 && marker !== 0xcc
  return isSof || marker === 0xf7
}

/** The marker segments up to the first scan; `at` is behind the length. */
function* segments(view: DataView): Generator<{ marker: number; at: number; length: number }> {
  let at = 0
  while (at + 4 <= view.byteLength) {
    if (view.getUint8(at) !== 0xff) return
    const marker = view.getUint8(at + 1)
    if (marker === 0xff) at++
    else if (marker === 0xd8 || marker === 0x01) at += 2
    else {
      const length = view.getUint16(at + 2) - 2
      if (length < 0 || at + 4 + length > view.byteLength) return
      yield { marker, at: at + 4, length }
      if (marker === 0xda) return
      at += 4 + length
    }
  }
}

function readJpeg2000(bytes: Uint8Array): Codestream {
  const start = startOfCodestream(bytes)
  const view = new DataView(bytes.buffer, bytes.byteOffset + start, bytes.byteLength - start)
  if (view.byteLength < 45) throw unreadable('expected the header of a JPEG 2000 image')
  const components = view.getUint16(40)
  const end = 4 + view.getUint16(4)
  if (components === 0 || end !== 42 + 3 * components || end > view.byteLength) {
    throw unreadable('expected the header of a JPEG 2000 image')
  }
  const depth = view.getUint8(42)
  for (let i = 0; i < components; i++) {
    const isAlike = view.getUint8(42 + 3 * i) === depth && view.getUint16(43 + 3 * i) === 0x0101
    if (!isAlike) throw unreadable('expected components of the same bits without subsampling')
  }
  return {
    rows: view.getUint32(12) - view.getUint32(20),
    columns: view.getUint32(8) - view.getUint32(16),
    components,
    precision: (depth & 0x7f) + 1,
    isSigned: depth >= 0x80,
    saysYcc: false,
    isTransformed: components > 1 && usesTransform(view, end),
    isPredicted: false,
    isPlanar: false,
  }
}

/** SOC and SIZ at the start, or behind the boxes of a JP2 file. */
function startOfCodestream(bytes: Uint8Array): number {
  const start = Buffer.from(bytes.buffer, bytes.byteOffset, Math.min(bytes.length, longestHeaderBytes)).indexOf(
    Buffer.of(0xff, 0x4f, 0xff, 0x51),
  )
  if (start < 0) throw unreadable('expected the header of a JPEG 2000 image')
  return start
}

/** The multiple component transform of the main header's COD segment. */
function usesTransform(view: DataView, from: number): boolean {
  for (let at = from; at + 4 <= view.byteLength; at += 2 + view.getUint16(at + 2)) {
    const marker = view.getUint16(at)
    if (marker === 0xff52) return at + 9 <= view.byteLength && view.getUint8(at + 8) === 1
    if (marker === 0xff90 || marker < 0xff00) return false
  }
  return false
}

/** The error for a frame that cannot be decoded. */
export function unreadable(why: string): GatewayError {
  return new GatewayError('PIXELS_UNREADABLE', `cannot decode frame: ${why}`)
}
