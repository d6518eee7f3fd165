/** The body of `/tools/find`, read into what is looked for and how it is written. */
import { isObject } from '../../decode.ts'
import { entryOf } from '../../dicom/dictionary.ts'
import { foldName } from '../../dicom/instance-header.ts'
import { type JsonElement, personName } from '../../dicom/json.ts'
import { textPattern } from '../../dicom/match-text.ts'
import { type MatchKey, matchKeys } from '../../dicom/matching.ts'
import { formatTag, type Tag } from '../../dicom/tag.ts'
import type { Vr } from '../../dicom/vr.ts'
import { GatewayError } from '../../errors.ts'
import type { FindRequest, OrderKey } from '../../services/resource-find.ts'
import { levelOrder } from '../../store/hierarchy.ts'
import type { Level } from '../../store/query.ts'
import type { SearchScope } from '../../store/search-scope.ts'
import { formatOf, readTag } from './details.ts'
import { type Content, contentFields } from './find-content.ts'
import type { NameTable } from './names.ts'

type Body = Readonly<Record<string, unknown>>

/** At most so many entries in each list of a request. */
const mostEntries = 1000

const levels: Readonly<Record<string, Level>> = {
  patient: 'patient',
  patients: 'patient',
  study: 'study',
  studies: 'study',
  series: 'series',
  instance: 'instance',
  instances: 'instance',
  image: 'instance',
}

/**
 * Reads a body; `content` is undefined where ids are wanted.
 *
 * @throws GatewayError BAD_REQUEST
 */
export function readFind(body: Body, names: NameTable): { request: FindRequest; content: Content | undefined } {
  const level = readLevel(body['Level'])
  const query = body['Query']
  if (!isObject(query) || Array.isArray(query)) throw bad('"Query" is missing, or should be a JSON object')
  const isCaseSensitive = readBoolean(body, 'CaseSensitive')
  const request = {
    level,
    keys: readKeys(query, { isCaseSensitive }),
    scope: readScope(body, { level, isCaseSensitive, names }),
    order: readList(body, 'OrderBy').map(entry => readOrder(entry, names)),
    since: readCount(body, 'Since') ?? 0,
    // Orthanc reads 0 as no limit.
    limit: readCount(body, 'Limit') || undefined,
  }
  const fields = body['ResponseContent'] === undefined ? undefined : new Set(readTexts(body, 'ResponseContent'))
  for (const field of fields ?? []) if (!contentFields.has(field)) throw bad('"ResponseContent" has an unknown field')
  const isExpanded = readBoolean(body, 'Expand')
  if (!fields && !isExpanded) return { request, content: undefined }
  const format = formatOf(readBoolean(body, 'Full'), readBoolean(body, 'Short'))
  return { request, content: { format, requested: readTexts(body, 'RequestedTags').map(readTag), fields } }
}

function readLevel(raw: unknown): Level {
  if (typeof raw !== 'string') throw bad('"Level" is missing, or should be a string')
  const key = raw.toLowerCase()
  const level = Object.hasOwn(levels, key) ? levels[key] : undefined
  if (!level) throw bad('"Level" should be Patient, Study, Series or Instance')
  return level
}

function readKeys(query: object, { isCaseSensitive }: { readonly isCaseSensitive: boolean }): MatchKey[] {
  const entries = Object.entries(query)
  if (entries.length > mostEntries) throw bad('"Query" has too many tags')
  return entries.flatMap(([name, value]) => {
    if (typeof value !== 'string') throw bad(`tag "${name.slice(0, 64)}" should be associated with a string`)
    return keyOf(readTag(name), value, isCaseSensitive)
  })
}

/** VRs in which Orthanc refuses wildcards, as PS3.4 §C.2.2.2.4 does. */
const unsuited: ReadonlySet<string> = new Set(['UI', 'DA', 'DT', 'TM'])

/** Attributes without a VR here are texts. */
function keyOf(tag: Tag, value: string, isCaseSensitive: boolean): MatchKey[] {
  const vr: Vr = entryOf(tag)?.vrs[0] ?? 'LO'
  if (vr === 'SQ') throw bad('sequences cannot be looked for')
  const texts = value.split('\\')
  if (vr === 'PN' && isCaseSensitive) return exactName(tag, texts)
  if (/[*?]/.test(value) && value !== '*' && unsuited.has(vr)) throw bad('wildcards cannot be used with this tag')
  // Wildcards mean what they say in all other attributes, unlike in C-FIND (PS3.4 §C.2.2.2.4).
  const asText = /[*?]/.test(value) && vr !== 'PN' ? 'LO' : vr
  const element: JsonElement = { vr: asText, Value: texts.map(text => (asText === 'PN' ? personName(text) : text)) }
  return matchKeys({ [formatTag(tag)]: element }, { anyCase: !isCaseSensitive })
}

/** Names are compared without case elsewhere. */
function exactName(tag: Tag, texts: readonly string[]): MatchKey[] {
  const patterns = texts.map(text => textPattern('LO', text))
  if (!patterns.every(pattern => pattern !== undefined)) return []
  const folded = patterns.map(({ literal, matches }) => ({ literal: foldName(literal), isWildcard: true, matches }))
  return [{ tag, condition: { kind: 'text', vr: 'PN', patterns: folded } }]
}

function readScope(
  body: Body,
  options: { readonly level: Level; readonly isCaseSensitive: boolean; readonly names: NameTable },
): SearchScope {
  const { level, isCaseSensitive, names } = options
  const labels = readTexts(body, 'Labels')
  const constraint = readText(body, 'LabelsConstraint') ?? 'All'
  if (constraint !== 'All' && constraint !== 'Any' && constraint !== 'None') {
    throw bad('"LabelsConstraint" should be All, Any or None')
  }
  const metadata = body['MetadataQuery'] ?? {}
  if (!isObject(metadata) || Array.isArray(metadata)) throw bad('"MetadataQuery" should be a JSON object')
  return {
    parents: levelOrder.slice(0, -1).flatMap(above => {
      const orthancId = readText(body, parentField[above])
      if (orthancId === undefined) return []
      if (levelOrder.indexOf(above) >= levelOrder.indexOf(level)) throw bad('a parent should be above the level')
      return [{ level: above, orthancId }]
    }),
    ...(labels.length > 0 && {
      labels: { labels, constraint: ({ All: 'all', Any: 'any', None: 'none' } as const)[constraint] },
    }),
    metadata: Object.entries(metadata).map(([name, pattern]) => {
      if (typeof pattern !== 'string') throw bad('"MetadataQuery" should hold strings')
      return { name: names.numberOf(name), pattern, anyCase: !isCaseSensitive }
    }),
  }
}

const parentField = {
  patient: 'ParentPatient',
  study: 'ParentStudy',
  series: 'ParentSeries',
  instance: 'ParentInstance',
} as const

const orderKinds: Readonly<Record<string, { readonly kind: 'tag' | 'metadata'; readonly as: 'text' | 'number' }>> = {
  DicomTag: { kind: 'tag', as: 'text' },
  DicomTagAsInt: { kind: 'tag', as: 'number' },
  DicomTagAsFloat: { kind: 'tag', as: 'number' },
  Metadata: { kind: 'metadata', as: 'text' },
  MetadataAsInt: { kind: 'metadata', as: 'number' },
  MetadataAsFloat: { kind: 'metadata', as: 'number' },
}

function readOrder(raw: unknown, names: NameTable): OrderKey {
  if (!isObject(raw)) throw bad('"OrderBy" should hold objects')
  const { Type: type, Key: key, Direction: direction = 'ASC' } = raw
  const kind = typeof type === 'string' && Object.hasOwn(orderKinds, type) ? orderKinds[type] : undefined
  if (!kind || typeof key !== 'string') throw bad('"OrderBy" should hold Type, Key and Direction')
  if (direction !== 'ASC' && direction !== 'DESC') throw bad('"Direction" should be ASC or DESC')
  return {
    by: kind.kind === 'tag' ? { kind: 'tag', tag: readTag(key) } : { kind: 'metadata', name: names.numberOf(key) },
    as: kind.as,
    direction: direction === 'ASC' ? 'ascending' : 'descending',
  }
}

function readBoolean(body: Body, field: string): boolean {
  const value = body[field] ?? false
  if (typeof value !== 'boolean') throw bad(`"${field}" should be a Boolean`)
  return value
}

function readCount(body: Body, field: string): number | undefined {
  const value = body[field]
  if (value === undefined) return undefined
  if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < 0) {
    throw bad(`"${field}" should be a positive integer`)
  }
  return value
}

function readText(body: Body, field: string): string | undefined {
  const value = body[field]
  if (value === undefined) return undefined
  if (typeof value !== 'string') throw bad(`"${field}" should be a string`)
  return value
}

function readList(body: Body, field: string): readonly unknown[] {
  const value = body[field] ?? []
  if (!Array.isArray(value) || value.length > mostEntries) throw bad(`"${field}" should be an array`)
  return value
}

function readTexts(body: Body, field: string): string[] {
  return readList(body, field).map(entry => {
    if (typeof entry !== 'string') throw bad(`"${field}" should hold strings`)
    return entry
  })
}

const bad = (message: string): GatewayError => new GatewayError('BAD_REQUEST', message)
