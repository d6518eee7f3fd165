/**
 * Conditions are data, never code: a small total language over a study's facts. Evaluation always
 * ends, never throws, and says why it came out as it did.
 */
import { type Decoder, isObject, type Problems } from '../gateway/decode.ts'

/** What a study is known by: attribute name to its values. Names are DICOM keywords and those of `factNames`. */
export type Facts = Readonly<Record<string, readonly string[]>>

export type Condition =
  | { readonly always: true }
  | { readonly all: readonly Condition[] }
  | { readonly any: readonly Condition[] }
  | { readonly not: Condition }
  /** True when one of the attribute's values equals one of these, without regard to case. */
  | { readonly attribute: string; readonly in: readonly string[] }
  /** `*` stands for any text, `?` for one character; case does not matter. */
  | { readonly attribute: string; readonly matches: string }
  /** Inclusive; by number where both bounds are numbers, else by text (dates as YYYYMMDD). */
  | { readonly attribute: string; readonly between: readonly [string, string] }
  | { readonly attribute: string; readonly present: boolean }

/** Result and reason, in words that name attributes and rules but never a patient's values. */
export interface Verdict {
  readonly holds: boolean
  readonly why: string
}

const maxDepth = 16

/** Decides a condition over facts. Total: any condition that was decoded, any facts. */
export function evaluate(condition: Condition, facts: Facts): Verdict {
  if ('always' in condition) return { holds: true, why: 'always' }
  if ('all' in condition) {
    for (const part of condition.all) {
      const verdict = evaluate(part, facts)
      if (!verdict.holds) return verdict
    }
    return { holds: true, why: 'all conditions hold' }
  }
  if ('any' in condition) {
    const verdicts = condition.any.map(part => evaluate(part, facts))
    return (
      verdicts.find(verdict => verdict.holds) ?? {
        holds: false,
        why: `none of: ${verdicts.map(v => v.why).join('; ')}`,
      }
    )
  }
  if ('not' in condition) {
    const { holds, why } = evaluate(condition.not, facts)
    return { holds: !holds, why: `not (${why})` }
  }
  const values = Object.hasOwn(facts, condition.attribute) ? (facts[condition.attribute] ?? []) : []
  return compare(condition, values)
}

type Comparison = Exclude<Condition, { always: true } | { all: unknown } | { any: unknown } | { not: unknown }>

function compare(condition: Comparison, values: readonly string[]): Verdict {
  const { attribute } = condition
  if ('present' in condition) {
    const present = values.some(value => value !== '')
    return { holds: present === condition.present, why: `${attribute} is ${present ? 'present' : 'absent'}` }
  }
  if (values.length === 0) return { holds: false, why: `${attribute} is absent` }
  if ('in' in condition) {
    const wanted = new Set(condition.in.map(fold))
    const holds = values.some(value => wanted.has(fold(value)))
    return { holds, why: `${attribute} is ${holds ? '' : 'not '}one of ${condition.in.join(', ')}` }
  }
  if ('matches' in condition) {
    const holds = values.some(value => matches(fold(condition.matches), fold(value)))
    return { holds, why: `${attribute} ${holds ? 'matches' : 'does not match'} ${condition.matches}` }
  }
  const [from, to] = condition.between
  const holds = values.some(value => isBetween(value, from, to))
  return { holds, why: `${attribute} is ${holds ? '' : 'not '}between ${from} and ${to}` }
}

const fold = (value: string): string => value.normalize('NFKC').toLowerCase().trim()

/** Wildcards without backtracking beyond the last `*`: at most |pattern| x |value| steps. */
export function matches(pattern: string, value: string): boolean {
  let p = 0
  let v = 0
  let star = -1
  let mark = 0
  while (v < value.length) {
    if (p < pattern.length && (pattern[p] === '?' || pattern[p] === value[v]) && pattern[p] !== '*') {
      p++
      v++
    } else if (p < pattern.length && pattern[p] === '*') {
      star = p++
      mark = v
    } else if (star >= 0) {
      p = star + 1
      v = ++mark
    } else return false
  }
  while (pattern[p] === '*') p++
  return p === pattern.length
}

function isBetween(value: string, from: string, to: string): boolean {
  if (value === '') return false
  const [number, low, high] = [value, from, to].map(Number)
  if (number !== undefined && low !== undefined && high !== undefined && ![number, low, high].some(Number.isNaN)) {
    return low <= number && number <= high
  }
  return from <= value && value <= to
}

/** The attributes a condition mentions. */
export function attributesOf(condition: Condition): Set<string> {
  if ('always' in condition) return new Set()
  if ('not' in condition) return attributesOf(condition.not)
  if ('all' in condition) return new Set(condition.all.flatMap(part => [...attributesOf(part)]))
  if ('any' in condition) return new Set(condition.any.flatMap(part => [...attributesOf(part)]))
  return new Set([condition.attribute])
}

/** Decodes a condition; `equals: x` is short for `in: [x]`. Nesting is bounded. */
export function conditionDecoder(isKnownAttribute: (name: string) => boolean, depth = 0): Decoder<Condition> {
  return (raw, path, problems) => {
    if (!isObject(raw)) return fail(problems, path, 'expected a condition object')
    if (depth > maxDepth) return fail(problems, path, `conditions may be nested ${maxDepth} deep`)
    const inner = conditionDecoder(isKnownAttribute, depth + 1)
    const keys = Object.keys(raw)
    const [key] = keys
    if (keys.length === 1 && key === 'always' && raw['always'] === true) return { always: true }
    if (keys.length === 1 && (key === 'all' || key === 'any')) {
      const parts = raw[key]
      if (!Array.isArray(parts) || parts.length === 0 || parts.length > 200) {
        return fail(problems, `${path}.${key}`, 'expected a list of 1 to 200 conditions')
      }
      const decoded = parts.map((part, index) => inner(part, `${path}.${key}[${index}]`, problems))
      if (!decoded.every(part => part !== undefined)) return undefined
      return key === 'all' ? { all: decoded } : { any: decoded }
    }
    if (keys.length === 1 && key === 'not') {
      const part = inner(raw['not'], `${path}.not`, problems)
      return part && { not: part }
    }
    return decodeComparison(raw, path, problems, isKnownAttribute)
  }
}

function decodeComparison(
  raw: Record<string, unknown>,
  path: string,
  problems: Problems,
  isKnownAttribute: (name: string) => boolean,
): Condition | undefined {
  const { attribute, ...rest } = raw
  if (typeof attribute !== 'string') {
    return fail(problems, path, 'expected one of always, all, any, not, or attribute with a comparison')
  }
  if (!isKnownAttribute(attribute))
    return fail(problems, `${path}.attribute`, `unknown attribute ${attribute.slice(0, 64)}`)
  const [operator, ...others] = Object.keys(rest)
  if (operator === undefined || others.length > 0) return fail(problems, path, 'expected exactly one comparison')
  const operand = rest[operator]
  const at = `${path}.${operator}`
  if (operator === 'equals' && isValue(operand)) return { attribute, in: [operand] }
  if (operator === 'in' && isValueList(operand) && operand.length > 0 && operand.length <= 1000)
    return { attribute, in: operand }
  if (operator === 'matches' && isValue(operand)) return { attribute, matches: operand }
  if (operator === 'present' && typeof operand === 'boolean') return { attribute, present: operand }
  if (operator === 'between' && isValueList(operand)) {
    const [from, to, ...more] = operand
    if (from !== undefined && to !== undefined && more.length === 0) return { attribute, between: [from, to] }
  }
  return fail(
    problems,
    at,
    'expected equals: text, in: [texts], matches: text, between: [from, to] or present: true/false',
  )
}

const isValue = (raw: unknown): raw is string => typeof raw === 'string' && raw.length <= 1024
const isValueList = (raw: unknown): raw is string[] => Array.isArray(raw) && raw.every(isValue)

function fail(problems: Problems, path: string, message: string): undefined {
  problems.add(path, message)
  return undefined
}
