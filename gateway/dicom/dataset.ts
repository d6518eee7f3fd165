/** A data set as it was read: elements with their place in the bytes, values or ranges, items, fragments. */
import { type Charset, charsetOfValue } from './charset.ts'
import { latin1 } from './code-table.ts'
import type { Tag } from './tag.ts'
import { type Vr, vrFacts } from './vr.ts'

/** How elements are encoded: PS3.5 §7.1.2 or §7.1.3, and the byte order of §7.3. */
export interface Encoding {
  readonly explicitVr: boolean
  readonly bigEndian: boolean
}

/** Bytes `offset` to `offset + length` of the source. */
export interface ByteRange {
  readonly offset: number
  readonly length: number
}

/**
 * One element. Offsets count in the source, for the deflated syntaxes in the inflated data set.
 * At most one of `value`, `items`, `fragments` is there; none means a value left in the source as
 * the range `valueOffset`, `length`.
 */
export interface Element {
  readonly tag: Tag
  /** The VR of the value; from the dictionary for implicit VR and for UN of a known tag. */
  readonly vr: Vr
  /** Of the first byte of the tag. */
  readonly offset: number
  readonly valueOffset: number
  /** Bytes from `valueOffset` to the end of the element, delimiters of an undefined length included. */
  readonly length: number
  readonly isUndefinedLength: boolean
  /** Of the numbers in the value, and of the items. */
  readonly encoding: Encoding
  readonly value: Uint8Array | undefined
  readonly items: readonly Item[] | undefined
  /** Encapsulated pixel data; the first is the Basic Offset Table (PS3.5 §A.4). */
  readonly fragments: readonly ByteRange[] | undefined
}

/** Elements in the order of the bytes. */
export interface Dataset {
  readonly elements: readonly Element[]
  /** Of this data set's text: its own (0008,0005), else that of the data set around it. */
  readonly charset: Charset
}

/** A data set inside a sequence. */
export interface Item extends Dataset {
  /** Of the item's tag. */
  readonly offset: number
  readonly valueOffset: number
  /** Bytes from `valueOffset` to the end, a delimiter included. */
  readonly length: number
  readonly isUndefinedLength: boolean
}

/** The first element with this tag. */
export function findElement(dataset: Dataset, tag: Tag): Element | undefined {
  for (const element of dataset.elements) if (element.tag === tag) return element
  return undefined
}

/** The values of a text element, trimmed as its VR allows; empty when there is none or its bytes were left in the source. */
export function stringsOf(dataset: Dataset, tag: Tag): string[] {
  const element = findElement(dataset, tag)
  return element === undefined ? [] : decodeStrings(element, dataset.charset)
}

/** The first value of a text element; undefined when absent or empty. */
export function stringOf(dataset: Dataset, tag: Tag): string | undefined {
  return stringsOf(dataset, tag)[0] || undefined
}

/** The numbers of an element: binary ones, or those of DS and IS; NaN where the text is no number. */
export function numbersOf(dataset: Dataset, tag: Tag): number[] {
  const element = findElement(dataset, tag)
  if (element === undefined) return []
  if (element.vr === 'DS' || element.vr === 'IS') return decodeStrings(element, dataset.charset).map(parseDecimal)
  return decodeNumbers(element).map(Number)
}

/** The items of a sequence; empty when absent. */
export function itemsOf(dataset: Dataset, tag: Tag): readonly Item[] {
  return findElement(dataset, tag)?.items ?? []
}

/** The values of a text element: decoded, split at backslashes, padding and insignificant spaces removed (PS3.5 §6.2). */
export function decodeStrings(element: Element, charset: Charset): string[] {
  const { value, vr } = element
  const { kind, multiValued } = vrFacts(vr)
  if (value === undefined || value.length === 0 || (kind !== 'text' && kind !== 'ascii')) return []
  const text = kind === 'text' ? charset.decode(value, vr === 'PN' ? 'names' : 'text') : decodeAscii(value)
  if (!multiValued) return [trimEnd(text)]
  const isLeadingSpaceKept = vr === 'UC' || vr === 'PN'
  if (!text.includes('\\')) return [isLeadingSpaceKept ? trimEnd(text) : trimBoth(text)]
  return text.split('\\').map(isLeadingSpaceKept ? trimEnd : trimBoth)
}

/** The numbers of a binary element; bigint for the 64-bit VRs, tags for AT. Empty for other VRs. */
export function decodeNumbers(element: Element): (number | bigint)[] {
  const { value, vr, encoding } = element
  if (value === undefined) return []
  const read = readers[vr]
  if (read === undefined) return []
  const view = new DataView(value.buffer, value.byteOffset, value.byteLength)
  const width = vr === 'AT' ? 4 : vrFacts(vr).unitBytes
  const numbers: (number | bigint)[] = []
  for (let at = 0; at + width <= value.length; at += width) numbers.push(read(view, at, !encoding.bigEndian))
  return numbers
}

/** The character set that a data set declares, by its (0008,0005); undefined when it declares none. */
export function declaredCharset(elements: readonly Element[]): Charset | undefined {
  for (const { tag, value } of elements) {
    if (tag === 0x00080005) return value === undefined ? undefined : charsetOfValue(value)
    if (tag > 0x00080005) return undefined
  }
  return undefined
}

/** A decimal or integer string as a number; NaN when it is none. */
export function parseDecimal(text: string): number {
  return /^[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?$/.test(text) ? Number(text) : Number.NaN
}

type NumberReader = (view: DataView, at: number, little: boolean) => number | bigint

const readers: Readonly<Partial<Record<Vr, NumberReader>>> = {
  US: (view, at, little) => view.getUint16(at, little),
  SS: (view, at, little) => view.getInt16(at, little),
  UL: (view, at, little) => view.getUint32(at, little),
  SL: (view, at, little) => view.getInt32(at, little),
  FL: (view, at, little) => view.getFloat32(at, little),
  FD: (view, at, little) => view.getFloat64(at, little),
  UV: (view, at, little) => view.getBigUint64(at, little),
  SV: (view, at, little) => view.getBigInt64(at, little),
  AT: (view, at, little) => ((view.getUint16(at, little) << 16) | view.getUint16(at + 2, little)) >>> 0,
}

function decodeAscii(value: Uint8Array): string {
  const text = latin1(value)
  return text.includes('\0') ? text.replaceAll('\0', '') : text
}

function trimEnd(text: string): string {
  let end = text.length
  while (end > 0 && text.charCodeAt(end - 1) === 0x20) end--
  return end === text.length ? text : text.slice(0, end)
}

function trimBoth(text: string): string {
  let start = 0
  while (start < text.length && text.charCodeAt(start) === 0x20) start++
  return trimEnd(start === 0 ? text : text.slice(start))
}
