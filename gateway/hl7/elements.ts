/** Values of HL7 fields as values of DICOM elements. */
import type { NewElement } from '../dicom/part10-writer.ts'
import type { Tag } from '../dicom/tag.ts'
import type { Refusal } from './acknowledgement.ts'
import { type Message, part } from './message.ts'

/** Why a message cannot become worklist items, for its sender. */
export class OrderProblem extends Error {
  readonly refusal: Refusal
  readonly code: 'AE' | 'AR'

  constructor(condition: Refusal['condition'], text: string, code: 'AE' | 'AR' = 'AE') {
    super(text)
    this.name = 'OrderProblem'
    this.refusal = { condition, text }
    this.code = code
  }
}

/** The element with this value; none when it is empty. */
export function single(tag: Tag, value: string): NewElement[] {
  return value === '' ? [] : [{ tag, value }]
}

/** Text for people, without what would make several values of it, cut to what its VR takes. */
export function text(value: string, maxCharacters: number): string {
  return bounded(
    value
      .replace(/[\\\p{Cc}]/gu, ' ')
      .replace(/ +/g, ' ')
      .trim(),
    maxCharacters,
  )
}

/** The first characters, never half of one. */
export function bounded(value: string, maxCharacters: number): string {
  return value.length <= maxCharacters ? value : [...value].slice(0, maxCharacters).join('')
}

/**
 * What names something: cut short it would name something else.
 *
 * @throws OrderProblem when it does not fit
 */
export function identifier(value: string, maxCharacters: number, field: string): string {
  if ([...value].length > maxCharacters || /[\\\p{Cc}]/u.test(value))
    throw new OrderProblem(
      '102',
      `${field}: expected at most ${maxCharacters} characters without backslash and control characters`,
    )
  return value
}

/** `YYYYMMDD` of an HL7 date or time; `''` when it is none. */
export function dateOf(stamp: string): string {
  const match = /^(\d{4})(\d{2})(\d{2})(?:\d{2}){0,3}(?:\.\d{1,4})?(?:[+-]\d{4})?$/.exec(stamp)
  if (!match) return ''
  const [, year = '', month = '', day = ''] = match
  const date = new Date(Date.UTC(Number(year), Number(month) - 1, Number(day)))
  return date.getUTCMonth() === Number(month) - 1 && date.getUTCDate() === Number(day) ? `${year}${month}${day}` : ''
}

/** `HHMMSS` of an HL7 time as its sender's clock has it; `''` when it names no hour. */
export function timeOf(stamp: string): string {
  const match = /^\d{8}([01]\d|2[0-3])([0-5]\d)?([0-5]\d)?(?:\.\d{1,4})?(?:[+-]\d{4})?$/.exec(stamp)
  if (!match) return ''
  const [, hour = '', minute = '00', second = '00'] = match
  return `${hour}${minute}${second}`
}

/**
 * One component group of a DICOM person name (PS3.5 §6.2.1) of an HL7 name: XPN family, given, middle, suffix, prefix,
 * degree; XCN the same behind an identifier.
 */
export function personName(message: Message, repetition: string, type: 'XPN' | 'XCN'): string {
  const first = type === 'XCN' ? 2 : 1
  const at = (place: number): string => text(part(message, repetition, first + place).replace(/[\^=]/g, ' '), 64)
  const [family, given, middle, suffix, prefix, degree] = [at(0), at(1), at(2), at(3), at(4), at(5)]
  const components = [family, given, middle, prefix, [suffix, degree].filter(word => word !== '').join(' ')]
  return bounded(components.join('^').replace(/\^+$/, ''), 64)
}

/** A code item (PS3.3 Table 8.8-1) of three components of a coded field from `place` on; none without code and scheme. */
export function codeItem(message: Message, repetition: string, place: number): NewElement[] | undefined {
  const [code, meaning, scheme] = [0, 1, 2].map(offset => text(part(message, repetition, place + offset), 64))
  if (!code || !scheme || code.length > 16 || scheme.length > 16) return undefined
  return [
    { tag: 0x00080100, value: code },
    { tag: 0x00080102, value: scheme },
    { tag: 0x00080104, value: meaning || code },
  ]
}
