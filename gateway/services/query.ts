/** Queries for somebody, by whatever protocol: each is an audit event, written before the first match leaves. */
import { authorize } from '../../policy/authorize.ts'
import { queried } from '../audit/event.ts'
import { auditInsertion } from '../audit/log.ts'
import type { Db } from '../db/db.ts'
import type { MatchSpec } from '../dicom/matching.ts'
import { formatTag } from '../dicom/tag.ts'
import type { Principal } from '../principal.ts'
import { type Match, type SearchOptions, search, searchPage } from '../store/search.ts'

type FindOptions = Omit<SearchOptions, 'recording'>

/** A part of the matches, with what is known of those after it. */
export interface FoundPart {
  /** Some at a time. */
  readonly matches: AsyncIterable<readonly Match[]>
  /** Matches after these; at least so many unless `isCounted`. */
  readonly remaining: number
  readonly isCounted: boolean
}

/** Searches the store. */
export interface Query {
  /** Matches in order of arrival, some at a time. @throws GatewayError DATABASE_UNAVAILABLE, the signal's reason */
  find(principal: Principal, spec: MatchSpec, options: FindOptions): AsyncGenerator<readonly Match[], void, void>
  /** `limit` matches from `offset` on. @throws GatewayError DATABASE_UNAVAILABLE, the signal's reason */
  findPart(principal: Principal, spec: MatchSpec, options: FindOptions & { readonly limit: number }): Promise<FoundPart>
}

/** Larger parts are not held in memory: what follows them is looked for before they are read. */
const largestPage = 1000

export function openQuery({ db }: { readonly db: Db }): Query {
  const recordingOf = (principal: Principal, spec: MatchSpec) =>
    auditInsertion([
      queried({
        requestor: { userId: principal.id, ...(principal.address !== undefined && { address: principal.address }) },
        // Which attributes were asked by, not for which values: the log is read by more people than the store.
        detail: { level: spec.level, keys: spec.keys.map(key => formatTag(key.tag)).join(' ') },
      }),
    ])
  return {
    async *find(principal, spec, options) {
      authorize(principal, 'study.search')
      yield* search(db, spec, { ...options, recording: recordingOf(principal, spec) })
    },
    async findPart(principal, spec, options) {
      authorize(principal, 'study.search')
      const { offset = 0, limit } = options
      const recording = recordingOf(principal, spec)
      if (limit <= largestPage) {
        // Beside the search and not in its statement: the log's way to the disk takes as long as the search.
        const [{ matches, remaining, isCounted }] = await Promise.all([
          searchPage(db, spec, options),
          recording.execute(db.kysely),
        ])
        return { matches: only(matches), remaining, isCounted }
      }
      const { remaining, isCounted } = await searchPage(db, spec, { ...options, offset: offset + limit, limit: 0 })
      return { matches: search(db, spec, { ...options, recording }), remaining, isCounted }
    },
  }
}

async function* only<T>(item: T): AsyncGenerator<T, void, void> {
  yield item
}
