/** Reads fields of the gateway's answers for printing; what is missing prints as `-`. */
import { isObject } from '../decode.ts'

/** A field as text. */
export function field(value: unknown, ...path: readonly string[]): string {
  const found = at(value, ...path)
  if (found === undefined || found === null || found === '') return '-'
  return typeof found === 'string' ? found : JSON.stringify(found)
}

/** A field as number, 0 when it is none. */
export function number(value: unknown, ...path: readonly string[]): number {
  const found = at(value, ...path)
  return typeof found === 'number' ? found : 0
}

/** A field as list, empty when it is none. */
export function items(value: unknown, ...path: readonly string[]): readonly unknown[] {
  const found = at(value, ...path)
  return Array.isArray(found) ? found : []
}

/** The value at a path of keys. */
export function at(value: unknown, ...path: readonly string[]): unknown {
  return path.reduce<unknown>((inner, key) => (isObject(inner) ? inner[key] : undefined), value)
}
