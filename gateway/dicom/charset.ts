/**
 * Specific Character Set (0008,0005): bytes to text and back, DICOM PS3.3 §C.12.1.1.2 and PS3.5 §6.1.
 *
 * Decoding never fails: bytes that a set does not define become U+FFFD, and an unknown defined
 * term is read as Latin-1, which loses nothing. NUL padding is dropped.
 */

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

/** Text of bytes in Latin-1: one character per byte. */
export function latin1(bytes: Uint8Array): string {
  return asBuffer(bytes).toString('latin1')
}

/** A set that one byte, or one self-contained multi-byte code, encodes without escape sequences. */
interface SingleSet {
  decode(bytes: Uint8Array): string
  encode(text: string): Uint8Array | undefined
}

/** A code element that an escape sequence designates (PS3.3 Tables C.12-3 and C.12-4). */
interface CodeElement {
  readonly sequence: readonly number[]
  /** The half of the code table: G0 is 0x21..0x7e, G1 is 0xa1..0xfe. */
  readonly half: 'g0' | 'g1'
  readonly bytesPerCharacter: 1 | 2
  decode(codes: Uint8Array): string
  /** Characters to code bytes, built on first use. */
  readonly codes: () => ReadonlyMap<string, readonly number[]>
}

function build(terms: readonly string[]): Charset {
  const names = terms.map(normalTerm)
  const first = names[0] ?? ''
  const whole = wholeSets.get(first)
  const isExtended = names.length > 1 && names.some(name => name.startsWith('ISO 2022'))
  if (whole !== undefined && (!isExtended || withoutExtensions.has(first))) return singleCharset(terms, whole())
  const single = singleSets.get(first)
  if (names.length <= 1 && single !== undefined) return singleCharset(terms, tableSet(single))
  if (names.length <= 1 && !extensions.has(first)) return singleCharset(terms, latin1Set)
  return extendedCharset(terms, names)
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

/** Characters of the bytes 0x80..0xff. */
function upperHalf(label: string): readonly string[] {
  if (label === 'iso-8859-1') return Array.from({ length: 128 }, (_, index) => String.fromCharCode(0x80 + index))
  if (label === 'jis-x-0201') {
    // Katakana at 0xa1..0xdf. 0x5c and 0x7e stay backslash and tilde: DICOM's delimiter is the code, not the glyph.
    return Array.from({ length: 128 }, (_, i) => (i >= 0x21 && i <= 0x5f ? String.fromCharCode(0xff40 + i) : '\ufffd'))
  }
  const decoder = new TextDecoder(label)
  return Array.from({ length: 128 }, (_, index) => decoder.decode(Uint8Array.of(0x80 + index)))
}

/** Encodes ASCII as itself and the rest by table; undefined when a character is missing. */
function encodeBy(codes: ReadonlyMap<string, readonly number[]>, text: string): Uint8Array | undefined {
  const out: number[] = []
  for (const character of text) {
    if (character < '\x80') out.push(character.charCodeAt(0))
    else {
      const code = codes.get(character)
      if (code === undefined || character === '\ufffd') return undefined
      out.push(...code)
    }
  }
  return Uint8Array.from(out)
}

// ---- ISO 2022 code extensions ---------------------------------------------------------------------

const ESC = 0x1b

function oneByte(sequence: readonly number[], label: string): CodeElement {
  const table = memo(() => upperHalf(label))
  return {
    sequence,
    half: 'g1',
    bytesPerCharacter: 1,
    decode(codes) {
      let text = ''
      for (const code of codes) text += table()[code - 0x80] ?? '\ufffd'
      return text
    },
    codes: memo(() => new Map(table().map((character, index) => [character, [0x80 + index]] as const))),
  }
}

const asciiElement = (sequence: readonly number[]): CodeElement => ({
  sequence,
  half: 'g0',
  bytesPerCharacter: 1,
  decode: latin1,
  codes: () => new Map(),
})

/** A 94 x 94 set, decoded through an EUC form: each code byte with the high bit set, after an optional prefix. */
function twoByte(sequence: readonly number[], half: 'g0' | 'g1', label: string, prefix?: number): CodeElement {
  const decoder = new TextDecoder(label)
  const width = prefix === undefined ? 2 : 3
  const decode = (codes: Uint8Array): string => {
    const euc = new Uint8Array((codes.length >> 1) * width)
    for (let i = 0, o = 0; i + 1 < codes.length; i += 2) {
      if (prefix !== undefined) euc[o++] = prefix
      euc[o++] = (codes[i] ?? 0) | 0x80
      euc[o++] = (codes[i + 1] ?? 0) | 0x80
    }
    return decoder.decode(euc) + (codes.length % 2 === 1 ? '\ufffd' : '')
  }
  return { sequence, half, bytesPerCharacter: 2, decode, codes: memo(() => twoByteCodes(decode, half)) }
}

function twoByteCodes(decode: (codes: Uint8Array) => string, half: 'g0' | 'g1'): Map<string, readonly number[]> {
  const offset = half === 'g1' ? 0x80 : 0
  const codes = new Map<string, readonly number[]>()
  for (let row = 0x21; row <= 0x7e; row++) {
    for (let cell = 0x21; cell <= 0x7e; cell++) {
      const character = decode(Uint8Array.of(row + offset, cell + offset))
      if (!character.includes('\ufffd') && !codes.has(character)) codes.set(character, [row + offset, cell + offset])
    }
  }
  return codes
}

const ascii = asciiElement([0x28, 0x42])
const romaji = asciiElement([0x28, 0x4a])
const katakana = oneByte([0x29, 0x49], 'jis-x-0201')
const kanji = twoByte([0x24, 0x42], 'g0', 'euc-jp')
const supplementaryKanji = twoByte([0x24, 0x28, 0x44], 'g0', 'euc-jp', 0x8f)
const hangul = twoByte([0x24, 0x29, 0x43], 'g1', 'euc-kr')
const hanzi = twoByte([0x24, 0x29, 0x41], 'g1', 'gbk')

/** Code elements by defined term (PS3.3 Tables C.12-3 and C.12-4), G0 and G1 designation. */
const extensions: ReadonlyMap<string, readonly CodeElement[]> = new Map<string, readonly CodeElement[]>([
  ['ISO 2022 IR 6', [ascii]],
  ['ISO 2022 IR 100', [ascii, oneByte([0x2d, 0x41], 'iso-8859-1')]],
  ['ISO 2022 IR 101', [ascii, oneByte([0x2d, 0x42], 'iso-8859-2')]],
  ['ISO 2022 IR 109', [ascii, oneByte([0x2d, 0x43], 'iso-8859-3')]],
  ['ISO 2022 IR 110', [ascii, oneByte([0x2d, 0x44], 'iso-8859-4')]],
  ['ISO 2022 IR 144', [ascii, oneByte([0x2d, 0x4c], 'iso-8859-5')]],
  ['ISO 2022 IR 127', [ascii, oneByte([0x2d, 0x47], 'iso-8859-6')]],
  ['ISO 2022 IR 126', [ascii, oneByte([0x2d, 0x46], 'iso-8859-7')]],
  ['ISO 2022 IR 138', [ascii, oneByte([0x2d, 0x48], 'iso-8859-8')]],
  ['ISO 2022 IR 148', [ascii, oneByte([0x2d, 0x4d], 'windows-1254')]],
  ['ISO 2022 IR 203', [ascii, oneByte([0x2d, 0x62], 'iso-8859-15')]],
  ['ISO 2022 IR 166', [ascii, oneByte([0x2d, 0x54], 'windows-874')]],
  ['ISO 2022 IR 13', [romaji, katakana]],
  ['ISO 2022 IR 87', [kanji]],
  ['ISO 2022 IR 159', [supplementaryKanji]],
  ['ISO 2022 IR 149', [hangul]],
  ['ISO 2022 IR 58', [hanzi]],
])

const allElements: readonly CodeElement[] = [...new Set([...extensions.values()].flat())]

/** Value 1 is active at the start of a value; the escape sequences of any set are understood (senders forget to declare). */
function extendedCharset(terms: readonly string[], names: readonly string[]): Charset {
  const declared = names.map(name => extensions.get(name.replace(/^ISO_IR /, 'ISO 2022 IR ')) ?? [])
  const initial = declared[0] ?? []
  const g0 = initial.find(element => element.half === 'g0' && element.bytesPerCharacter === 1) ?? ascii
  // Bytes above 0x7f without a designation are read by value 1's G1 set, else by the first declared one.
  const g1 = initial.find(element => element.half === 'g1')
  const lenientG1 = g1 ?? declared.flat().find(element => element.half === 'g1')
  const usable = [...new Set([g0, ...declared.flat()])]
  return {
    terms,
    decode: (bytes, kind = 'text') => stripNul(decodeExtended(bytes, { g0, g1, lenientG1 }, kind)),
    encode: (text, kind = 'text') => encodeExtended(text, { g0, g1 }, usable, kind),
  }
}

interface Initial {
  readonly g0: CodeElement
  readonly g1: CodeElement | undefined
  readonly lenientG1?: CodeElement | undefined
}

function decodeExtended(bytes: Uint8Array, initial: Initial, kind: 'text' | 'names'): string {
  let { g0 } = initial
  let g1 = initial.g1 ?? initial.lenientG1
  let text = ''
  let at = 0
  while (at < bytes.length) {
    const byte = bytes[at] ?? 0
    if (byte === ESC) {
      const element = designatedAt(bytes, at + 1)
      if (element !== undefined) {
        if (element.half === 'g0') g0 = element
        else g1 = element
        at += 1 + element.sequence.length
        continue
      }
      text += '\x1b'
      at++
    } else if (byte < 0x21 || byte === 0x7f) {
      // Line ends reset the code extensions (PS3.5 §6.1.2.5.3).
      if (byte === 0x0a || byte === 0x0c || byte === 0x0d) ({ g0, g1 } = reset(initial, g1))
      text += String.fromCharCode(byte)
      at++
    } else if (byte < 0x80) {
      if (g0.bytesPerCharacter === 1) {
        if (byte === 0x5c || (kind === 'names' && (byte === 0x5e || byte === 0x3d))) ({ g0, g1 } = reset(initial, g1))
        text += String.fromCharCode(byte)
        at++
      } else {
        const end = runEnd(bytes, at, 0x21, 0x7e)
        text += g0.decode(bytes.subarray(at, end))
        at = end
      }
    } else {
      const end = runEnd(bytes, at, 0x80, 0xff)
      text += g1 === undefined ? latin1(bytes.subarray(at, end)) : g1.decode(bytes.subarray(at, end))
      at = end
    }
  }
  return text
}

/** Back to value 1's sets; a G1 set that value 1 does not define stays, for senders that designate once. */
function reset(initial: Initial, g1: CodeElement | undefined): { g0: CodeElement; g1: CodeElement | undefined } {
  return { g0: initial.g0, g1: initial.g1 ?? g1 }
}

function designatedAt(bytes: Uint8Array, at: number): CodeElement | undefined {
  return allElements.find(element => element.sequence.every((code, index) => bytes[at + index] === code))
}

function runEnd(bytes: Uint8Array, from: number, low: number, high: number): number {
  let end = from
  while (end < bytes.length) {
    const byte = bytes[end] ?? 0
    if (byte < low || byte > high) break
    end++
  }
  return end
}

function encodeExtended(
  text: string,
  initial: Initial,
  usable: readonly CodeElement[],
  kind: 'text' | 'names',
): Uint8Array | undefined {
  const out: number[] = []
  let { g0, g1 } = initial
  for (const character of text) {
    if (character < '\x80') {
      if (g0 !== initial.g0) {
        out.push(ESC, ...initial.g0.sequence)
        g0 = initial.g0
      }
      out.push(character.charCodeAt(0))
      if ('\\\n\f\r'.includes(character) || (kind === 'names' && '^='.includes(character))) ({ g0, g1 } = initial)
      continue
    }
    const found = pick(character, [g0, g1, ...usable])
    if (found === undefined) return undefined
    const { element, code } = found
    if (element !== g0 && element !== g1) {
      out.push(ESC, ...element.sequence)
      if (element.half === 'g0') g0 = element
      else g1 = element
    }
    out.push(...code)
  }
  if (g0 !== initial.g0) out.push(ESC, ...initial.g0.sequence)
  return Uint8Array.from(out)
}

function pick(
  character: string,
  elements: readonly (CodeElement | undefined)[],
): { element: CodeElement; code: readonly number[] } | undefined {
  for (const element of elements) {
    const code = element?.codes().get(character)
    if (element !== undefined && code !== undefined && character !== '\ufffd') return { element, code }
  }
  return undefined
}

// ---- small parts ----------------------------------------------------------------------------------

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

function memo<T>(make: () => T): () => T {
  let made: { readonly value: T } | undefined
  return () => {
    made ??= { value: make() }
    return made.value
  }
}

function stripNul(text: string): string {
  return text.includes('\0') ? text.replaceAll('\0', '') : text
}

function isAscii(bytes: Uint8Array): boolean {
  for (const byte of bytes) if (byte >= 0x80) return false
  return true
}

function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
}

/** The sets that nearly every instance uses, built once. */
const known: ReadonlyMap<string, Charset> = new Map(
  [[], ['ISO_IR 6'], ['ISO_IR 100'], ['ISO_IR 192'], ['ISO_IR 101'], ['ISO_IR 148']].map(terms => [
    terms.join('\\'),
    build(terms),
  ]),
)
