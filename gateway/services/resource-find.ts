/**
 * Finds resources as Orthanc's `/tools/find` asks: by attributes of their level, of those above it, or of anything
 * below it, limited by labels, metadata and parents, in any order.
 */
import { authorize } from '../../policy/authorize.ts'
import type { Db } from '../db/db.ts'
import type { DicomJson } from '../dicom/json.ts'
import { type Level, levelsOf } from '../dicom/levels.ts'
import type { MatchKey } from '../dicom/matching.ts'
import { formatTag, type Tag } from '../dicom/tag.ts'
import { GatewayError } from '../errors.ts'
import type { Principal } from '../principal.ts'
import { levelOrder } from '../store/hierarchy.ts'
import { loadMetadata } from '../store/metadata.ts'
import { ancestorsOf, computedTags, type Match } from '../store/search.ts'
import type { SearchScope } from '../store/search-scope.ts'
import type { Query } from './query.ts'

/** What the results are sorted by; as texts or as numbers. */
export interface OrderKey {
  readonly by: { readonly kind: 'tag'; readonly tag: Tag } | { readonly kind: 'metadata'; readonly name: number }
  readonly as: 'text' | 'number'
  readonly direction: 'ascending' | 'descending'
}

/** What is looked for. */
export interface FindRequest {
  readonly level: Level
  readonly keys: readonly MatchKey[]
  readonly scope: SearchScope
  /** In order of arrival unless given. */
  readonly order: readonly OrderKey[]
  readonly since: number
  /** All unless given. */
  readonly limit: number | undefined
}

/** Finds resources. */
export interface ResourceFind {
  /** Orthanc ids, some at a time; audited. @throws GatewayError TOO_LARGE for too many results to be sorted */
  ids(principal: Principal, request: FindRequest, signal: AbortSignal): AsyncGenerator<string[], void, void>
  /** How many there are, whatever `since` and `limit`; audited. */
  count(principal: Principal, request: FindRequest, signal: AbortSignal): Promise<number>
}

/** More results are not sorted: they would have to be held in memory. */
const mostSorted = 100_000
const sortedPage = 1000

/** Optional values are compared as the last. */
type SortValue = string | number | undefined

/** Most results of one search at a level; undefined for no limit. */
export type FindLimits = (level: Level) => number | undefined

/** By what is configured, where 0 is no limit. */
export const findLimits =
  ({ limitFindResults, limitFindInstances }: { limitFindResults: number; limitFindInstances: number }): FindLimits =>
  level =>
    (level === 'instance' ? limitFindInstances : limitFindResults) || undefined

export function openResourceFind(options: {
  readonly db: Db
  readonly query: Query
  readonly limits?: FindLimits
}): ResourceFind {
  const { db, query, limits = () => undefined } = options
  /** Matches at the level that the keys ask for, which may be below the one that is wanted. */
  const search = (
    principal: Principal,
    request: FindRequest,
    signal: AbortSignal,
    options: { readonly offset?: number; readonly limit?: number | undefined },
  ) => {
    const level = searchedLevel(request)
    const scope: SearchScope = { ...request.scope, ...(level !== request.level && { level: request.level }) }
    const spec = { level, keys: request.keys }
    const returned = new Set(request.order.flatMap(({ by }) => (by.kind === 'tag' ? [by.tag] : [])))
    const { offset = 0, limit } = options
    const all = { returned, scope, signal, offset, limit }
    // Without keys the database passes over what is skipped.
    if (request.keys.length > 0 || limit === undefined) return query.find(principal, spec, all)
    return found(query.findPart(principal, spec, { ...all, limit }))
  }

  /** The results' ids without a window, each once. */
  async function* distinct(
    principal: Principal,
    request: FindRequest,
    signal: AbortSignal,
  ): AsyncGenerator<string[], void, void> {
    const level = searchedLevel(request)
    const seen = new Set<string>()
    for await (const matches of search(principal, request, signal, {})) {
      const ids = matches.map(match => match.orthancId)
      if (level === request.level) yield ids
      else {
        const fresh = (await ancestorsOf(db, level, ids, request.level)).filter(id => !seen.has(id))
        for (const id of fresh) seen.add(id)
        yield fresh
      }
    }
  }

  async function* sorted(
    principal: Principal,
    request: FindRequest,
    signal: AbortSignal,
  ): AsyncGenerator<string[], void, void> {
    const { level, order, since, limit } = request
    if (searchedLevel(request) !== level) {
      throw new GatewayError(
        'BAD_REQUEST',
        'results are sorted only where the query asks by tags of their level or above',
      )
    }
    const entries: { id: string; values: SortValue[] }[] = []
    for await (const matches of search(principal, request, signal, {})) {
      if (entries.length + matches.length > mostSorted) {
        throw new GatewayError('TOO_LARGE', `expected at most ${mostSorted} results to be sorted: narrow the query`)
      }
      entries.push(...(await valuesOf(db, level, matches, order)))
    }
    entries.sort((one, other) => compareAll(one.values, other.values, order))
    const ids = entries.slice(since, limit === undefined ? undefined : since + limit).map(entry => entry.id)
    for (let at = 0; at < ids.length; at += sortedPage) yield ids.slice(at, at + sortedPage)
  }

  return {
    async *ids(principal, wanted, signal) {
      authorize(principal, 'study.search')
      const most = limits(wanted.level)
      const request = most === undefined ? wanted : { ...wanted, limit: Math.min(wanted.limit ?? most, most) }
      const { since, limit, order } = request
      if (order.length > 0) {
        yield* sorted(principal, request, signal)
      } else if (searchedLevel(request) === request.level) {
        for await (const matches of search(principal, request, signal, { offset: since, limit })) {
          yield matches.map(match => match.orthancId)
        }
      } else {
        yield* windowed(distinct(principal, request, signal), since, limit)
      }
    },

    async count(principal, request, signal) {
      authorize(principal, 'study.search')
      if (request.keys.length === 0) {
        const spec = { level: request.level, keys: [] }
        const options = { returned: new Set<Tag>(), scope: request.scope, signal, limit: 0 }
        return (await query.findPart(principal, spec, options)).remaining
      }
      let count = 0
      for await (const ids of distinct(principal, { ...request, order: [] }, signal)) count += ids.length
      return count
    },
  }
}

/** The lowest level that a key asks about, if it is below the one that is wanted. */
function searchedLevel({ level, keys }: FindRequest): Level {
  const places = keys.map(({ tag }) => {
    if (computedTags[level].includes(tag)) return levelOrder.indexOf(level)
    const computed = levelOrder.find(each => computedTags[each].includes(tag))
    if (computed) return levelOrder.indexOf(computed)
    return Math.min(...levelsOf(tag).map(each => levelOrder.indexOf(each)))
  })
  return levelOrder[Math.max(levelOrder.indexOf(level), ...places)] ?? level
}

async function* found(part: ReturnType<Query['findPart']>): AsyncGenerator<readonly Match[], void, void> {
  yield* (await part).matches
}

async function* windowed(
  pages: AsyncGenerator<string[], void, void>,
  since: number,
  limit: number | undefined,
): AsyncGenerator<string[], void, void> {
  let skip = since
  let left = limit ?? Number.POSITIVE_INFINITY
  if (left === 0) return
  for await (const page of pages) {
    const given = page.slice(skip, skip + left)
    skip = Math.max(0, skip - page.length)
    left -= given.length
    yield given
    if (left === 0) return
  }
}

async function valuesOf(
  db: Db,
  level: Level,
  matches: readonly Match[],
  order: readonly OrderKey[],
): Promise<{ id: string; values: SortValue[] }[]> {
  const isMetadataAsked = order.some(({ by }) => by.kind === 'metadata')
  const metadata = isMetadataAsked
    ? await loadMetadata(
        db,
        level,
        matches.map(match => match.orthancId),
      )
    : new Map()
  return matches.map(({ orthancId, attributes }) => ({
    id: orthancId,
    values: order.map(({ by, as }) => {
      const entries: readonly { name: number; value: string }[] = metadata.get(orthancId) ?? []
      const text = by.kind === 'tag' ? textOf(attributes, by.tag) : entries.find(entry => entry.name === by.name)?.value
      if (text === undefined || as === 'text') return text
      const number = Number.parseFloat(text)
      return Number.isNaN(number) ? undefined : number
    }),
  }))
}

function textOf(attributes: DicomJson, tag: Tag): string | undefined {
  const [value] = attributes[formatTag(tag)]?.Value ?? []
  if (value === undefined || value === null) return undefined
  if (typeof value !== 'object') return String(value)
  return 'Alphabetic' in value && typeof value.Alphabetic === 'string' ? value.Alphabetic : undefined
}

function compareAll(one: readonly SortValue[], other: readonly SortValue[], order: readonly OrderKey[]): number {
  for (const [place, { direction }] of order.entries()) {
    const [a, b] = [one[place], other[place]]
    if (a === b) continue
    if (a === undefined) return 1
    if (b === undefined) return -1
    const sign = a < b ? -1 : 1
    return direction === 'ascending' ? sign : -sign
  }
  return 0
}
