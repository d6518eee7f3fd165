/** The counters kept beside studies and series, compared with what is really there. */
import { sql } from 'kysely'
import type { Db } from '../db/db.ts'

/** A counter that does not say what it should. */
export interface WrongCounter {
  readonly table: 'studies' | 'series'
  readonly id: number
  /** Study or Series Instance UID. */
  readonly uid: string
  readonly storedInstances: number
  readonly actualInstances: number
  /** Only studies count bytes; 0 for series. */
  readonly storedBytes: number
  readonly actualBytes: number
}

/**
 * Finds wrong counters, a range of ids at a time; each range is one statement and so one snapshot,
 * because ingest may be running.
 */
export async function* findWrongCounters(db: Db, rangeSize = 5_000): AsyncIterable<WrongCounter> {
  for (const table of ['studies', 'series'] as const) {
    const { rows } = await sql<{ last: number }>`
      select coalesce(max(id), 0) as last from ${sql.table(table)}`.execute(db.kysely)
    for (let from = 0; from < (rows[0]?.last ?? 0); from += rangeSize) {
      const wrong = await sql<WrongCounter>`${counted(table)} and o.id > ${from} and o.id <= ${from + rangeSize}
        group by o.id having ${mismatch(table)} order by o.id`.execute(db.kysely)
      yield* wrong.rows
    }
  }
}

/** Sets one counter right; false when it was already, because ingest had changed it meanwhile. */
export async function repairCounter(db: Db, wrong: WrongCounter): Promise<boolean> {
  const { table, id } = wrong
  return await db.inTransaction(async tx => {
    // Ingest updates the row in its transaction: once it is locked, everything it counts is visible.
    await sql`select id from ${sql.table(table)} where id = ${id} for update`.execute(tx)
    const { rows } = await sql<WrongCounter>`${counted(table)} and o.id = ${id}
      group by o.id having ${mismatch(table)}`.execute(tx)
    const found = rows[0]
    if (!found) return false
    const bytes = table === 'studies' ? sql`, size_bytes = ${found.actualBytes}` : sql``
    await sql`update ${sql.table(table)} set instance_count = ${found.actualInstances} ${bytes}
      where id = ${id}`.execute(tx)
    return true
  })
}

function counted(table: WrongCounter['table']) {
  return table === 'studies'
    ? sql`select 'studies' as "table", o.id, o.study_instance_uid as uid,
        o.instance_count as "storedInstances", count(i.id) as "actualInstances",
        o.size_bytes as "storedBytes", coalesce(sum(i.size_bytes), 0)::bigint as "actualBytes"
      from studies o left join series s on s.study = o.id left join instances i on i.series = s.id where true`
    : sql`select 'series' as "table", o.id, o.series_instance_uid as uid,
        o.instance_count as "storedInstances", count(i.id) as "actualInstances",
        0::bigint as "storedBytes", 0::bigint as "actualBytes"
      from series o left join instances i on i.series = o.id where true`
}

function mismatch(table: WrongCounter['table']) {
  return table === 'studies'
    ? sql`o.instance_count <> count(i.id) or o.size_bytes <> coalesce(sum(i.size_bytes), 0)`
    : sql`o.instance_count <> count(i.id)`
}
