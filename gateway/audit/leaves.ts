/**
 * Appends committed events to the Merkle log, after their commit, so that ingest never waits for a
 * global order. One appends at a time per database: the row of `audit_tree` is the lock.
 *
 * Ids are given out before commit, so a smaller one may become visible after a larger one. Leaves are
 * therefore appended for *every* visible event without one, in order of id within a round. To keep
 * that search short, `audit_tree.settled` rises behind it: an id is settled once every transaction that
 * held the table's write lock when the id was given out has ended. (An insert takes that lock before
 * it draws an id, and PostgreSQL drops it after the rows are visible.) No event is skipped: below the
 * mark none can appear any more.
 */
import { sql } from 'kysely'
import type { Db, Tx } from '../db/db.ts'
import { MerkleTree } from './merkle.ts'

/** Leaves appended in one transaction, at most. */
export const roundSize = 2000

/** What a sequencer remembers between rounds: the id that settles next, and the transactions (virtual ids) that must end before. */
export interface Marker {
  next?: { readonly id: number; readonly writers: ReadonlySet<string> }
}

/** Appends every event that was committed before the call; how many that were. */
export async function sequenceAll(db: Db): Promise<number> {
  for (let total = 0; ; ) {
    const appended = await db.inTransaction(tx => appendRound(tx, {}, { whenBusy: 'wait' }))
    total += appended
    if (appended < roundSize) return total
  }
}

/**
 * One round in the caller's transaction: appends up to `roundSize` events, answers how many.
 *
 * @param whenBusy  another sequencer is at work: answer 0, or wait for it
 */
export async function appendRound(tx: Tx, marker: Marker, options: { whenBusy: 'skip' | 'wait' }): Promise<number> {
  const tree = await lockTree(tx, options.whenBusy)
  if (!tree) return 0
  // Before the search for events: what ended until here is visible to it.
  const settled = await settledId(tx, marker)
  const { rows: events } = await sql<{ id: number; commitment: Buffer }>`
    select e.id, e.commitment from audit_events e
     where e.id > ${tree.settled} and not exists (select from audit_leaves l where l.event = e.id)
     order by e.id limit ${roundSize}
  `.execute(tx)
  const complete = events.length < roundSize
  const rises = complete && settled !== undefined && settled > tree.settled
  if (events.length === 0 && !rises) return 0

  const merkle = new MerkleTree(tree.size, tree.frontier)
  for (const event of events) merkle.append(event.commitment)
  if (events.length > 0) {
    await sql`
      insert into audit_leaves (leaf_index, event, commitment)
      select ${tree.size}::bigint + place - 1, event, commitment
        from unnest(${events.map(event => event.id)}::bigint[], ${events.map(event => event.commitment)}::bytea[])
             with ordinality as leaf (event, commitment, place)
    `.execute(tx)
  }
  await sql`
    update audit_tree set size = ${merkle.size}, frontier = ${[...merkle.frontier]}::bytea[],
           settled = ${rises ? settled : tree.settled}
  `.execute(tx)
  return events.length
}

async function lockTree(tx: Tx, whenBusy: 'skip' | 'wait') {
  const { rows } = await sql<{ size: number; frontier: Buffer[]; settled: number }>`
    select size, frontier, settled from audit_tree for update ${whenBusy === 'skip' ? sql`skip locked` : sql``}
  `.execute(tx)
  return rows[0]
}

/** The id up to which no event can appear any more, if that is known in this round. */
async function settledId(tx: Tx, marker: Marker): Promise<number | undefined> {
  if (!marker.next) {
    // The id first: a writer that drew one up to it holds its lock now, or has ended.
    const { rows } = await sql<{ id: number }>`
      select case when is_called then last_value else 0 end as id from audit_events_id_seq
    `.execute(tx)
    marker.next = { id: rows[0]?.id ?? 0, writers: await findWriters(tx) }
    if (marker.next.writers.size > 0) return undefined
  } else {
    const writing = await findWriters(tx)
    for (const writer of marker.next.writers) if (writing.has(writer)) return undefined
  }
  const { id } = marker.next
  delete marker.next
  return id
}

async function findWriters(tx: Tx): Promise<ReadonlySet<string>> {
  const { rows } = await sql<{ transaction: string }>`
    select virtualtransaction as transaction from pg_locks
     where locktype = 'relation' and relation = 'audit_events'::regclass
       and database = (select oid from pg_database where datname = current_database())
       and mode = 'RowExclusiveLock'
  `.execute(tx)
  return new Set(rows.map(row => row.transaction))
}
