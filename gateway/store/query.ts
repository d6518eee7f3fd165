/**
 * Reads of the hierarchy patient - study - series - instance by Orthanc id. Lists go by key in pages,
 * so that a million rows never stand in memory; details of a page come in one statement.
 */
import { sql } from 'kysely'
import type { Db } from '../db/db.ts'

export type Level = 'patient' | 'study' | 'series' | 'instance'

/** Attributes in the DICOM JSON model (PS3.18 Annex F), keyed `GGGGEEEE`, as the store keeps them. */
export type StoredAttributes = Readonly<Record<string, { readonly vr?: string; readonly Value?: readonly unknown[] }>>

/** What every level has in common. */
interface Node {
  readonly orthancId: string
  readonly attributes: StoredAttributes
  /** Orthanc ids of the level below, in order of arrival. */
  readonly children: readonly string[]
  /** No instance is awaited: the study's quiet time has passed. */
  readonly stable: boolean
  readonly updatedAt: Date
}

export type PatientNode = Node & { readonly isProtected: boolean }
/** Its attributes include the patient's as this study names them. */
export type StudyNode = Node & { readonly patient: string }
export type SeriesNode = Node & {
  readonly study: string
  /** InstanceNumber, else ImageIndex, of each child as text; undefined where it has neither. */
  readonly childIndexes: readonly (string | undefined)[]
}
export interface InstanceNode {
  readonly orthancId: string
  readonly attributes: StoredAttributes
  readonly series: string
  readonly sopInstanceUid: string
  readonly sopClassUid: string
  readonly transferSyntaxUid: string
  readonly fileSha256: Buffer
  readonly sizeBytes: number
  readonly createdAt: Date
}

/** Totals of the store. */
export interface StoreCounts {
  readonly patients: number
  readonly studies: number
  readonly series: number
  readonly instances: number
  /** Sum of the instances' Part 10 files. */
  readonly sizeBytes: number
  /** Of attachments as they are stored, and uncompressed. */
  readonly attachedBytes: number
  readonly attachedContentBytes: number
}

const pageSize = 1000

/**
 * Orthanc ids of a level in order of arrival, page by page.
 *
 * @param window `since` rows are skipped, then `limit` given; without it, all
 */
export async function* findIds(
  db: Db,
  level: Level,
  window?: { readonly since: number; readonly limit: number },
): AsyncGenerator<string[]> {
  const table = sql.table(tables[level])
  let left = window?.limit ?? Number.POSITIVE_INFINITY
  let skip = window?.since ?? 0
  let after = 0
  while (left > 0) {
    const wanted = Math.min(left, pageSize)
    // What is skipped is counted in the index alone.
    const { rows } = await sql<{ id: number; orthanc_id: string }>`
      select t.id, t.orthanc_id
        from (select id from ${table} where id > ${after} order by id offset ${skip} limit ${wanted}) page
        join ${table} t on t.id = page.id order by t.id
    `.execute(db.kysely)
    const last = rows.at(-1)
    if (last) yield rows.map(row => row.orthanc_id)
    if (!last || rows.length < wanted) return
    after = last.id
    skip = 0
    left -= rows.length
  }
}

const tables: Record<Level, string> = {
  patient: 'patients',
  study: 'studies',
  series: 'series',
  instance: 'instances',
}

/** Patients in the order of the ids given; unknown ids are left out. */
export async function loadPatients(db: Db, orthancIds: readonly string[]): Promise<PatientNode[]> {
  const { rows } = await sql<PatientNode>`
    select p.orthanc_id as "orthancId", p.attributes, p.updated_at as "updatedAt", p.is_protected as "isProtected",
           coalesce(child.ids, '{}') as children, coalesce(child.stable, true) as stable
      from unnest(${orthancIds}::text[]) with ordinality as wanted (id, place)
      join patients p on p.orthanc_id = wanted.id
      left join lateral (
        select array_agg(s.orthanc_id order by s.id) as ids, bool_and(s.due_at is null) as stable
          from studies s where s.patient = p.id
      ) child on true
     order by wanted.place
  `.execute(db.kysely)
  return rows
}

/** Studies in the order of the ids given; unknown ids are left out. */
export async function loadStudies(db: Db, orthancIds: readonly string[]): Promise<StudyNode[]> {
  const { rows } = await sql<StudyNode>`
    select s.orthanc_id as "orthancId", s.attributes, s.updated_at as "updatedAt", s.due_at is null as stable,
           p.orthanc_id as patient, coalesce(child.ids, '{}') as children
      from unnest(${orthancIds}::text[]) with ordinality as wanted (id, place)
      join studies s on s.orthanc_id = wanted.id
      join patients p on p.id = s.patient
      left join lateral (
        select array_agg(c.orthanc_id order by c.id) as ids from series c where c.study = s.id
      ) child on true
     order by wanted.place
  `.execute(db.kysely)
  return rows
}

/** Series in the order of the ids given; unknown ids are left out. */
export async function loadSeries(db: Db, orthancIds: readonly string[]): Promise<SeriesNode[]> {
  const { rows } = await sql<Omit<SeriesNode, 'childIndexes'> & { indexes: (string | null)[] }>`
    select c.orthanc_id as "orthancId", c.attributes, c.updated_at as "updatedAt", s.due_at is null as stable,
           s.orthanc_id as study, coalesce(child.ids, '{}') as children, coalesce(child.indexes, '{}') as indexes
      from unnest(${orthancIds}::text[]) with ordinality as wanted (id, place)
      join series c on c.orthanc_id = wanted.id
      join studies s on s.id = c.study
      left join lateral (
        select array_agg(i.orthanc_id order by i.id) as ids,
               array_agg(coalesce(i.attributes #>> '{00200013,Value,0}', i.attributes #>> '{00541330,Value,0}')
                         order by i.id) as indexes
          from instances i where i.series = c.id
      ) child on true
     order by wanted.place
  `.execute(db.kysely)
  return rows.map(({ indexes, ...row }) => ({ ...row, childIndexes: indexes.map(index => index ?? undefined) }))
}

/** Instances in the order of the ids given; unknown ids are left out. */
export async function loadInstances(db: Db, orthancIds: readonly string[]): Promise<InstanceNode[]> {
  const { rows } = await sql<InstanceNode>`
    select i.orthanc_id as "orthancId", i.attributes, c.orthanc_id as series,
           i.sop_instance_uid as "sopInstanceUid", i.sop_class_uid as "sopClassUid",
           i.transfer_syntax_uid as "transferSyntaxUid", i.file_sha256 as "fileSha256",
           i.size_bytes as "sizeBytes", i.created_at as "createdAt"
      from unnest(${orthancIds}::text[]) with ordinality as wanted (id, place)
      join instances i on i.orthanc_id = wanted.id
      join series c on c.id = i.series
     order by wanted.place
  `.execute(db.kysely)
  return rows
}

/** Orthanc ids of an instance's ancestors, or undefined for an unknown instance. */
export async function loadAncestors(
  db: Db,
  orthancId: string,
): Promise<{ patient: string; study: string; series: string } | undefined> {
  const { rows } = await sql<{ patient: string; study: string; series: string }>`
    select p.orthanc_id as patient, s.orthanc_id as study, c.orthanc_id as series
      from instances i
      join series c on c.id = i.series
      join studies s on s.id = c.study
      join patients p on p.id = s.patient
     where i.orthanc_id = ${orthancId}
  `.execute(db.kysely)
  return rows[0]
}

/**
 * Exact totals. Instances and bytes are summed from the studies' counters, which the transaction that
 * stores an instance keeps; `instances` itself is never counted (0.4-0.9 s at a million rows).
 */
export async function loadCounts(db: Db): Promise<StoreCounts> {
  const { rows } = await sql<StoreCounts>`
    select (select count(*) from patients) as patients, count(*) as studies,
           (select count(*) from series) as series,
           coalesce(sum(instance_count), 0)::bigint as instances, coalesce(sum(size_bytes), 0)::bigint as "sizeBytes",
           (select coalesce(sum(size_bytes), 0)::bigint from resource_attachments) as "attachedBytes",
           (select coalesce(sum(content_bytes), 0)::bigint from resource_attachments) as "attachedContentBytes"
      from studies
  `.execute(db.kysely)
  const none = { patients: 0, studies: 0, series: 0, instances: 0, sizeBytes: 0 }
  return rows[0] ?? { ...none, attachedBytes: 0, attachedContentBytes: 0 }
}

/** A study by Orthanc id or Study Instance UID, for commands that name one. Several patients may share a UID. */
export async function findStudies(
  db: Db,
  name: string,
): Promise<{ id: number; orthancId: string; studyInstanceUid: string }[]> {
  const { rows } = await sql<{ id: number; orthancId: string; studyInstanceUid: string }>`
    select id, orthanc_id as "orthancId", study_instance_uid as "studyInstanceUid"
      from studies where orthanc_id = ${name} or study_instance_uid = ${name} order by id
  `.execute(db.kysely)
  return rows
}
