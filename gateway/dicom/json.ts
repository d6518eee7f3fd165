/** The DICOM JSON model, DICOM PS3.18 Annex F, in both directions. */

import { isObject } from '../decode.ts'
import { GatewayError } from '../errors.ts'
import { type Dataset, decodeNumbers, decodeStrings, type Element, parseDecimal } from './dataset.ts'
import type { NewElement } from './part10-writer.ts'
import { formatTag, isGroupLength, parseTag, type Tag } from './tag.ts'
import { integerRange, isBulkVr, isVr, type Vr, vrFacts } from './vr.ts'

/** A data set as JSON: elements by tag, `GGGGEEEE` in upper case. */
export type DicomJson = { readonly [tag: string]: JsonElement }

/** The tag of a name in DICOM JSON that is known to be one. */
export function tagOfName(name: string): Tag {
  return Number.parseInt(name, 16)
}

/** One element; without any of the three it is empty. */
export interface JsonElement {
  readonly vr: Vr
  readonly Value?: readonly JsonValue[]
  readonly InlineBinary?: string
  readonly BulkDataURI?: string
}

export type JsonValue = string | number | null | PersonName | DicomJson

/** The component groups of a person name (PS3.5 §6.2.1). */
export interface PersonName {
  readonly Alphabetic?: string
  readonly Ideographic?: string
  readonly Phonetic?: string
}

/** Of a DS value (PS3.5 Table 6.2-1). */
const maxDecimalCharacters = 16

export interface ToJsonOptions {
  /** Where a client can fetch a value; asked for binary values and for those left in the source. */
  readonly bulkDataUri?: (element: Element) => string | undefined
  /** `text` keeps DS and IS as written where a number would lose that; default `number`. */
  readonly decimals?: 'number' | 'text'
}

/**
 * A data set as DICOM JSON. Group lengths are left out (PS3.18 §F.2.2), and so are values that were
 * left in the source and have no bulk data URI. Text is UTF-8 in JSON, and Specific Character Set says so.
 */
export function toJson(dataset: Dataset, options: ToJsonOptions = {}): DicomJson {
  const json: Record<string, JsonElement> = {}
  for (const element of dataset.elements) {
    if (isGroupLength(element.tag)) continue
    const converted = elementToJson(element, dataset, options)
    if (converted !== undefined) json[formatTag(element.tag)] = converted
  }
  return json
}

/** One element as DICOM JSON; undefined when its value was left in the source and has no bulk data URI. */
export function elementToJson(
  element: Element,
  dataset: Pick<Dataset, 'charset'>,
  options: ToJsonOptions = {},
): JsonElement | undefined {
  const { vr, items, value } = element
  if (element.tag === 0x00080005 && element.length > 0) return { vr, Value: ['ISO_IR 192'] }
  if (items !== undefined) return items.length === 0 ? { vr } : { vr, Value: items.map(item => toJson(item, options)) }
  if (isBulkVr(vr) || value === undefined) {
    const uri = element.length === 0 ? undefined : options.bulkDataUri?.(element)
    if (uri !== undefined) return { vr, BulkDataURI: uri }
    if (value === undefined) return undefined
    return value.length === 0 ? { vr } : { vr, InlineBinary: littleEndian(element, value).toString('base64') }
  }
  if (value.length === 0) return { vr }
  const { kind } = vrFacts(vr)
  const values =
    kind === 'binary' ? numbersToJson(element) : stringsToJson(vr, decodeStrings(element, dataset.charset), options)
  return values.every(single => single === null) ? { vr } : { vr, Value: values }
}

/** A person name split into its component groups; null when empty. */
export function personName(text: string): PersonName | null {
  if (text === '') return null
  if (!text.includes('=')) return { Alphabetic: text }
  const [alphabetic, ideographic, phonetic] = text.split('=')
  const name = {
    ...(alphabetic ? { Alphabetic: alphabetic } : {}),
    ...(ideographic ? { Ideographic: ideographic } : {}),
    ...(phonetic ? { Phonetic: phonetic } : {}),
  }
  return Object.keys(name).length === 0 ? null : name
}

function stringsToJson(vr: Vr, strings: readonly string[], options: ToJsonOptions): JsonValue[] {
  if (vr === 'PN') return strings.map(personName)
  if (vr === 'DS' || vr === 'IS') return strings.map(text => decimalToJson(text, options.decimals))
  return strings.map(text => (text === '' ? null : text))
}

/** Text that is no number stays text, so that nothing is lost; PS3.18 Table F.2.3-1 allows strings for DS and IS. */
function decimalToJson(text: string, decimals: 'number' | 'text' = 'number'): JsonValue {
  if (text === '') return null
  const number = parseDecimal(text)
  if (!Number.isFinite(number)) return text
  // A DS of more than 16 characters is out of bounds and would be rounded when it is written again.
  return decimals === 'text' && (String(number) !== text || text.length > maxDecimalCharacters) ? text : number
}

function numbersToJson(element: Element): JsonValue[] {
  return decodeNumbers(element).map(number => {
    if (element.vr === 'AT') return formatTag(Number(number))
    // Beyond 2^53 a JSON number would lose digits: a string (PS3.18 Table F.2.3-1 allows both for SV and UV).
    if (typeof number === 'bigint') return Number.isSafeInteger(Number(number)) ? Number(number) : number.toString()
    // JSON has no NaN and no infinity.
    return Number.isFinite(number) ? number : String(number)
  })
}

/** InlineBinary is little endian whatever the source was (PS3.18 §F.2.7). */
function littleEndian(element: Element, value: Uint8Array): Buffer {
  const width = vrFacts(element.vr).unitBytes
  const bytes = Buffer.from(value)
  if (!element.encoding.bigEndian || width === 1) return bytes
  const whole = bytes.subarray(0, bytes.length - (bytes.length % width))
  if (width === 2) whole.swap16()
  else if (width === 4) whole.swap32()
  else whole.swap64()
  return bytes
}

// ---- from JSON ------------------------------------------------------------------------------------

const maxDepth = 64

/**
 * Elements to write from DICOM JSON of an untrusted source.
 *
 * @param bulkData  the bytes of a bulk data URI, little endian; without it such elements are refused
 * @throws GatewayError BAD_REQUEST naming the path of the first problem, without its value
 */
export function fromJson(raw: unknown, bulkData?: (uri: string) => Uint8Array | undefined): NewElement[] {
  return datasetFromJson(raw, '', bulkData, 0)
}

type BulkData = ((uri: string) => Uint8Array | undefined) | undefined

function datasetFromJson(raw: unknown, path: string, bulkData: BulkData, depth: number): NewElement[] {
  if (!isObject(raw)) throw bad(path, 'expected an object of elements')
  if (depth > maxDepth) throw bad(path, `expected at most ${maxDepth} levels`)
  return Object.entries(raw).map(([key, element]) => {
    const tag = /^[0-9A-Fa-f]{8}$/.test(key) ? parseTag(key) : undefined
    if (tag === undefined) throw bad(path, 'expected tags of eight hex digits')
    return elementFromJson(tag, element, path === '' ? key : `${path}.${key}`, bulkData, depth)
  })
}

function elementFromJson(tag: Tag, raw: unknown, path: string, bulkData: BulkData, depth: number): NewElement {
  if (!isObject(raw)) throw bad(path, 'expected an element')
  const { vr, Value: values, InlineBinary: inline, BulkDataURI: uri } = raw
  if (typeof vr !== 'string' || !isVr(vr)) throw bad(path, 'expected a VR')
  if (inline !== undefined) {
    if (typeof inline !== 'string' || !/^[A-Za-z0-9+/\s]*={0,2}$/.test(inline)) throw bad(path, 'expected base64')
    return { tag, vr, value: Buffer.from(inline, 'base64') }
  }
  if (uri !== undefined) {
    const bytes = typeof uri === 'string' ? bulkData?.(uri) : undefined
    if (bytes === undefined) throw bad(path, 'expected bulk data that can be resolved')
    return { tag, vr, value: bytes }
  }
  if (values !== undefined && !Array.isArray(values)) throw bad(path, 'expected a list of values')
  const list: readonly unknown[] = values ?? []
  if (vr === 'SQ') return { tag, items: list.map((item, i) => itemFromJson(item, `${path}[${i}]`, bulkData, depth)) }
  return { tag, vr, value: list.map((value, i) => scalarFromJson(vr, value, `${path}[${i}]`)) }
}

function itemFromJson(raw: unknown, path: string, bulkData: BulkData, depth: number): NewElement[] {
  return raw === null ? [] : datasetFromJson(raw, path, bulkData, depth + 1)
}

function scalarFromJson(vr: Vr, raw: unknown, path: string): string | number | bigint {
  const { kind, multiValued } = vrFacts(vr)
  if (vr === 'PN') return personNameText(raw, path)
  if (kind === 'text' || kind === 'ascii') {
    if (raw === null) return ''
    if (typeof raw === 'number' && (vr === 'DS' || vr === 'IS')) return decimalText(vr, raw)
    if (typeof raw !== 'string' || raw.includes('\0')) throw bad(path, 'expected text')
    if (multiValued && raw.includes('\\')) throw bad(path, 'expected no backslash in a value')
    return raw
  }
  if (vr === 'AT') {
    const tag = typeof raw === 'string' && /^[0-9A-Fa-f]{8}$/.test(raw) ? parseTag(raw) : undefined
    if (tag === undefined) throw bad(path, 'expected a tag')
    return tag
  }
  return numberFromJson(vr, raw, path)
}

function numberFromJson(vr: Vr, raw: unknown, path: string): number | bigint {
  const range = integerRange(vr)
  if (range !== undefined) {
    const isWhole = Number.isSafeInteger(raw) || (typeof raw === 'string' && /^-?[0-9]{1,20}$/.test(raw))
    const value = isWhole && (typeof raw === 'number' || typeof raw === 'string') ? BigInt(raw) : undefined
    if (value === undefined || value < range[0] || value > range[1])
      throw bad(path, `expected a number in the range of ${vr}`)
    return vr === 'UV' || vr === 'SV' ? value : Number(value)
  }
  if (vr !== 'FL' && vr !== 'FD') throw bad(path, `expected InlineBinary or BulkDataURI for ${vr}`)
  const number = typeof raw === 'string' && /^(?:NaN|-?Infinity)$/.test(raw) ? Number(raw) : raw
  if (typeof number !== 'number') throw bad(path, 'expected a number')
  return number
}

/** The closest rounding that fits a DS. */
function decimalText(vr: 'DS' | 'IS', number: number): string {
  const text = String(number)
  if (vr === 'IS' || text.length <= maxDecimalCharacters) return text
  for (let digits = 15; digits > 1; digits--) {
    const rounded = String(Number(number.toPrecision(digits)))
    if (rounded.length <= maxDecimalCharacters) return rounded
  }
  return number.toExponential(8)
}

function personNameText(raw: unknown, path: string): string {
  if (raw === null) return ''
  if (typeof raw === 'string') return raw
  if (!isObject(raw)) throw bad(path, 'expected a person name')
  const groups = [raw['Alphabetic'] ?? '', raw['Ideographic'] ?? '', raw['Phonetic'] ?? '']
  if (!groups.every(group => typeof group === 'string' && !/[\\\0]/.test(group)))
    throw bad(path, 'expected a person name')
  return groups.join('=').replace(/=+$/, '')
}

function bad(path: string, expected: string): GatewayError {
  return new GatewayError('BAD_REQUEST', `${path === '' ? 'data set' : path}: ${expected}`)
}
