/** Code extension techniques of ISO 2022 as DICOM uses them: PS3.3 §C.12.1.1.2, PS3.5 §6.1.2.5. */
import { latin1, memo, upperHalf } from './code-table.ts'

/** The sets that a data set declares, as `extendedSets` found them. */
export interface ExtendedSets {
  /** Active at the start of a value and after each reset. */
  readonly initial: Initial
  /** All declared sets, in order. */
  readonly usable: readonly CodeElement[]
}

/** True for a defined term of code extensions, such as `ISO 2022 IR 87`. */
export function isExtensionTerm(term: string): boolean {
  return extensions.has(term)
}

/** The sets of these defined terms; unknown terms are passed over. */
export function extendedSets(terms: readonly string[]): ExtendedSets {
  const declared = terms.map(term => extensions.get(term.replace(/^ISO_IR /, 'ISO 2022 IR ')) ?? [])
  const first = declared[0] ?? []
  const g0 = first.find(element => element.half === 'g0' && element.bytesPerCharacter === 1) ?? ascii
  const g1 = first.find(element => element.half === 'g1')
  // Bytes above 0x7f without a designation are read by value 1's G1 set, else by the first declared one.
  const lenientG1 = g1 ?? declared.flat().find(element => element.half === 'g1')
  return { initial: { g0, g1, lenientG1 }, usable: [...new Set([g0, ...declared.flat()])] }
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

interface Initial {
  readonly g0: CodeElement
  readonly g1: CodeElement | undefined
  readonly lenientG1: CodeElement | undefined
}

/** Text of bytes with escape sequences; those of undeclared sets are understood too, since senders forget to declare. */
export function decodeExtended(bytes: Uint8Array, { initial }: ExtendedSets, kind: 'text' | 'names'): string {
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

/** Bytes of a text, with escape sequences where needed; undefined when no declared set has a character. */
export function encodeExtended(
  text: string,
  { initial, usable }: ExtendedSets,
  kind: 'text' | 'names',
): Uint8Array | undefined {
  // A text with its own escape sequences would change the meaning of what follows.
  if (text.includes('\x1b')) return undefined
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
