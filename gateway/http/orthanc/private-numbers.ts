/** Private tags by the names that the configuration's dictionary gives them, in bodies that name tags. */
import { isObject } from '../../decode.ts'

/** Numbers of tags, such as `4321,1012`, by name. */
export type PrivateNumbers = ReadonlyMap<string, string>

/** Reads the configuration's names. */
export function readPrivateNumbers(given: Readonly<Record<string, { readonly name: string }>>): PrivateNumbers {
  return new Map(Object.entries(given).map(([tag, { name }]) => [name, tag]))
}

/** The body with numbers in place of these names, also in paths. */
export function withPrivateNumbers(body: unknown, numbers: PrivateNumbers): unknown {
  if (numbers.size === 0 || !isObject(body)) return body
  const numbered = (path: string): string => path.replace(/[^.[\]]+(?=\[|\.|$)/g, name => numbers.get(name) ?? name)
  const listed = (value: unknown): unknown =>
    Array.isArray(value) ? value.map(item => (typeof item === 'string' ? numbered(item) : item)) : value
  return Object.fromEntries(
    Object.entries(body).map(([field, value]) => {
      if (field === 'Remove' || field === 'Keep') return [field, listed(value)]
      if (field !== 'Replace' || !isObject(value)) return [field, value]
      return [field, Object.fromEntries(Object.entries(value).map(([name, one]) => [numbered(name), one]))]
    }),
  )
}
