/** Queries for somebody, by whatever protocol: each is an audit event, written before the first match leaves. */
import { queried } from '../audit/event.ts'
import { auditInsertion } from '../audit/log.ts'
import type { Db } from '../db/db.ts'
import type { MatchSpec } from '../dicom/matching.ts'
import { formatTag } from '../dicom/tag.ts'
import type { Principal } from '../principal.ts'
import { type Match, type SearchOptions, search } from '../store/search.ts'

/** Searches the store. */
export interface Query {
  /** Matches in order of arrival, some at a time. @throws GatewayError DATABASE_UNAVAILABLE, the signal's reason */
  find(
    principal: Principal,
    spec: MatchSpec,
    options: Omit<SearchOptions, 'recording'>,
  ): AsyncGenerator<readonly Match[], void, void>
}

export function openQuery({ db }: { readonly db: Db }): Query {
  return {
    async *find(principal, spec, options) {
      const event = queried({
        requestor: { userId: principal.id, ...(principal.address !== undefined && { address: principal.address }) },
        // Which attributes were asked by, not for which values: the log is read by more people than the store.
        detail: { level: spec.level, keys: spec.keys.map(key => formatTag(key.tag)).join(' ') },
      })
      yield* search(db, spec, { ...options, recording: auditInsertion([event]) })
    },
  }
}
