/** The JSON of resources of any level, in the form that a request asks for. */
import type { Db } from '../../db/db.ts'
import { formatTag, keywordOf, parseTag, type Tag, tagOf } from '../../dicom/tag.ts'
import { GatewayError } from '../../errors.ts'
import { loadLabels } from '../../store/labels.ts'
import { loadSources } from '../../store/metadata.ts'
import { type Level, loadInstances, loadPatients, loadSeries, loadStudies } from '../../store/query.ts'
import { loadMatches } from '../../store/search.ts'
import { isAsked } from './lenient-scope.ts'
import { type TagFormat, tagTexts } from './main-tags.ts'
import { instanceJson, patientJson, seriesJson, studyJson } from './resources.ts'

/** How resources are written. */
export interface Shape {
  readonly format: TagFormat
  /** Attributes beside the main ones, of the resource's level or above it. */
  readonly requested: readonly Tag[]
}

/** The parts of a query string that say how resources are written. */
export interface ShapeQuery {
  readonly full?: string
  readonly short?: string
  readonly requestedTags?: string
  readonly 'requested-tags'?: string
}

/** Their JSON Schema. */
export const shapeQuery = {
  full: { type: 'string', description: 'Main tags by number, with name and type' },
  short: { type: 'string', description: 'Main tags by number' },
  requestedTags: { type: 'string', maxLength: 4096, description: 'More tags, separated by semicolons' },
  'requested-tags': { type: 'string', maxLength: 4096, description: 'The same' },
} as const

/** The shape that a query string asks for. @throws GatewayError BAD_REQUEST for an unknown tag */
export function shapeOf(query: ShapeQuery): Shape {
  const requested = (query.requestedTags ?? query['requested-tags'] ?? '').split(';').filter(name => name !== '')
  return { format: formatOf(isAsked(query.full), isAsked(query.short)), requested: requested.map(readTag) }
}

export const formatOf = (isFull: boolean, isShort: boolean): TagFormat =>
  isShort ? 'short' : isFull ? 'full' : 'simple'

/** A tag by keyword, `gggg,eeee`, `gggg-eeee` or `ggggeeee`. @throws GatewayError BAD_REQUEST */
export function readTag(name: string): Tag {
  const tag = tagOf(name) ?? parseTag(name.replace('-', ','))
  if (tag === undefined) throw new GatewayError('BAD_REQUEST', 'unknown DICOM tag')
  return tag
}

/** Details in the order of the ids; unknown ids are left out. */
export async function loadDetails(
  db: Db,
  level: Level,
  ids: readonly string[],
  { format, requested }: Shape,
): Promise<readonly object[]> {
  const [loaded, labels, sources] = await Promise.all([
    loaders[level](db, ids, format),
    loadLabels(db, level, ids),
    loadSources(db, level, ids),
  ])
  const found = loaded.map(detail => ({ ...detail, ...sources.get(detail.ID), Labels: labels.get(detail.ID) ?? [] }))
  if (requested.length === 0) return found
  const matches = await loadMatches(db, level, ids, new Set(requested))
  const names = requested.map(tag => [formatTag(tag), keywordOf(tag) ?? formatTag(tag)] as const)
  return found.map(detail => ({
    ...detail,
    RequestedTags: tagTexts(matches.get(detail.ID)?.attributes ?? {}, names, format),
  }))
}

type Loader = (db: Db, ids: readonly string[], format: TagFormat) => Promise<readonly { readonly ID: string }[]>

const loaders: Readonly<Record<Level, Loader>> = {
  patient: async (db, ids, format) => (await loadPatients(db, ids)).map(node => patientJson(node, format)),
  study: async (db, ids, format) => (await loadStudies(db, ids)).map(node => studyJson(node, format)),
  series: async (db, ids, format) => (await loadSeries(db, ids)).map(node => seriesJson(node, format)),
  instance: async (db, ids, format) => (await loadInstances(db, ids)).map(node => instanceJson(node, format)),
}
