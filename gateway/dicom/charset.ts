/**
 * Specific Character Set (0008,0005): bytes to text and back, DICOM PS3.3 §C.12.1.1.2 and PS3.5 §6.1.
 *
 * Decoding never fails: bytes that a set does not define become U+FFFD, and an unknown defined
 * term is read as Latin-1, which loses nothing. NUL padding is dropped.
 */
import { asBuffer, encodeBy, latin1, memo, upperHalf } from './code-table.ts'
import { decodeExtended, encodeExtended, extendedSets, isExtensionTerm } from './iso2022.ts'

/** Decodes and encodes the text of one data set. */
export interface Charset {
  /** The defined terms as found, in order; an empty list is the default repertoire. */
  readonly terms: readonly string[]
  /** The text of a value. `names` also resets code extensions at `^` and `=` (PS3.5 §6.1.2.5.3). */
  decode(bytes: Uint8Array, kind?: 'text' | 'names'): string
  /** The bytes of a text; undefined when the character set cannot represent it. */
  encode(text: string, kind?: 'text' | 'names'): Uint8Array | undefined
}

/** The character set of a data set, by the values of its (0008,0005). */
export function charsetOf(terms: readonly string[]): Charset {
  const key = terms.join('\\')
  return known.get(key) ?? build(terms)
}

/** The values of (0008,0005) from its bytes. */
export function parseTerms(bytes: Uint8Array): string[] {
  const text = latin1(bytes).replace(/[\0 ]+$/, '')
  return text === '' ? [] : text.split('\\').map(term => term.trim())
}

/** A set that one byte, or one self-contained multi-byte code, encodes without escape sequences. */
interface SingleSet {
  decode(bytes: Uint8Array): string
  encode(text: string): Uint8Array | undefined
}

function build(terms: readonly string[]): Charset {
  const names = terms.map(normalTerm)
  const first = names[0] ?? ''
  const whole = wholeSets.get(first)
  const isExtended = names.length > 1 && names.some(name => name.startsWith('ISO 2022'))
  if (whole !== undefined && (!isExtended || withoutExtensions.has(first))) return singleCharset(terms, whole())
  const single = singleSets.get(first)
  if (names.length <= 1 && single !== undefined) return singleCharset(terms, tableSet(single))
  if (names.length <= 1 && !isExtensionTerm(first)) return singleCharset(terms, latin1Set)
  const sets = extendedSets(names)
  return {
    terms,
    decode: (bytes, kind = 'text') => stripNul(decodeExtended(bytes, sets, kind)),
    encode: (text, kind = 'text') => encodeExtended(text, sets, kind),
  }
}

/** Common misspellings of defined terms: `ISO-IR 100`, `ISO_IR_100`, `ISO2022IR87`, lower case. */
function normalTerm(term: string): string {
  const upper = term.toUpperCase()
  const iso = /^ISO[ _-]?(2022)?[ _-]?IR[ _-]?(\d+)$/.exec(upper)
  if (iso) return iso[1] ? `ISO 2022 IR ${iso[2]}` : `ISO_IR ${iso[2]}`
  if (upper === 'UTF-8' || upper === 'UTF8') return 'ISO_IR 192'
  const part = /^(?:ISO[ _-]?)?8859[ _-](\d+)$/.exec(upper)
  if (part?.[1] === '1') return 'ISO_IR 100'
  return upper
}

function singleCharset(terms: readonly string[], set: SingleSet): Charset {
  return {
    terms,
    decode: bytes => stripNul(isAscii(bytes) ? asBuffer(bytes).toString('latin1') : set.decode(bytes)),
    encode: text => set.encode(text),
  }
}

// ---- sets without code extensions ---------------------------------------------------------------

const latin1Set: SingleSet = {
  decode: latin1,
  encode: text => (/^[\0-\xff]*$/.test(text) ? Buffer.from(text, 'latin1') : undefined),
}

const utf8Set: SingleSet = {
  decode: bytes => asBuffer(bytes).toString('utf8'),
  encode: text => Buffer.from(text, 'utf8'),
}

/** Sets that stand alone; a value 1 of these makes further values meaningless. */
const wholeSets: ReadonlyMap<string, () => SingleSet> = new Map([
  ['', () => latin1Set],
  ['ISO_IR 6', () => latin1Set],
  ['ISO_IR 100', () => latin1Set],
  ['ISO_IR 192', () => utf8Set],
  ['GB18030', () => gb18030Set()],
  ['GBK', () => gb18030Set()],
])

/** PS3.3 §C.12.1.1.2: these prohibit code extension, so that further values are ignored. */
const withoutExtensions: ReadonlySet<string> = new Set(['ISO_IR 192', 'GB18030', 'GBK'])

/** GBK is the two-byte part of GB18030. */
function gb18030Set(): SingleSet {
  const decoder = new TextDecoder('gb18030')
  const decode = (bytes: Uint8Array): string => decoder.decode(bytes)
  const codes = memo(() => gb18030Codes(decode))
  return { decode, encode: text => encodeBy(codes(), text) }
}

/** Single-byte sets by defined term: the upper half of the code table, by the label of the Encoding Standard. */
const singleSets: ReadonlyMap<string, string> = new Map([
  ['ISO_IR 101', 'iso-8859-2'],
  ['ISO_IR 109', 'iso-8859-3'],
  ['ISO_IR 110', 'iso-8859-4'],
  ['ISO_IR 144', 'iso-8859-5'],
  ['ISO_IR 127', 'iso-8859-6'],
  ['ISO_IR 126', 'iso-8859-7'],
  ['ISO_IR 138', 'iso-8859-8'],
  ['ISO_IR 148', 'windows-1254'],
  ['ISO_IR 203', 'iso-8859-15'],
  ['ISO_IR 13', 'jis-x-0201'],
  ['ISO_IR 166', 'windows-874'],
])

function tableSet(label: string): SingleSet {
  const table = upperHalf(label)
  const codes = memo(() => new Map(table.map((character, index) => [character, [0x80 + index]] as const)))
  return {
    decode(bytes) {
      let text = ''
      for (const byte of bytes) text += byte < 0x80 ? String.fromCharCode(byte) : (table[byte - 0x80] ?? '\ufffd')
      return text
    },
    encode: text => encodeBy(codes(), text),
  }
}

/** All two-byte characters of GB18030, which are GBK's; four-byte ones are not written. */
function gb18030Codes(decode: (bytes: Uint8Array) => string): Map<string, readonly number[]> {
  const codes = new Map<string, readonly number[]>()
  const add = (code: number[]): void => {
    const character = decode(Uint8Array.from(code))
    if (!character.includes('\ufffd') && !codes.has(character)) codes.set(character, code)
  }
  for (let lead = 0x81; lead <= 0xfe; lead++) {
    for (let trail = 0x40; trail <= 0xfe; trail++) if (trail !== 0x7f) add([lead, trail])
  }
  return codes
}

function stripNul(text: string): string {
  return text.includes('\0') ? text.replaceAll('\0', '') : text
}

function isAscii(bytes: Uint8Array): boolean {
  for (const byte of bytes) if (byte >= 0x80) return false
  return true
}

/** The sets that nearly every instance uses, built once. */
const known: ReadonlyMap<string, Charset> = new Map(
  [[], ['ISO_IR 6'], ['ISO_IR 100'], ['ISO_IR 192'], ['ISO_IR 101'], ['ISO_IR 148']].map(terms => [
    terms.join('\\'),
    build(terms),
  ]),
)

// ---- data sets without (0008,0005) --------------------------------------------------------------

/** Encodings that text without a character set may be in, by the names that Orthanc has for them. */
const encodings = new Map<string, readonly string[]>([
  ['Ascii', ['ISO_IR 6']],
  ['Utf8', ['ISO_IR 192']],
  ['Latin1', ['ISO_IR 100']],
  ['Latin2', ['ISO_IR 101']],
  ['Latin3', ['ISO_IR 109']],
  ['Latin4', ['ISO_IR 110']],
  ['Latin5', ['ISO_IR 148']],
  ['Latin9', ['ISO_IR 203']],
  ['Cyrillic', ['ISO_IR 144']],
  ['Windows1251', []],
  ['Arabic', ['ISO_IR 127']],
  ['Greek', ['ISO_IR 126']],
  ['Hebrew', ['ISO_IR 138']],
  ['Thai', ['ISO_IR 166']],
  ['Japanese', ['ISO_IR 13']],
  ['JapaneseKanji', ['', 'ISO 2022 IR 87']],
  ['Chinese', ['GB18030']],
  ['SimplifiedChinese', ['', 'ISO 2022 IR 58']],
  ['Korean', ['', 'ISO 2022 IR 149']],
])

/** Their names. */
export const encodingNames: readonly string[] = [...encodings.keys()]

/**
 * The one setting of this process that readers of data sets share: modalities that declare no character set are those of
 * a region, so it is the same for all that a gateway reads.
 */
const undeclared = { charset: charsetOf([]), name: 'Latin1' }

/** The character set that the value of a (0008,0005) declares; an empty one declares none. */
export function charsetOfValue(value: Uint8Array): Charset {
  const terms = parseTerms(value)
  return terms.length > 0 ? charsetOf(terms) : undeclared.charset
}

/** The character set of a data set that declares none; it writes ASCII only where it is not Latin-1. */
export const undeclaredCharset = (): Charset => undeclared.charset

/** The name of its encoding, and the defined terms for it; none for one that DICOM has not. */
export function undeclaredEncoding(): { readonly name: string; readonly terms: readonly string[] } {
  return { name: undeclared.name, terms: encodings.get(undeclared.name) ?? [] }
}

/** From now on text without a character set is read in the encoding of this name. @returns false for an unknown one */
export function readUndeclaredAs(name: string): boolean {
  const terms = encodings.get(name)
  if (terms === undefined) return false
  const read = terms.length > 0 ? charsetOf(terms) : singleCharset([], tableSet('windows-1251'))
  undeclared.name = name
  undeclared.charset = name === 'Latin1' ? charsetOf([]) : { ...read, terms: [], encode: asciiOnly }
  return true
}

const asciiOnly = (text: string): Uint8Array | undefined =>
  /^[\0-\x7f]*$/.test(text) ? Buffer.from(text, 'latin1') : undefined
