/** Builds DICOM bytes: file meta information (PS3.10 §7.1), elements and data sets (PS3.5 §7). */
import { deflateRawSync } from 'node:zlib'
import { GatewayError } from '../errors.ts'
import { type Charset, charsetOf } from './charset.ts'
import type { Encoding } from './dataset.ts'
import { entryOf } from './dictionary.ts'
import { formatTag, isPrivateTag, type Tag } from './tag.ts'
import { explicitVrLittleEndian, transferSyntax } from './uid.ts'
import { integerRange, type Vr, vrFacts } from './vr.ts'

type Scalar = string | number | bigint

/**
 * An element to write. The VR is the dictionary's first one unless given. AT takes tags as numbers. Bytes are padded to
 * even length; those of words (OW, OF, ...) are little endian, and swapped where the syntax is big endian.
 * `fragments` start with the Basic Offset Table.
 */
export type NewElement =
  | { readonly tag: Tag; readonly vr?: Vr; readonly value: Scalar | readonly Scalar[] | Uint8Array }
  | { readonly tag: Tag; readonly items: readonly (readonly NewElement[])[] }
  | { readonly tag: Tag; readonly vr?: 'OB' | 'OW'; readonly fragments: readonly Uint8Array[] }

/** Identifies this implementation in file meta (PS3.7 §D.3.3.2); constant, so that equal data sets give equal files. */
export const implementationClassUid = '2.25.221951243450127079255520476684621173436'
export const implementationVersionName = 'HANSE'

const explicitLittleEndian: Encoding = { explicitVr: true, bigEndian: false }

/**
 * Preamble, `DICM` and File Meta Information for a data set received without them (C-STORE).
 * Deterministic: the same three UIDs give the same bytes; no calling AE and no build number (they are the row's origin).
 */
export function fileMeta(ids: {
  readonly sopClassUid: string
  readonly sopInstanceUid: string
  readonly transferSyntaxUid: string
}): Uint8Array {
  const group = encodeElements(
    [
      { tag: 0x00020001, value: Uint8Array.of(0, 1) },
      { tag: 0x00020002, value: ids.sopClassUid },
      { tag: 0x00020003, value: ids.sopInstanceUid },
      { tag: 0x00020010, value: ids.transferSyntaxUid },
      { tag: 0x00020012, value: implementationClassUid },
      { tag: 0x00020013, value: implementationVersionName },
    ],
    explicitLittleEndian,
    charsetOf([]),
  )
  const length = writeElement({ tag: 0x00020000, value: group.length }, explicitLittleEndian, charsetOf([]))
  return Buffer.concat([Buffer.alloc(128), Buffer.from('DICM', 'latin1'), length, group])
}

/**
 * A data set in the encoding of a transfer syntax, elements sorted by tag, sequences and items with defined length.
 * Text is encoded by the (0008,0005) among the elements; the deflated syntaxes give the deflate stream.
 *
 * @throws GatewayError BAD_REQUEST when a value cannot be represented
 */
export function encodeDataset(elements: readonly NewElement[], transferSyntaxUid: string): Uint8Array {
  const syntax = transferSyntax(transferSyntaxUid) ?? transferSyntax(explicitVrLittleEndian)
  if (syntax === undefined) throw new GatewayError('BAD_REQUEST', 'expected a transfer syntax')
  const bytes = encodeElements(elements, syntax, charsetOf([]))
  if (!syntax.deflated) return bytes
  const deflated = deflateRawSync(bytes)
  return deflated.length % 2 === 0 ? deflated : Buffer.concat([deflated, Buffer.alloc(1)])
}

/**
 * One element with header and padding.
 *
 * @throws GatewayError BAD_REQUEST when the value cannot be represented
 */
export function writeElement(element: NewElement, encoding: Encoding, charset: Charset): Uint8Array {
  const chunks: Uint8Array[] = []
  pushElement(chunks, element, encoding, charset)
  return Buffer.concat(chunks)
}

function encodeElements(elements: readonly NewElement[], encoding: Encoding, inherited: Charset): Uint8Array {
  const charset = declaredCharset(elements) ?? inherited
  const chunks: Uint8Array[] = []
  for (const element of [...elements].sort((a, b) => a.tag - b.tag)) pushElement(chunks, element, encoding, charset)
  return Buffer.concat(chunks)
}

function declaredCharset(elements: readonly NewElement[]): Charset | undefined {
  const element = elements.find(({ tag }) => tag === 0x00080005)
  if (element === undefined || !('value' in element) || element.value instanceof Uint8Array) return undefined
  return charsetOf((Array.isArray(element.value) ? element.value : [element.value]).map(String))
}

function pushElement(chunks: Uint8Array[], element: NewElement, encoding: Encoding, charset: Charset): void {
  if ('items' in element) {
    const items = element.items.map(item => {
      const content = encodeElements(item, encoding, charset)
      return [itemHeader(0xfffee000, content.length, encoding), content]
    })
    const content = Buffer.concat(items.flat())
    chunks.push(elementHeader(element.tag, 'SQ', content.length, encoding), content)
  } else if ('fragments' in element) {
    chunks.push(elementHeader(element.tag, element.vr ?? 'OB', 0xffffffff, encoding))
    for (const fragment of element.fragments) {
      const padding = fragment.length % 2
      chunks.push(itemHeader(0xfffee000, fragment.length + padding, encoding), fragment, Buffer.alloc(padding))
    }
    chunks.push(itemHeader(0xfffee0dd, 0, encoding))
  } else {
    const vr = element.vr ?? defaultVr(element.tag)
    const value = encodeValue(element.tag, vr, element.value, encoding, charset)
    chunks.push(elementHeader(element.tag, vr, value.length, encoding), value)
  }
}

/** The VR to write for a tag: the dictionary's first, LO for private creators, UN for the rest. */
function defaultVr(tag: Tag): Vr {
  if ((tag & 0xffff) === 0) return 'UL'
  if (isPrivateTag(tag) && (tag & 0xff00) === 0) return 'LO'
  return entryOf(tag)?.vrs[0] ?? 'UN'
}

/** The header of an element: tag, VR where explicit, length. */
export function elementHeader(tag: Tag, vr: Vr, length: number, encoding: Encoding): Uint8Array {
  if (!encoding.explicitVr) return itemHeader(tag, length, encoding)
  // A short VR cannot carry 64 KiB; PS3.5 §6.2.2 allows UN then.
  const written = length > 0xfffe && !vrFacts(vr).longLength ? 'UN' : vr
  const isLong = vrFacts(written).longLength
  const bytes = Buffer.alloc(isLong ? 12 : 8)
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  const little = !encoding.bigEndian
  view.setUint16(0, tag >>> 16, little)
  view.setUint16(2, tag & 0xffff, little)
  bytes.write(written, 4, 'latin1')
  if (isLong) view.setUint32(8, length, little)
  else view.setUint16(6, length, little)
  return bytes
}

/** Tag and 32-bit length without VR: items, delimiters, implicit VR. */
export function itemHeader(tag: Tag, length: number, encoding: Encoding): Uint8Array {
  const bytes = new Uint8Array(8)
  const view = new DataView(bytes.buffer)
  const little = !encoding.bigEndian
  view.setUint16(0, tag >>> 16, little)
  view.setUint16(2, tag & 0xffff, little)
  view.setUint32(4, length, little)
  return bytes
}

function encodeValue(
  tag: Tag,
  vr: Vr,
  value: Scalar | readonly Scalar[] | Uint8Array,
  encoding: Encoding,
  charset: Charset,
): Uint8Array {
  if (value instanceof Uint8Array) {
    const { kind, unitBytes } = vrFacts(vr)
    if (kind === 'text' || kind === 'ascii') return padded(value, vr === 'UI' ? 0 : 0x20)
    return encoding.bigEndian ? swapped(padded(value, 0), unitBytes) : padded(value, 0)
  }
  const values: readonly Scalar[] = isList(value) ? value : [value]
  const { kind } = vrFacts(vr)
  if (kind === 'text' || kind === 'ascii') {
    const text = values.join('\\')
    const bytes = kind === 'ascii' ? Buffer.from(text, 'latin1') : charset.encode(text, vr === 'PN' ? 'names' : 'text')
    if (bytes === undefined) throw unrepresentable(tag, vr)
    return padded(bytes, vr === 'UI' ? 0 : 0x20)
  }
  return padded(encodeNumbers(tag, vr, values, encoding), 0)
}

function isList(value: Scalar | readonly Scalar[]): value is readonly Scalar[] {
  return Array.isArray(value)
}

function encodeNumbers(tag: Tag, vr: Vr, values: readonly Scalar[], encoding: Encoding): Uint8Array {
  const width = vr === 'AT' ? 4 : vrFacts(vr).unitBytes
  const bytes = new Uint8Array(values.length * width)
  const view = new DataView(bytes.buffer)
  const little = !encoding.bigEndian
  for (const [index, scalar] of values.entries()) {
    const at = index * width
    const number = numberOf(tag, vr, scalar)
    if (vr === 'AT') {
      view.setUint16(at, number >>> 16, little)
      view.setUint16(at + 2, number & 0xffff, little)
    } else if (vr === 'US' || vr === 'OW') view.setUint16(at, number, little)
    else if (vr === 'SS') view.setInt16(at, number, little)
    else if (vr === 'UL' || vr === 'OL') view.setUint32(at, number, little)
    else if (vr === 'SL') view.setInt32(at, number, little)
    else if (vr === 'FL' || vr === 'OF') view.setFloat32(at, number, little)
    else if (vr === 'FD' || vr === 'OD') view.setFloat64(at, number, little)
    else if (vr === 'UV' || vr === 'OV') view.setBigUint64(at, BigInt(scalar), little)
    else if (vr === 'SV') view.setBigInt64(at, BigInt(scalar), little)
    else bytes[at] = number
  }
  return bytes
}

const byteRange = [0n, 0xffn] as const

/** @throws GatewayError BAD_REQUEST for what is no number, or an integer out of the range of its VR */
function numberOf(tag: Tag, vr: Vr, scalar: Scalar): number {
  const number = Number(scalar)
  const range = integerRange(vr) ?? (vrFacts(vr).unitBytes === 1 ? byteRange : undefined)
  if (range === undefined) {
    if (Number.isNaN(number) && scalar !== 'NaN' && !Number.isNaN(scalar)) throw unrepresentable(tag, vr)
  } else if (!Number.isInteger(number) || BigInt(scalar) < range[0] || BigInt(scalar) > range[1]) {
    throw unrepresentable(tag, vr)
  }
  return number
}

/** A copy with the bytes of each unit reversed; bytes beyond the last whole unit stay. */
function swapped(bytes: Uint8Array, unitBytes: number): Uint8Array {
  const copy = Buffer.from(bytes)
  const whole = copy.subarray(0, copy.length - (copy.length % unitBytes))
  if (unitBytes === 2) whole.swap16()
  else if (unitBytes === 4) whole.swap32()
  else if (unitBytes === 8) whole.swap64()
  return copy
}

function padded(bytes: Uint8Array, padding: number): Uint8Array {
  return bytes.length % 2 === 0 ? bytes : Buffer.concat([bytes, Uint8Array.of(padding)])
}

function unrepresentable(tag: Tag, vr: Vr): GatewayError {
  return new GatewayError('BAD_REQUEST', 'value cannot be represented in its VR and character set', {
    context: { tag: formatTag(tag), vr },
  })
}
