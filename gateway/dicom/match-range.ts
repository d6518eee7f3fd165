/** Matching of dates, times and date-times, single values and ranges: DICOM PS3.4 §C.2.2.2.1.2 to §C.2.2.2.1.4, §C.2.2.2.5. */

/** Bounds as digits of one length, so that they compare as text; undefined is open. Both ends belong to the range. */
export interface Range {
  readonly from: string | undefined
  readonly to: string | undefined
}

/** VRs whose values are points in time. */
export type TimeVr = 'DA' | 'TM' | 'DT'

/** True for VRs whose keys may be ranges. */
export function isTimeVr(vr: string): vr is TimeVr {
  return vr === 'DA' || vr === 'TM' || vr === 'DT'
}

/** The earliest and the latest moment of a value; `2026` as a DT is the whole year. Undefined when it is none. */
function span(vr: TimeVr, text: string): { from: string; to: string } | undefined {
  const value = text.trim()
  if (vr === 'DA') return dateSpan(value)
  return vr === 'TM' ? timeSpan(value) : dateTimeSpan(value)
}

function dateSpan(value: string): { from: string; to: string } | undefined {
  // ACR-NEMA wrote 1997.04.24; PS3.5 Table 6.2-1 keeps it readable.
  const digits = /^(\d{4})([.-]?)(\d{2})\2(\d{2})$/.exec(value)
  if (!digits) return undefined
  const date = `${digits[1]}${digits[3]}${digits[4]}`
  return { from: date, to: date }
}

function timeSpan(value: string): { from: string; to: string } | undefined {
  const parts = /^(\d{2})(?::?(\d{2})(?::?(\d{2})(?:\.(\d{1,6}))?)?)?$/.exec(value)
  if (!parts) return undefined
  const given = `${parts[1]}${parts[2] ?? ''}${parts[3] ?? ''}${parts[4] ?? ''}`
  return { from: given + '000000000000'.slice(given.length), to: given + '235959999999'.slice(given.length) }
}

function dateTimeSpan(value: string): { from: string; to: string } | undefined {
  const parts = /^(\d{4}(?:\d{2}){0,5})(?:\.(\d{1,6}))?(?:([+-])(\d{2})(\d{2}))?$/.exec(value)
  if (!parts || (parts[2] !== undefined && parts[1]?.length !== 14)) return undefined
  const given = `${parts[1]}${parts[2] ?? ''}`
  const from = given + '00000101000000000000'.slice(given.length)
  const to = given + '99991231235959999999'.slice(given.length)
  if (parts[3] === undefined) return { from, to }
  const offsetMinutes = (parts[3] === '-' ? -1 : 1) * (Number(parts[4]) * 60 + Number(parts[5]))
  return { from: shifted(from, offsetMinutes), to: shifted(to, offsetMinutes) }
}

/** In UTC. Values without an offset are compared as they are: where they were made is not known. */
function shifted(digits: string, offsetMinutes: number): string {
  const [year, month, day, hour, minute, second] = [0, 4, 6, 8, 10, 12].map((at, index) =>
    Number(digits.slice(at, at + (index === 0 ? 4 : 2))),
  )
  const time = new Date(0)
  time.setUTCFullYear(year ?? 0, (month ?? 1) - 1, day)
  time.setUTCHours(hour ?? 0, (minute ?? 0) - offsetMinutes, second)
  return time.toISOString().replace(/\D/g, '').slice(0, 14).padStart(14, '0') + digits.slice(14)
}

/**
 * The range that a key names: `20260101-20260131`, `-20260131`, `20260101-`, or one value.
 *
 * @returns undefined when the key is neither
 */
export function rangeOf(vr: TimeVr, key: string): Range | undefined {
  const text = key.trim()
  const single = span(vr, text)
  if (single) return single
  for (let at = text.indexOf('-'); at >= 0; at = text.indexOf('-', at + 1)) {
    const [left, right] = [text.slice(0, at).trim(), text.slice(at + 1).trim()]
    const from = left === '' ? undefined : span(vr, left)
    const to = right === '' ? undefined : span(vr, right)
    if (left === '' && right === '') return undefined
    if ((left === '' || from) && (right === '' || to)) return { from: from?.from, to: to?.to }
  }
  return undefined
}

/** True where the value lies in the range; one that is no date or time does not. */
export function isInRange(vr: TimeVr, range: Range, value: string): boolean {
  const at = span(vr, value)
  if (!at) return false
  return (range.from === undefined || at.from >= range.from) && (range.to === undefined || at.from <= range.to)
}
