/** Matching of text values: single value and wildcard matching, DICOM PS3.4 §C.2.2.2.1 and §C.2.2.2.4. */

import { isObject } from '../decode.ts'
import { foldLetters, foldName } from './instance-header.ts'
import type { Vr } from './vr.ts'

/** How texts are compared, where a protocol lets the client say. */
export interface TextRules {
  /** Letters in any case and with or without accents in every text but UIDs; in names they always are. */
  readonly anyCase?: boolean | undefined
  /** Each word of a name begins a word of the value, in any order: fuzzy matching as QIDO-RS leaves it to us. */
  readonly fuzzyNames?: boolean | undefined
}

/** One value of a key. `literal` is what every match begins with, for an index; '' says nothing. */
export interface TextPattern {
  readonly literal: string
  /** Other values than `literal` match too. */
  readonly isWildcard: boolean
  /**
   * Where letters match in any case: what every match of plain ASCII begins with in small letters. Other matches hold
   * characters beyond ASCII.
   */
  readonly folded?: string
  matches(value: string): boolean
}

/** VRs in which `*` and `?` are wildcards (PS3.4 §C.2.2.2.4). */
const wildcardVrs: ReadonlySet<string> = new Set(['AE', 'CS', 'LO', 'LT', 'PN', 'SH', 'ST', 'UC', 'UR', 'UT'])

/** The pattern of one value of a text key; undefined for what matches everything (`*`, or nothing). */
export function textPattern(vr: Vr, key: string, rules: TextRules = {}): TextPattern | undefined {
  const text = key.trim()
  if (text === '') return undefined
  if (vr === 'PN') return rules.fuzzyNames ? fuzzyPattern(text) : namePattern(text)
  if (rules.anyCase && vr !== 'UI') return anyCasePattern(vr, text)
  const isWildcard = wildcardVrs.has(vr) && /[*?]/.test(text)
  if (!isWildcard) {
    const number = vr === 'DS' || vr === 'IS' ? Number(text) : Number.NaN
    return {
      literal: text,
      isWildcard,
      matches: value =>
        value.trim() === text || (!Number.isNaN(number) && value.trim() !== '' && Number(value) === number),
    }
  }
  if (/^\*+$/.test(text)) return undefined
  const expression = wildcardExpression(text)
  return { literal: literalOf(text), isWildcard, matches: value => expression.test(value.trim()) }
}

/** Only what folding never makes of other characters may go to an index. */
function anyCasePattern(vr: Vr, text: string): TextPattern | undefined {
  const pattern = textPattern(vr, plainText(text))
  if (!pattern) return undefined
  const literal = /^[0-9./_-]*/.exec(pattern.literal)?.[0] ?? ''
  const matches = (value: string): boolean => pattern.matches(plainText(value))
  const isPlain = pattern.literal !== '' && /^[ -~]*$/.test(pattern.literal)
  return { literal, isWildcard: true, matches, ...(isPlain && { folded: pattern.literal }) }
}

/** Asterisks at words say what is meant anyway. */
function fuzzyPattern(text: string): TextPattern | undefined {
  const words = wordsOf(text.replaceAll('*', ' '))
  if (words.length === 0) return undefined
  return {
    literal: '',
    isWildcard: true,
    matches: value => {
      const own = wordsOf(value)
      return words.every(word => own.some(each => each.startsWith(word)))
    },
  }
}

function wordsOf(name: string): string[] {
  return plainName(name)
    .split(/[\^= ,]+/)
    .filter(word => word !== '')
}

/**
 * A person name: letters in any case and with or without accents, component groups each by themselves
 * (PS3.4 §C.2.2.2.1.1, PS3.5 §6.2.1). A key of one group is looked for in every group of the value, so that an
 * ideographic name is found without its alphabetic one.
 */
function namePattern(text: string): TextPattern | undefined {
  const groups = text.split('=').map(group => groupMatcher(group))
  if (groups.every(group => group === undefined)) return undefined
  const [first] = groups
  const matchesName = (value: string): boolean => {
    const parts = value.split('=')
    if (groups.length === 1) return parts.some(part => first?.(part) ?? true)
    return groups.every((group, index) => group === undefined || group(parts[index] ?? ''))
  }
  const prefix = foldName(literalOf(text.split('=')[0] ?? ''))
  return { literal: prefix, isWildcard: /[*?]/.test(text), matches: matchesName }
}

function groupMatcher(group: string): ((value: string) => boolean) | undefined {
  const key = plainName(group)
  if (/^[*^ ]*$/.test(key)) return undefined
  if (!/[*?]/.test(key)) return value => plainName(value) === key
  const expression = wildcardExpression(key)
  return value => {
    const name = plainName(value)
    if (name === '') return false
    // "Doe" is "Doe^^^^": components that are empty at the end may be left out.
    const missing = Math.max(0, 4 - (name.match(/\^/g)?.length ?? 0))
    for (let carets = 0; carets <= missing; carets += 1) if (expression.test(name + '^'.repeat(carets))) return true
    return false
  }
}

/** Folded, and with one sigma: which of them is written depends on what follows. */
function plainName(name: string): string {
  return foldName(name).replaceAll('ς', 'σ')
}

function plainText(text: string): string {
  return foldLetters(text).replaceAll('ς', 'σ')
}

function wildcardExpression(text: string): RegExp {
  const source = text
    .split(/(\*+|\?)/)
    .map(part => (part.startsWith('*') ? '.*' : part === '?' ? '.' : part.replace(/[\\^$.+()[\]{}|/]/g, '\\$&')))
    .join('')
  return new RegExp(`^${source}$`, 'su')
}

/** What stands before the first wildcard. */
function literalOf(text: string): string {
  return /^[^*?]*/.exec(text)?.[0] ?? ''
}

/** A value of DICOM JSON as the text that keys are compared with; undefined for none. */
export function textOf(vr: Vr, value: unknown): string | undefined {
  if (typeof value === 'string') return value
  if (typeof value === 'number') return String(value)
  if (vr !== 'PN' || !isObject(value)) return undefined
  const groups = [value['Alphabetic'], value['Ideographic'], value['Phonetic']]
  return groups
    .map(group => (typeof group === 'string' ? group : ''))
    .join('=')
    .replace(/=+$/, '')
}
