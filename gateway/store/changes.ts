/**
 * The feed of changes. What a transaction changed is one row of `change_intake`; the sequencer gives each change its
 * position after commit, so that a reader who has seen position n has seen everything before it.
 */
import { type RawBuilder, sql } from 'kysely'
import type { Db, Tx } from '../db/db.ts'
import type { Level } from './query.ts'

/** Kinds that are of one level only, or of any. */
export type ChangeKind =
  | `${'New' | 'Stable' | 'Modified' | 'Anonymized'}${'Patient' | 'Study' | 'Series'}`
  | 'NewInstance'
  | 'CompletedSeries'
  | 'UpdatedMetadata'
  | 'UpdatedAttachment'
  | 'Deleted'

/** One change, before it has a position. */
export interface NewChange {
  readonly kind: ChangeKind
  readonly level: Level
  readonly orthancId: string
}

/** One change of the feed. */
export interface Change {
  readonly seq: number
  readonly kind: string
  readonly level: Level
  readonly orthancId: string
  readonly at: Date
}

/** Records changes, in the transaction that makes them. */
export async function recordChanges(tx: Tx, changes: readonly NewChange[]): Promise<void> {
  if (changes.length === 0) return
  await sql`
    insert into change_intake (kinds, levels, resources)
    values (${changes.map(change => change.kind)}::text[], ${changes.map(change => change.level)}::text[],
            ${changes.map(change => change.orthancId)}::text[])
  `.execute(tx)
}

/**
 * Records that nothing is awaited for a study any more: it, its series that changed since they were told stable, and
 * its patient when no other study of theirs is awaited.
 */
export async function recordStable(tx: Tx, study: number): Promise<void> {
  await sql`
    insert into change_intake (kinds, levels, resources)
    select array_agg(kind order by place, id), array_agg(level order by place, id), array_agg(orthanc_id order by place, id)
      from (
        select 'StableSeries' as kind, 'series' as level, c.orthanc_id, 1 as place, c.id from series c
         where c.study = ${study}
           and not exists (select from changes k where k.resource = c.orthanc_id and k.kind = 'StableSeries' and k.at > c.updated_at)
        union all select 'StableStudy', 'study', s.orthanc_id, 2, s.id from studies s where s.id = ${study}
        union all select 'StablePatient', 'patient', p.orthanc_id, 3, p.id
          from patients p join studies s on s.patient = p.id where s.id = ${study}
           and not exists (select from studies o where o.patient = p.id and o.id <> s.id and o.due_at is not null)
      ) stable
    having count(*) > 0
  `.execute(tx)
}

/** The same for studies of an issuer that came whole. */
export async function recordImportStable(
  tx: Tx,
  issuer: string,
  studies: readonly { readonly studyInstanceUid: string }[],
): Promise<void> {
  const { rows } = await sql<{ id: number }>`
    select s.id from studies s join patients p on p.id = s.patient
     where p.issuer = ${issuer} and s.study_instance_uid = any(${studies.map(study => study.studyInstanceUid)}::text[])
     order by s.id
  `.execute(tx)
  for (const { id } of rows) await recordStable(tx, id)
}

/** Transactions whose changes get their positions in one round. */
const roundSize = 500

/**
 * Gives positions to all changes that were committed before the call. One at a time per database: the row of
 * `change_feed` is the lock.
 *
 * @returns how many
 */
export async function sequenceChanges(db: Db): Promise<number> {
  let total = 0
  for (;;) {
    const { rows } = await sql<{ is_waiting: boolean }>`
      select exists (select from change_intake) as is_waiting
    `.execute(db.kysely)
    if (!rows[0]?.is_waiting) return total
    const { taken, added } = await db.inTransaction(sequenceRound)
    total += added
    if (taken < roundSize) return total
  }
}

async function sequenceRound(tx: Tx): Promise<{ taken: number; added: number }> {
  await sql`select last from change_feed for update`.execute(tx)
  const { rows } = await sql<{ taken: number; added: number; deletions: number }>`
    with taken as (
      delete from change_intake where id in (select id from change_intake order by id limit ${roundSize})
      returning id, at, kinds, levels, resources
    ), added as (
      insert into changes (seq, kind, level, resource, at)
      select f.last + row_number() over (order by t.id, e.place), e.kind, e.level, e.resource, t.at
        from change_feed f, taken t
        cross join lateral unnest(t.kinds, t.levels, t.resources) with ordinality as e (kind, level, resource, place)
      returning seq, kind
    ), moved as (
      update change_feed set last = greatest(last, (select max(seq) from added))
    )
    select (select count(*) from taken) as taken, count(*) as added, count(*) filter (where kind = 'Deleted') as deletions
      from added
  `.execute(tx)
  const round = rows[0] ?? { taken: 0, added: 0, deletions: 0 }
  if (round.deletions > 0) await forgetDeleted(tx, round.added)
  return round
}

/** What was told of a resource before its deletion is told no more. */
async function forgetDeleted(tx: Tx, added: number): Promise<void> {
  await sql`
    delete from changes c using changes d, change_feed f
     where d.kind = 'Deleted' and d.seq > f.last - ${added} and c.resource = d.resource and c.level = d.level
       and c.seq < d.seq and c.kind <> 'Deleted'
  `.execute(tx)
}

/** Which changes are read. */
export interface ChangeWindow {
  /** Changes after this position. */
  readonly since?: number | undefined
  /** Changes up to this position; without `since` the latest of them. */
  readonly to?: number | undefined
  readonly limit: number
  /** Only of these kinds; deletions are told only where they are among them. */
  readonly kinds?: readonly string[] | undefined
}

/** A page of changes in order of position, and whether there are no more of that kind in its direction. */
export async function loadChanges(db: Db, window: ChangeWindow): Promise<{ changes: Change[]; isLast: boolean }> {
  const { since, to, limit, kinds } = window
  const isBackwards = to !== undefined && since === undefined
  const conditions: RawBuilder<unknown>[] = [
    kinds ? sql`kind = any(${kinds}::text[])` : sql`kind <> 'Deleted'`,
    ...(since === undefined ? [] : [sql`seq > ${since}`]),
    ...(to === undefined ? [] : [sql`seq <= ${to}`]),
  ]
  const { rows } = await sql<Change>`
    select seq, kind, level, resource as "orthancId", at from changes where ${sql.join(conditions, sql` and `)}
     order by seq ${isBackwards ? sql`desc` : sql`asc`} limit ${limit + 1}
  `.execute(db.kysely)
  const changes = rows.slice(0, limit)
  return { changes: isBackwards ? changes.reverse() : changes, isLast: rows.length <= limit }
}

/** The newest change that is told, and the last position that was given. */
export async function loadLastChange(db: Db): Promise<{ change: Change | undefined; last: number }> {
  const { changes } = await loadChanges(db, { to: Number.MAX_SAFE_INTEGER, limit: 1 })
  const { rows } = await sql<{ last: number }>`select last from change_feed`.execute(db.kysely)
  return { change: changes[0], last: rows[0]?.last ?? 0 }
}

/** Empties the feed; positions go on from where they are. */
export async function clearChanges(tx: Tx): Promise<void> {
  await sql`select last from change_feed for update`.execute(tx)
  await sql`delete from changes`.execute(tx)
}
