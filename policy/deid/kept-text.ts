/** Text that is kept in part: UIDs replaced, dates moved, identifiers taken out, and what is no value of its VR emptied. */
import type { Charset } from '../../gateway/dicom/charset.ts'
import { latin1 } from '../../gateway/dicom/code-table.ts'
import type { Element } from '../../gateway/dicom/dataset.ts'
import type { Tag } from '../../gateway/dicom/tag.ts'
import { uidName } from '../../gateway/dicom/uid.ts'
import { type Vr, vrFacts } from '../../gateway/dicom/vr.ts'
import { type Action, type Decision, isDate } from './action.ts'
import { isTime, shiftDate, shiftDateTime } from './dates.ts'
import { dummyText } from './dummies.ts'
import { HoldError } from './hold.ts'
import type { Profile } from './profile.ts'
import type { RewriteContext } from './rewrite.ts'
import { rowOf } from './tables.ts'

type TextContext = Pick<RewriteContext, 'profile' | 'project' | 'scrubber' | 'offsetDays' | 'record'>

/**
 * The new bytes of a text, or undefined when it stays as it is.
 *
 * @throws HoldError too-large for a text that was not read
 */
export function changedText(
  element: Element,
  vr: Vr,
  charset: Charset,
  decision: Decision,
  context: TextContext,
): Uint8Array | undefined {
  const { tag, value, length } = element
  if (length === 0 || tag === 0x00080005) return undefined
  if (value === undefined)
    throw new HoldError('too-large', 'a text is longer than what is searched', { tag, rule: 'text' })
  const { kind, multiValued } = vrFacts(vr)
  const text = kind === 'text' ? charset.decode(value, vr === 'PN' ? 'names' : 'text') : latin1(value)
  if ((vr === 'DS' || vr === 'IS') && areDecimals(text)) return undefined
  const values = multiValued ? text.split('\\') : [text]
  const changed = values.map(one => changedValue(one, vr, tag, decision, context))
  if (changed.every((one, index) => one === values[index])) return undefined
  const joined = changed.join('\\')
  const isEmpty = /^[\\ ]*$/.test(joined)
  const result = isEmpty ? (needsText(tag, vr) ? dummyText : '') : joined
  const bytes =
    kind === 'ascii' ? Buffer.from(result, 'latin1') : charset.encode(result, vr === 'PN' ? 'names' : 'text')
  return bytes ?? Buffer.from(dummyText, 'latin1')
}

/** An attribute without a row, or one that the table replaces, may be Type 1. */
function needsText(tag: Tag, vr: Vr): boolean {
  if (vrFacts(vr).kind !== 'text') return false
  return !(rowOf(tag)?.basic.startsWith('X') ?? false)
}

function changedValue(text: string, vr: Vr, tag: Tag, { action }: Decision, context: TextContext): string {
  const trimmed = trimmedValue(text)
  if (trimmed === '') return /^[ \0]*$/.test(text) ? text : ''
  if (vr === 'UI') return changedUid(text, trimmed, action, context)
  if (isDate(vr)) return changedDate(text, trimmed, vr, action, context)
  if (vr === 'DS' || vr === 'IS')
    return /^[+-]?(?:\d{1,16}[.,]?\d{0,16}|[.,]\d{1,16})(?:[eE][+-]?\d{1,3})?$/.test(trimmed) ? text : ''
  if (vr === 'AS') return changedAge(text, trimmed, context.profile)
  if (vr === 'CS' || vr === 'AE') return isCodeString(trimmed) && !context.scrubber.isIdentifier(trimmed) ? text : ''
  // What the character set does not define cannot be searched.
  if (text.includes('\ufffd')) return ''
  const isLong = trimmed.length > longText
  return context.scrubber.scrub(text, action === 'clean' || (isLong && !isMachineText(tag)) ? 'clean' : 'echo')
}

/** Short texts name a thing; longer ones tell a story. */
const longText = 128

/** Vendors write whole parameter lists there. */
function isMachineText(tag: Tag): boolean {
  return tag === 0x00181020 || tag === 0x00080104
}

function trimmedValue(text: string): string {
  return text.replace(/^ +/, '').replace(/[ \0]+$/, '')
}

function changedUid(text: string, trimmed: string, action: Action, { project, record }: TextContext): string {
  // What is no UID is replaced even where UIDs are kept: it may be anything.
  if (isWellKnown(trimmed) || (action !== 'uid' && trimmed.length <= 64 && /^\d+(?:\.\d+)*$/.test(trimmed))) return text
  const uid = project.uid(trimmed)
  record.uids.set(trimmed, uid)
  return uid
}

/** UIDs of PS3.6, and those of coding schemes of HL7 (PS3.16 §8), name nobody. */
function isWellKnown(uid: string): boolean {
  return uidName(uid) !== undefined || /^2\.16\.840\.1\.113883\.6\.\d{1,5}$/.test(uid)
}

function changedDate(
  text: string,
  trimmed: string,
  vr: Vr,
  action: Action,
  { offsetDays, record }: TextContext,
): string {
  if (vr === 'TM') return isTime(trimmed) ? text : ''
  if (action === 'shift') {
    const moved = (vr === 'DA' ? shiftDate : shiftDateTime)(trimmed, offsetDays) ?? ''
    if (moved !== '') record.dates.add(moved)
    return moved
  }
  // Kept: a date, and nothing else.
  return (vr === 'DA' ? shiftDate(trimmed, 0) : shiftDateTime(trimmed, 0)) === undefined ? '' : text
}

/** 45 CFR 164.514(b)(2)(i)(C): ages over 89 are one category. */
function changedAge(text: string, trimmed: string, { basis }: Profile): string {
  const years = /^(\d{3})Y$/.exec(trimmed)?.[1]
  if (years !== undefined && Number(years) > 89 && basis === 'safe-harbor') return '090Y'
  return /^\d{3}[DWMY]$/.test(trimmed) ? text : ''
}

/** Contours have millions of values: all of them at once, where they are plain. */
function areDecimals(text: string): boolean {
  return /^[-+0-9.\\ ]*$/.test(text) && !/\d{17}|[-+.]{2}|\d[-+]/.test(text)
}

function isCodeString(text: string): boolean {
  return text.length <= 64 && /^[ -~]*$/.test(text)
}
