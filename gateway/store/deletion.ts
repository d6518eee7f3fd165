/** Takes resources out of the hierarchy with everything below them: set by set, whatever their number. */
import { type RawBuilder, sql } from 'kysely'
import type { RemovingTx, Tx } from '../db/db.ts'
import { recordChanges } from './changes.ts'
import type { Level } from './query.ts'

/** The resources that are to go. */
export interface Condemned {
  readonly level: Level
  readonly orthancIds: readonly string[]
}

/** What of one study is to go. */
export interface CondemnedStudy {
  readonly studyInstanceUid: string
  readonly patientId: string
  readonly issuer: string
  /** Instances that the study has, and that are to go. */
  readonly total: number
  readonly condemned: number
  readonly sopClassUids: readonly string[]
  /** The first of those that are to go, at most `listedInstances`. */
  readonly sopInstanceUids: readonly string[]
}

/** An audit record names at most so many instances; it counts all. */
export const listedInstances = 1000

const alias: Readonly<Record<Level, string>> = { patient: 'p', study: 's', series: 'c', instance: 'i' }

const isCondemned = ({ level, orthancIds }: Condemned): RawBuilder<unknown> =>
  sql`${sql.ref(`${alias[level]}.orthanc_id`)} = any(${orthancIds}::text[])`

/** Everything that is condemned down to the instances; what has none is there with nulls. */
const hierarchy = sql`patients p left join studies s on s.patient = p.id left join series c on c.study = s.id
  left join instances i on i.series = c.id`

/** Locks patients and studies in the order in which ingest writes them: nothing arrives meanwhile. */
export async function lockCondemned(tx: Tx, condemned: Condemned): Promise<void> {
  const which = isCondemned(condemned)
  await sql`
    select from patients where id in (select p.id from ${hierarchy} where ${which})
     order by issuer, patient_id for update
  `.execute(tx)
  await sql`
    select from studies where id in (select s.id from ${hierarchy} where ${which})
     order by patient, study_instance_uid for update
  `.execute(tx)
}

/** The Orthanc ids among those asked for that exist. */
export async function findCondemned(tx: Tx, condemned: Condemned): Promise<string[]> {
  const id = sql.ref(`${alias[condemned.level]}.orthanc_id`)
  const { rows } = await sql<{ id: string }>`
    select distinct ${id} as id from ${hierarchy} where ${isCondemned(condemned)}
  `.execute(tx)
  return rows.map(row => row.id)
}

/** The transfers, by id, that still have to send something of it, or whose archive has not committed to it. */
export async function findHoldingTransfers(tx: Tx, condemned: Condemned): Promise<string[]> {
  const { rows } = await sql<{ id: string }>`
    select t.id from transfers t
     where t.state in ('planned', 'prepared', 'signed', 'sent', 'held')
       and t.study in (select s.id from ${hierarchy} where ${isCondemned(condemned)})
       and exists (
         select from transfer_items n join instances i on i.sop_instance_uid = n.sop_instance_uid
           join series c on c.id = i.series join studies s on s.id = c.study join patients p on p.id = s.patient
          where n.transfer = t.id and ${isCondemned(condemned)})
     order by t.created_at limit 10
  `.execute(tx)
  return rows.map(row => row.id)
}

/** Legal holds in force, by id, on something of it. */
export async function findLegalHolds(tx: Tx, condemned: Condemned): Promise<string[]> {
  const { rows } = await sql<{ id: string }>`
    select distinct h.id from ${hierarchy}
      join legal_holds h on (h.issuer = p.issuer and h.patient_id = p.patient_id)
        or h.study_instance_uid = s.study_instance_uid
     where ${isCondemned(condemned)} and h.released_at is null limit 10
  `.execute(tx)
  return rows.map(row => row.id)
}

/** What is to go, by study. */
export async function loadCondemnedStudies(tx: Tx, condemned: Condemned): Promise<CondemnedStudy[]> {
  const { rows } = await sql<CondemnedStudy>`
    select s.study_instance_uid as "studyInstanceUid", p.patient_id as "patientId", p.issuer,
           s.instance_count as total, count(i.id) as condemned,
           coalesce(array_agg(distinct i.sop_class_uid) filter (where i.id is not null), '{}') as "sopClassUids",
           coalesce((array_agg(i.sop_instance_uid order by i.id) filter (where i.id is not null))[1:${sql.lit(listedInstances)}],
                    '{}') as "sopInstanceUids"
      from ${hierarchy} where ${isCondemned(condemned)} and s.id is not null
     group by s.id, p.id order by s.id
  `.execute(tx)
  return rows
}

/** What a deletion came to. */
export interface Deleted {
  readonly instances: number
  /** Held bytes of the deleted instances that wait no more for a decision. */
  readonly conflicts: number
}

/**
 * Deletes it, and what is left empty above it. Counters follow, the feed of changes tells each resource, and the
 * bytes are noted for `sweepRemoved`.
 *
 * @param by  who decides that conflicting bytes of these instances are discarded
 */
export async function deleteCondemned(tx: RemovingTx, condemned: Condemned, by: string): Promise<Deleted> {
  const which = isCondemned(condemned)
  const { rows: above } = await sql<{ patient: number; study: number | null; series: number | null }>`
    select p.id as patient, s.id as study, c.id as series from ${hierarchy} where ${which} group by 1, 2, 3
  `.execute(tx)
  const idsOf = (key: 'patient' | 'study' | 'series'): number[] => [...new Set(above.flatMap(row => row[key] ?? []))]
  const [patients, studies, series] = [idsOf('patient'), idsOf('study'), idsOf('series')]

  const { rows: discarded } = await sql<{ id: number }>`
    with discarded as (
      update conflicts set state = 'discarded', decided_at = now(), decided_by = ${by}
       where state = 'held' and instance in (select i.id from ${hierarchy} where ${which})
      returning id, file_sha256
    ), noted as (
      insert into removed_blobs (file_sha256) select distinct file_sha256 from discarded
      on conflict (file_sha256) do update set removed_at = now()
    )
    select id from discarded
  `.execute(tx)
  const attached = (level: string, ids: readonly number[]): RawBuilder<unknown> =>
    sql`select a.file_sha256 from resource_attachments a where a.level = ${level} and a.resource = any(${ids}::bigint[])`
  await sql`
    insert into removed_blobs (file_sha256)
    select i.file_sha256 from ${hierarchy} where ${which} and i.id is not null
    union select a.file_sha256 from ${hierarchy}
      join resource_attachments a on a.level = 'instance' and a.resource = i.id where ${which}
    union ${attached('series', series)} union ${attached('study', studies)} union ${attached('patient', patients)}
    on conflict (file_sha256) do update set removed_at = now()
  `.execute(tx)

  const { rows: instances } = await sql<{ id: string; series: number; bytes: number }>`
    delete from instances where id in (select i.id from ${hierarchy} where ${which})
    returning orthanc_id as id, series, size_bytes as bytes
  `.execute(tx)
  await lowerCounters(tx, instances)
  const gone = {
    series: await deleteEmpty(tx, sql`series`, sql`id = any(${series}::bigint[]) and instance_count = 0`),
    study: await deleteEmpty(tx, sql`studies`, sql`id = any(${studies}::bigint[]) and instance_count = 0`),
    patient: await deleteEmpty(
      tx,
      sql`patients`,
      sql`id = any(${patients}::bigint[]) and not exists (select from studies s where s.patient = patients.id)`,
    ),
  }
  await recordChanges(tx, [
    ...instances.map(({ id }) => ({ kind: 'Deleted', level: 'instance', orthancId: id }) as const),
    ...(['series', 'study', 'patient'] as const).flatMap(level =>
      gone[level].map(orthancId => ({ kind: 'Deleted', level, orthancId }) as const),
    ),
  ])
  return { instances: instances.length, conflicts: discarded.length }
}

async function lowerCounters(tx: Tx, instances: readonly { series: number; bytes: number }[]): Promise<void> {
  const sums = new Map<number, { count: number; bytes: number }>()
  for (const { series, bytes } of instances) {
    const sum = sums.get(series) ?? { count: 0, bytes: 0 }
    sums.set(series, { count: sum.count + 1, bytes: sum.bytes + bytes })
  }
  const list = [...sums]
  await sql`
    with less as (
      select * from unnest(${list.map(([id]) => id)}::bigint[], ${list.map(([, { count }]) => count)}::int[],
                           ${list.map(([, { bytes }]) => bytes)}::bigint[]) as less (id, count, bytes)
    ), lowered as (
      update series c set instance_count = c.instance_count - less.count, updated_at = now() from less where c.id = less.id
      returning c.study, less.count, less.bytes
    )
    update studies s set instance_count = s.instance_count - sum.count, size_bytes = s.size_bytes - sum.bytes,
           updated_at = now(),
           modalities = coalesce((
             select array_agg(distinct c.modality order by c.modality) from series c left join less on less.id = c.id
              where c.study = s.id and c.modality is not null and c.instance_count > coalesce(less.count, 0)), '{}')
      from (select study, sum(count)::int as count, sum(bytes)::bigint as bytes from lowered group by study) sum
     where s.id = sum.study
  `.execute(tx)
}

async function deleteEmpty(tx: Tx, table: RawBuilder<unknown>, where: RawBuilder<unknown>): Promise<string[]> {
  const { rows } = await sql<{ id: string }>`delete from ${table} where ${where} returning orthanc_id as id`.execute(tx)
  return rows.map(row => row.id)
}
