/** The query of a search: DICOM PS3.18 §8.3.4. */

import { entryOf } from '../../dicom/dictionary.ts'
import type { DicomJson, JsonElement } from '../../dicom/json.ts'
import type { Level } from '../../dicom/levels.ts'
import { type MatchSpec, matchKeys } from '../../dicom/matching.ts'
import { formatTag, parseTag, type Tag, tagOf } from '../../dicom/tag.ts'
import { isBulkVr, type Vr, vrFacts } from '../../dicom/vr.ts'
import { GatewayError } from '../../errors.ts'
import { isSearchable } from '../../store/searchable.ts'

/** Attributes to give: everything there is, or these; of a sequence's items those that its own list names. */
export type Included = 'all' | readonly IncludedAttribute[]

/** One attribute to give. */
export interface IncludedAttribute {
  readonly tag: Tag
  /** Of items; empty for all of them. */
  readonly items: readonly IncludedAttribute[]
}

/** What is searched for. */
export interface Search {
  readonly spec: MatchSpec
  readonly included: Included
  readonly offset: number
  readonly limit: number | undefined
  /** Parameters that are known but of no use at this level. */
  readonly unused: readonly string[]
}

/** A query string as it was parsed. */
export type QueryString = Readonly<Record<string, string | readonly string[] | undefined>>

const maxDepth = 8
const ownParameters: ReadonlySet<string> = new Set([
  'accept',
  'charset',
  'emptyvaluematching',
  'fuzzymatching',
  'includefield',
  'limit',
  'multiplevaluematching',
  'offset',
])

/**
 * Reads a query.
 *
 * @param scope  UIDs of the path by tag; they match beside the query
 * @throws GatewayError BAD_REQUEST
 */
export function readSearch(level: Level, query: QueryString, scope: ReadonlyMap<Tag, string>): Search {
  const identifier: Record<string, MutableElement> = {}
  const unused: string[] = []
  const given: IncludedAttribute[] = []
  for (const [name, raw] of Object.entries(query)) {
    if (ownParameters.has(name)) continue
    const path = attributePath(name)
    if (!path) throw new GatewayError('BAD_REQUEST', 'expected names or tags of attributes as parameters')
    const [top = 0] = path
    if (!isSearchable(top, level) || path.some(tag => isBulkVr(vrOf(tag)))) {
      unused.push(name)
      continue
    }
    given.push(includedPath(path))
    addKey(identifier, path, listOf(raw))
  }
  for (const [tag, uid] of scope) addKey(identifier, [tag], [uid])
  const fuzzyNames = flag(query, 'fuzzymatching')
  return {
    spec: { level, keys: matchKeys(identifier, { fuzzyNames }) },
    included: includedIn(level, listOf(query['includefield']), given),
    offset: count(query, 'offset') ?? 0,
    limit: count(query, 'limit'),
    unused,
  }
}

/** The conditions of a search that has no levels: every attribute may match. @throws GatewayError BAD_REQUEST */
export function readKeys(query: QueryString): {
  readonly keys: MatchSpec['keys']
  readonly offset: number
  readonly limit: number | undefined
} {
  const identifier: Record<string, MutableElement> = {}
  for (const [name, raw] of Object.entries(query)) {
    if (ownParameters.has(name)) continue
    const path = attributePath(name)
    if (!path) throw new GatewayError('BAD_REQUEST', 'expected names or tags of attributes as parameters')
    addKey(identifier, path, listOf(raw))
  }
  const fuzzyNames = flag(query, 'fuzzymatching')
  return {
    keys: matchKeys(identifier, { fuzzyNames }),
    offset: count(query, 'offset') ?? 0,
    limit: count(query, 'limit'),
  }
}

/** An element under construction; `Value` holds texts, or one item. */
interface MutableElement extends JsonElement {
  Value: (string | DicomJson)[]
}

function addKey(identifier: Record<string, MutableElement>, path: readonly Tag[], values: readonly string[]): void {
  const [tag = 0, ...rest] = path
  const vr = vrOf(tag)
  const element: MutableElement = identifier[formatTag(tag)] ?? { vr, Value: [] }
  identifier[formatTag(tag)] = element
  if (rest.length === 0) {
    // A path UID and one in the query are a list of one element: both have to match, so only common ones are left.
    const texts = values.flatMap(value => splitValue(vr, value))
    const known = element.Value.filter(value => typeof value === 'string')
    element.Value =
      known.length > 0 && texts.length > 0 ? known.filter(uid => texts.includes(uid)) : [...known, ...texts]
    if (element.Value.length === 0 && texts.length > 0) element.Value = ['-']
    return
  }
  const item: Record<string, MutableElement> = {}
  const [existing] = element.Value
  if (typeof existing === 'object') Object.assign(item, existing)
  addKey(item, rest, values)
  element.Value = [item]
}

/** UIDs and codes may be lists (PS3.18 §8.3.4.1.1); a comma is no character of theirs. */
function splitValue(vr: Vr, value: string): string[] {
  if (vr === 'UI' || vr === 'CS') return value.split(/[,\\]/)
  return vrFacts(vr).multiValued ? value.split('\\') : [value]
}

function includedIn(level: Level, fields: readonly string[], given: readonly IncludedAttribute[]): Included {
  const names = fields.flatMap(field => field.split(',')).filter(name => name !== '')
  if (names.includes('all')) return 'all'
  const asked = names.map(name => {
    const path = attributePath(name)
    if (!path) throw new GatewayError('BAD_REQUEST', 'expected names or tags of attributes in includefield')
    return path
  })
  const paths = asked.filter(([top = 0]) => isSearchable(top, level)).map(includedPath)
  return [...given, ...paths].reduce<readonly IncludedAttribute[]>(merged, [])
}

function includedPath([tag = 0, ...rest]: readonly Tag[]): IncludedAttribute {
  return { tag, items: rest.length === 0 ? [] : [includedPath(rest)] }
}

/** Both; a sequence that is wanted whole stays whole. */
function merged(list: readonly IncludedAttribute[], next: IncludedAttribute): readonly IncludedAttribute[] {
  const same = list.find(({ tag }) => tag === next.tag)
  if (!same) return [...list, next]
  const items = same.items.length === 0 || next.items.length === 0 ? [] : next.items.reduce(merged, same.items)
  return list.map(each => (each === same ? { tag: next.tag, items } : each))
}

/** `attribute *("." attribute)`: tags of eight digits or keywords. */
function attributePath(name: string): Tag[] | undefined {
  const parts = name.split('.')
  if (parts.length > maxDepth) return undefined
  const tags = parts.flatMap(part => (/^[0-9a-fA-F]{8}$/.test(part) ? parseTag(part) : tagOf(part)) ?? [])
  const isPath = tags.length === parts.length && tags.slice(0, -1).every(tag => vrOf(tag) === 'SQ')
  return isPath ? tags : undefined
}

function vrOf(tag: Tag): Vr {
  return entryOf(tag)?.vrs[0] ?? 'UN'
}

function listOf(raw: string | readonly string[] | undefined): readonly string[] {
  if (raw === undefined) return []
  return typeof raw === 'string' ? [raw] : raw
}

function flag(query: QueryString, name: string): boolean {
  const value = listOf(query[name]).at(-1)
  if (value === undefined || value === 'false') return false
  if (value === 'true') return true
  throw new GatewayError('BAD_REQUEST', `expected true or false for ${name}`)
}

function count(query: QueryString, name: string): number | undefined {
  const value = listOf(query[name]).at(-1)
  if (value === undefined) return undefined
  if (/^\d{1,9}$/.test(value)) return Number(value)
  throw new GatewayError('BAD_REQUEST', `expected a whole number for ${name}`)
}
