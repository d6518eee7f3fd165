/**
 * What a query asks for, whatever protocol it came by, and whether a data set is it: attribute matching of
 * DICOM PS3.4 §C.2.2.2. The database narrows the candidates down; this decides.
 */
import { isObject } from '../decode.ts'
import { type DicomJson, type JsonElement, tagOfName } from './json.ts'
import type { Level } from './levels.ts'
import { isInRange, isTimeVr, type Range, rangeOf, type TimeVr } from './match-range.ts'
import { type TextPattern, type TextRules, textOf, textPattern } from './match-text.ts'
import { formatTag, type Tag } from './tag.ts'
import { isBulkVr, type Vr } from './vr.ts'

/** What a value has to be; a key that matches everything is none (universal matching, PS3.4 §C.2.2.2.3). */
export type Condition =
  /** One of these, single values or wildcards; a list of UIDs among them (PS3.4 §C.2.2.2.2). */
  | { readonly kind: 'text'; readonly vr: Vr; readonly patterns: readonly TextPattern[] }
  | { readonly kind: 'range'; readonly vr: TimeVr; readonly ranges: readonly Range[] }
  /** One item of the sequence that matches all of these (PS3.4 §C.2.2.2.6). */
  | { readonly kind: 'item'; readonly keys: readonly MatchKey[] }
  /** The key's value is none of its VR: nothing has it. */
  | { readonly kind: 'nothing' }

/** One attribute that has to match. */
export interface MatchKey {
  readonly tag: Tag
  readonly condition: Condition
}

/** A query. */
export interface MatchSpec {
  readonly level: Level
  /** All of them have to match. */
  readonly keys: readonly MatchKey[]
}

/** The conditions of an identifier's elements, given as DICOM JSON; universal ones are left out. */
export function matchKeys(identifier: DicomJson, rules: TextRules = {}): MatchKey[] {
  return Object.entries(identifier).flatMap(([name, element]) => {
    const condition = conditionOf(element, rules)
    return condition ? [{ tag: tagOfName(name), condition }] : []
  })
}

function conditionOf({ vr, Value: values = [] }: JsonElement, rules: TextRules): Condition | undefined {
  if (vr === 'SQ') {
    const [item] = values
    const keys = isObject(item) ? matchKeys(itemJson(item), rules) : []
    return keys.length > 0 ? { kind: 'item', keys } : undefined
  }
  if (isBulkVr(vr)) return undefined
  const texts = values.flatMap(value => textOf(vr, value) ?? []).filter(text => text.trim() !== '')
  if (texts.length === 0) return undefined
  if (isTimeVr(vr)) {
    const ranges = texts.flatMap(text => rangeOf(vr, text) ?? [])
    return ranges.length > 0 ? { kind: 'range', vr, ranges } : { kind: 'nothing' }
  }
  const patterns = texts.map(text => textPattern(vr, text, rules))
  // One value that matches everything makes the whole list match everything.
  return patterns.every(pattern => pattern !== undefined) ? { kind: 'text', vr, patterns } : undefined
}

/** True where the data set has all that the keys ask for. */
export function matches(keys: readonly MatchKey[], dataset: DicomJson): boolean {
  return keys.every(({ tag, condition }) => meets(condition, dataset[formatTag(tag)]))
}

function meets(condition: Condition, element: JsonElement | undefined): boolean {
  const values = element?.Value ?? []
  switch (condition.kind) {
    case 'nothing':
      return false
    case 'item':
      return values.some(item => isObject(item) && matches(condition.keys, itemJson(item)))
    case 'range':
      return values.some(value => {
        const text = textOf(condition.vr, value)
        return text !== undefined && condition.ranges.some(range => isInRange(condition.vr, range, text))
      })
    case 'text':
      return values.some(value => {
        const text = textOf(condition.vr, value)
        return text !== undefined && text.trim() !== '' && condition.patterns.some(pattern => pattern.matches(text))
      })
    default:
      return condition satisfies never
  }
}

/** An item of a sequence; what is no element in it is left out. */
function itemJson(item: object): DicomJson {
  const json: Record<string, JsonElement> = {}
  for (const [name, element] of Object.entries(item)) if (isElement(element)) json[name] = element
  return json
}

function isElement(raw: unknown): raw is JsonElement {
  return isObject(raw) && typeof raw['vr'] === 'string'
}
