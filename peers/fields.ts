/** Decoders for the fields that signed messages between peers share. */
import { type Decoder, text } from '../gateway/decode.ts'

/** SHA-256 in lower-case hex. */
export const sha256: Decoder<string> = text({ pattern: /^[0-9a-f]{64}$/, expected: '64 lower-case hex digits' })
/** A site's id: 32 lower-case hex digits. */
export const siteId: Decoder<string> = text({ pattern: /^[0-9a-f]{32}$/, expected: 'a site id' })
/** A DICOM UID (PS3.5 §9.1), but leading zeros pass: such UIDs exist, and are kept as they are. */
export const uid: Decoder<string> = text({ max: 64, pattern: /^\d+(\.\d+)*$/, expected: 'a UID' })
/** A UTC instant exactly as `Date.toISOString` writes it. */
export const instant: Decoder<Date> = (raw, path, problems) => {
  const date = typeof raw === 'string' ? new Date(raw) : undefined
  if (date && !Number.isNaN(date.getTime()) && date.toISOString() === raw) return date
  problems.add(path, 'expected a UTC time such as 2026-05-04T10:00:00.000Z')
  return undefined
}

/** Canonical base64 of `bytes` bytes, or of at most `most`. */
export function base64(options: { bytes?: number; most?: number }): Decoder<string> {
  return (raw, path, problems) => {
    const decoded = typeof raw === 'string' ? Buffer.from(raw, 'base64') : undefined
    const fits =
      decoded !== undefined &&
      decoded.toString('base64') === raw &&
      (options.bytes === undefined || decoded.length === options.bytes) &&
      decoded.length <= (options.most ?? Number.POSITIVE_INFINITY)
    if (fits) return raw
    problems.add(path, `expected base64${options.bytes === undefined ? '' : ` of ${options.bytes} bytes`}`)
    return undefined
  }
}

/** `T` with its possibly undefined fields made optional. */
export type Defined<T> = { [K in keyof T as undefined extends T[K] ? K : never]?: Exclude<T[K], undefined> } & {
  [K in keyof T as undefined extends T[K] ? never : K]: T[K]
}

/** The same object without fields that are undefined. */
export function definedFields<T extends object>(value: T): Defined<T> {
  return Object.fromEntries(Object.entries(value).filter(([, field]) => field !== undefined)) as Defined<T>
}
