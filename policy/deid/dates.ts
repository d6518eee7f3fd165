/** Dates moved by whole days: DA and DT of PS3.5 §6.2, in the forms that devices write. */

const dayMs = 86_400_000

/**
 * A date of DA, `YYYYMMDD` or the older `YYYY.MM.DD`, moved; undefined for what is no date of the calendar.
 *
 * @param days  whole days, negative for the past
 */
export function shiftDate(text: string, days: number): string | undefined {
  const match = /^(\d{4})(\.?)(\d{2})\2(\d{2})$/.exec(text)
  if (match === null) return undefined
  const [, year = '', dot = '', month = '', day = ''] = match
  const moved = move(Number(year), Number(month), Number(day), days)
  return moved && [moved.year, moved.month, moved.day].join(dot)
}

/**
 * A DT moved by whole days: time, fraction and zone stay as they are. `YYYY` and `YYYYMM` are moved from the middle of
 * what they name, so that they keep their precision. Undefined for what is no DT.
 */
export function shiftDateTime(text: string, days: number): string | undefined {
  const match = /^(\d{4})(?:(\d{2})(?:(\d{2})(\d{2}(?:\d{2}(?:\d{2}(?:\.\d{1,6})?)?)?)?)?)?([+-]\d{4})?$/.exec(text)
  if (match === null) return undefined
  const [, year = '', month, day, time = '', zone = ''] = match
  const moved = move(Number(year), Number(month ?? 7), Number(day ?? (month === undefined ? 1 : 15)), days)
  if (moved === undefined) return undefined
  const precise = day !== undefined ? moved.month + moved.day : month !== undefined ? moved.month : ''
  return moved.year + precise + time + zone
}

/** True for a TM of PS3.5 §6.2, and for the older form with colons. */
export function isTime(text: string): boolean {
  return /^\d{2}(?::?\d{2}(?::?\d{2}(?:\.\d{1,6})?)?)?$/.test(text)
}

function move(
  year: number,
  month: number,
  day: number,
  days: number,
): { year: string; month: string; day: string } | undefined {
  const date = new Date(0)
  date.setUTCFullYear(year, month - 1, day)
  if (date.getUTCFullYear() !== year || date.getUTCMonth() !== month - 1 || date.getUTCDate() !== day) return undefined
  const moved = new Date(date.getTime() + days * dayMs)
  // Years outside of this are placeholders such as 00010101, and would tell the offset.
  if (year < 1000 || year > 9000 || moved.getUTCFullYear() < 1000) return undefined
  return {
    year: String(moved.getUTCFullYear()),
    month: String(moved.getUTCMonth() + 1).padStart(2, '0'),
    day: String(moved.getUTCDate()).padStart(2, '0'),
  }
}
