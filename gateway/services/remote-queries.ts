/** Queries of other nodes whose answers are kept for a while, so that a person or program can go on from them. */

import { randomUUID } from 'node:crypto'
import { sql } from 'kysely'
import { authorize } from '../../policy/authorize.ts'
import type { Db, Tx } from '../db/db.ts'
import type { DicomJson } from '../dicom/json.ts'
import { fromJson } from '../dicom/json.ts'
import { GatewayError } from '../errors.ts'
import type { Principal } from '../principal.ts'
import type { Remote, RemoteCall } from './remote.ts'
import type { RetrieveKeys } from './retrieve-plan.ts'

/** A query as it was asked. */
export interface StoredQuery {
  readonly id: string
  /** Symbolic name of the node. */
  readonly modality: string
  readonly level: RetrieveKeys['level']
  /** The keys as they were given, without those that are added to every query. */
  readonly query: DicomJson
  readonly answerCount: number
}

/** What is to be asked. */
export interface QueryRequest {
  readonly modality: string
  readonly level: RetrieveKeys['level']
  readonly query: DicomJson
  /** Removes what is no key of the level. */
  readonly call?: RemoteCall
}

/** Asks, keeps and shows. */
export interface RemoteQueries {
  /** @returns its id @throws GatewayError TOO_LARGE for more matches than are kept, and what `Remote.ask` throws */
  ask(principal: Principal, request: QueryRequest, signal: AbortSignal): Promise<string>
  /** Ids of those that are kept, in ascending order. */
  list(): Promise<string[]>
  /** @throws GatewayError NOT_FOUND */
  load(id: string): Promise<StoredQuery>
  /** All answers, in the order in which they came. */
  answers(id: string): Promise<DicomJson[]>
  /** @throws GatewayError BAD_REQUEST when there are fewer answers */
  answer(query: StoredQuery, place: number): Promise<DicomJson>
  /** Forgets it; one that is not there is no error. */
  remove(id: string): Promise<void>
}

/** As Orthanc's `QueryRetrieveSize`; the oldest one makes room. */
const defaultMostQueries = 100
const mostAnswers = 10_000
const answersPerWrite = 500
const keptHours = 24
const uuid = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/

/** Attributes that every query of a level asks for, as Orthanc does: those of the levels above it too. */
const askedFor: Readonly<Record<RetrieveKeys['level'], readonly string[]>> = {
  patient: ['00100020'],
  study: ['00080050', '00100020', '0020000D'],
  series: ['00080050', '00100020', '0020000D', '0020000E'],
  instance: ['00080018', '00080050', '00100020', '0020000D', '0020000E'],
}

export function openRemoteQueries(options: {
  readonly db: Db
  readonly remote: Pick<Remote, 'ask'>
  readonly mostQueries?: number | undefined
}): RemoteQueries {
  const { db, remote, mostQueries = defaultMostQueries } = options

  const load = async (id: string): Promise<StoredQuery> => {
    const { rows } = uuid.test(id)
      ? await sql<StoredQuery>`
          select id, modality, level, query,
                 (select count(*)::int from remote_answers where query = remote_queries.id) as "answerCount"
            from remote_queries where id = ${id}::uuid and created_at > now() - make_interval(hours => ${keptHours})
        `.execute(db.kysely)
      : { rows: [] }
    if (!rows[0]) throw new GatewayError('NOT_FOUND', 'no such query')
    return rows[0]
  }

  return {
    load,

    async ask(principal, { modality, level, query, call }, signal) {
      authorize(principal, 'modality.query')
      const asked: Record<string, DicomJson[string]> = { ...query }
      for (const tag of askedFor[level]) asked[tag] ??= { vr: 'LO' }
      const isAscii = /^[\x20-\x7e]*$/.test(JSON.stringify(asked))
      if (!isAscii) asked['00080005'] = { vr: 'CS', Value: ['ISO_IR 192'] }
      const answers: DicomJson[] = []
      for await (const match of remote.ask(
        principal,
        modality,
        { level, keys: fromJson(asked), ...(call && { call }) },
        signal,
      )) {
        if (answers.length === mostAnswers) throw new GatewayError('TOO_LARGE', `more than ${mostAnswers} matches`)
        answers.push(match)
      }
      const id = randomUUID()
      await db.inTransaction(async tx => {
        await makeRoom(tx, mostQueries - 1)
        await sql`
          insert into remote_queries (id, modality, level, query, requested_by)
          values (${id}::uuid, ${modality}, ${level}, ${JSON.stringify(query)}::jsonb, ${principal.id})
        `.execute(tx)
        for (let at = 0; at < answers.length; at += answersPerWrite) {
          const some = answers.slice(at, at + answersPerWrite)
          await sql`
            insert into remote_answers (query, place, document)
            select ${id}::uuid, ${at}::int + place - 1, document
              from jsonb_array_elements(${JSON.stringify(some)}::jsonb) with ordinality as given (document, place)
          `.execute(tx)
        }
      })
      return id
    },

    async list() {
      const { rows } = await sql<{ id: string }>`
        select id from remote_queries where created_at > now() - make_interval(hours => ${keptHours}) order by id
      `.execute(db.kysely)
      return rows.map(({ id }) => id)
    },

    async answers(id) {
      const { rows } = await sql<{ document: DicomJson }>`
        select document from remote_answers where query = ${id}::uuid order by place
      `.execute(db.kysely)
      return rows.map(({ document }) => document)
    },

    async answer({ id }, place) {
      const { rows } = await sql<{ document: DicomJson }>`
        select document from remote_answers where query = ${id}::uuid and place = ${place}
      `.execute(db.kysely)
      if (!rows[0]) throw new GatewayError('BAD_REQUEST', 'there are fewer answers')
      return rows[0].document
    },

    async remove(id) {
      if (uuid.test(id)) await sql`delete from remote_queries where id = ${id}::uuid`.execute(db.kysely)
    },
  }
}

/** Forgets what is too old, and of the rest the oldest ones beyond `most`. */
async function makeRoom(tx: Tx, most: number): Promise<void> {
  await sql`
    delete from remote_queries
     where created_at <= now() - make_interval(hours => ${keptHours})
        or id in (select id from remote_queries order by created_at desc, id offset ${most})
  `.execute(tx)
}
