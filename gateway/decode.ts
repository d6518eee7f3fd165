/**
 * Decoders for untrusted JSON. A decoder sees a value once and returns a trusted type, or collects
 * problems with their paths (`peers[2].url: expected https URL, got "http://…"`), so that a person
 * sees all of them at once.
 */

/** A place in the input and what is wrong there. */
export interface Problem {
  readonly path: string
  /** What was expected, and a short part of what was there. */
  readonly message: string
  /** The message without anything of the input, where that is less. */
  readonly expected?: string
}

/** Collects problems while decoding; `value` must only be used when `problems` is empty. */
export class Problems {
  readonly list: Problem[] = []

  add(path: string, expected: string, ...seen: readonly unknown[]): void {
    if (seen.length === 0) this.list.push({ path, message: expected })
    else this.list.push({ path, message: `${expected}, got ${show(seen[0])}`, expected })
  }
}

/** Reads `raw` at `path`; on a mismatch adds a problem and returns undefined. */
export type Decoder<T> = (raw: unknown, path: string, problems: Problems) => T | undefined

const show = (raw: unknown): string => {
  const text = JSON.stringify(raw) ?? String(raw)
  return text.length > 60 ? `${text.slice(0, 57)}…` : text
}

/** A string, optionally bounded and matched. */
export function text(
  options: { min?: number; max?: number; pattern?: RegExp; expected?: string } = {},
): Decoder<string> {
  const { min = 0, max = 65_536, pattern, expected = 'a string' } = options
  return (raw, path, problems) => {
    if (typeof raw !== 'string' || raw.length < min || raw.length > max || (pattern && !pattern.test(raw))) {
      problems.add(path, `expected ${expected}`, raw)
      return undefined
    }
    return raw
  }
}

/** A whole number within `min`..`max`. */
export function integer(options: { min?: number; max?: number } = {}): Decoder<number> {
  const { min = Number.MIN_SAFE_INTEGER, max = Number.MAX_SAFE_INTEGER } = options
  return (raw, path, problems) => {
    if (typeof raw !== 'number' || !Number.isSafeInteger(raw) || raw < min || raw > max) {
      problems.add(path, `expected a whole number from ${min} to ${max}`, raw)
      return undefined
    }
    return raw
  }
}

export const boolean: Decoder<boolean> = (raw, path, problems) => {
  if (typeof raw === 'boolean') return raw
  problems.add(path, 'expected true or false', raw)
  return undefined
}

/** One of the literal strings given. */
export function oneOf<const T extends string>(...values: readonly T[]): Decoder<T> {
  return (raw, path, problems) => {
    const found = values.find(value => value === raw)
    if (found === undefined) problems.add(path, `expected one of ${values.join(', ')}`, raw)
    return found
  }
}

/** An array of at most `max` items. */
export function list<T>(item: Decoder<T>, options: { min?: number; max?: number } = {}): Decoder<T[]> {
  const { min = 0, max = 100_000 } = options
  return (raw, path, problems) => {
    if (!Array.isArray(raw) || raw.length < min || raw.length > max) {
      problems.add(path, `expected a list of ${min} to ${max} items`)
      return undefined
    }
    const before = problems.list.length
    const out: T[] = []
    raw.forEach((value, index) => {
      const decoded = item(value, `${path}[${index}]`, problems)
      if (decoded !== undefined) out.push(decoded)
    })
    return problems.list.length === before ? out : undefined
  }
}

/** A map from free keys to decoded values. */
export function record<T>(item: Decoder<T>, options: { max?: number } = {}): Decoder<Record<string, T>> {
  const { max = 10_000 } = options
  return (raw, path, problems) => {
    if (!isObject(raw) || Object.keys(raw).length > max) {
      problems.add(path, `expected an object with at most ${max} keys`)
      return undefined
    }
    const before = problems.list.length
    const out: [string, T][] = []
    for (const [key, value] of Object.entries(raw)) {
      const decoded = item(value, path ? `${path}.${key}` : key, problems)
      if (decoded !== undefined) out.push([key, decoded])
    }
    // Not by assignment, which for the key `__proto__` would set the prototype.
    return problems.list.length === before ? Object.fromEntries(out) : undefined
  }
}

/** A field that may be absent; `fallback` fills it in when given. */
export interface OptionalField<T> {
  readonly optional: true
  readonly decoder: Decoder<T>
  readonly fallback?: T
}

export function optional<T>(decoder: Decoder<T>): { readonly optional: true; readonly decoder: Decoder<T> }
export function optional<T>(decoder: Decoder<T>, fallback: T): OptionalField<T> & { readonly fallback: T }
export function optional<T>(decoder: Decoder<T>, fallback?: T): OptionalField<T> {
  return fallback === undefined ? { optional: true, decoder } : { optional: true, decoder, fallback }
}

type Field = Decoder<unknown> | OptionalField<unknown>
type FieldValue<F> =
  F extends Decoder<infer T>
    ? T
    : F extends { readonly fallback: infer T; readonly decoder: Decoder<infer U> }
      ? T | U
      : F extends { readonly decoder: Decoder<infer T> }
        ? T | undefined
        : never
export type ObjectValue<S> = { [K in keyof S]: FieldValue<S[K]> }

/** An object with exactly these fields; `unknown: 'keep'` ignores others (forward compatibility on the wire). */
export function object<S extends Record<string, Field>>(
  shape: S,
  options: { unknown?: 'refuse' | 'keep' } = {},
): Decoder<ObjectValue<S>> {
  return (raw, path, problems) => {
    if (!isObject(raw)) {
      problems.add(path, 'expected an object', raw)
      return undefined
    }
    const at = (key: string): string => (path ? `${path}.${key}` : key)
    const before = problems.list.length
    if (options.unknown !== 'keep') {
      for (const key of Object.keys(raw)) if (!Object.hasOwn(shape, key)) problems.add(at(key), 'unknown field')
    }
    const out: Record<string, unknown> = {}
    for (const [key, field] of Object.entries(shape)) {
      const value = Object.hasOwn(raw, key) ? raw[key] : undefined
      if (typeof field === 'function') out[key] = field(value, at(key), problems)
      else if (value === undefined) out[key] = field.fallback
      else out[key] = field.decoder(value, at(key), problems)
    }
    return problems.list.length === before ? (out as ObjectValue<S>) : undefined
  }
}

/** True for a plain JSON object. */
export function isObject(raw: unknown): raw is Record<string, unknown> {
  return typeof raw === 'object' && raw !== null && !Array.isArray(raw)
}

/** Runs a decoder at the root: the value, or every problem. */
export function decode<T>(
  decoder: Decoder<T>,
  raw: unknown,
): { ok: true; value: T } | { ok: false; problems: readonly Problem[] } {
  const problems = new Problems()
  const value = decoder(raw, '', problems)
  if (value === undefined || problems.list.length > 0) return { ok: false, problems: problems.list }
  return { ok: true, value }
}

/** Problems as one line for an error message to who wrote the input: it repeats parts of it. */
export function describe(problems: readonly Problem[]): string {
  return problems.map(({ path, message }) => (path ? `${path}: ${message}` : message)).join('; ')
}

/** The same without anything of the input: for what others sent, because errors reach logs, and input may be anything. */
export function describeExpected(problems: readonly Problem[]): string {
  return problems.map(({ path, message, expected = message }) => (path ? `${path}: ${expected}` : expected)).join('; ')
}
