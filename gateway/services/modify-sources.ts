/** The stored instances that a modification works on: found by Orthanc ids of any level, fixed when it is planned. */
import { sql } from 'kysely'
import { type AuditEvent, instancesAccessed } from '../audit/event.ts'
import type { Db } from '../db/db.ts'
import { GatewayError } from '../errors.ts'
import type { Principal } from '../principal.ts'
import type { Level } from '../store/query.ts'

/** A resource of the hierarchy. */
export interface Resource {
  readonly level: Level
  readonly orthancId: string
}

/** An instance with the keys above it. */
export interface SourceInstance {
  readonly id: number
  readonly orthancId: string
  /** Orthanc ids of what is above it. */
  readonly series: string
  readonly study: string
  readonly patient: string
  readonly sopInstanceUid: string
  readonly seriesInstanceUid: string
  readonly studyInstanceUid: string
  readonly patientId: string
  readonly issuer: string
  readonly transferSyntaxUid: string
  readonly fileSha256: Buffer
  readonly sizeBytes: number
}

/** What is to be worked on: the instances below resources, up to those that were there when it was asked for. */
export interface Selection {
  readonly resources: readonly Resource[]
  /** Greatest row id of an instance at that time: what the work itself makes is not worked on again. */
  readonly upTo: number
  readonly instanceCount: number
}

const pageSize = 100

/** The resources that have these ids, in their order. @throws GatewayError NOT_FOUND when an id has none of the level */
export async function findResources(db: Db, ids: readonly string[], only?: Level): Promise<Resource[]> {
  const known = await findKnownResources(db, ids)
  if (known.length < ids.length || (only && known.some(({ level }) => level !== only)))
    throw new GatewayError('NOT_FOUND', `no such ${only ?? 'resource'}`)
  return known
}

/** The resources that have these ids, in their order; unknown ids are left out. */
export async function findKnownResources(db: Db, ids: readonly string[]): Promise<Resource[]> {
  const { rows } = await sql<{ level: Level; orthanc_id: string }>`
    select 'patient' as level, orthanc_id from patients where orthanc_id = any(${ids}::text[])
    union all select 'study', orthanc_id from studies where orthanc_id = any(${ids}::text[])
    union all select 'series', orthanc_id from series where orthanc_id = any(${ids}::text[])
    union all select 'instance', orthanc_id from instances where orthanc_id = any(${ids}::text[])
  `.execute(db.kysely)
  const found = new Map(rows.map(row => [row.orthanc_id, { level: row.level, orthancId: row.orthanc_id }]))
  return ids.flatMap(id => found.get(id) ?? [])
}

/** Fixes what is to be worked on. */
export async function selectInstances(db: Db, resources: readonly Resource[]): Promise<Selection> {
  const { rows } = await sql<{ up_to: number; count: number }>`
    select coalesce(max(i.id), 0) as up_to, count(*) as count from instances i where ${below(resources)}
  `.execute(db.kysely)
  return { resources, upTo: rows[0]?.up_to ?? 0, instanceCount: rows[0]?.count ?? 0 }
}

/** The instances of a selection that are still there, page by page in order of arrival. */
export async function* sourceInstances(db: Db, { resources, upTo }: Selection): AsyncGenerator<SourceInstance[]> {
  let after = 0
  for (;;) {
    const { rows } = await sql<SourceInstance>`
      select i.id, i.orthanc_id as "orthancId", i.sop_instance_uid as "sopInstanceUid",
             c.orthanc_id as series, s.orthanc_id as study, p.orthanc_id as patient,
             c.series_instance_uid as "seriesInstanceUid", s.study_instance_uid as "studyInstanceUid",
             p.patient_id as "patientId", p.issuer, i.transfer_syntax_uid as "transferSyntaxUid",
             i.file_sha256 as "fileSha256", i.size_bytes as "sizeBytes"
        from instances i
        join series c on c.id = i.series
        join studies s on s.id = c.study
        join patients p on p.id = s.patient
       where i.id > ${after} and i.id <= ${upTo} and ${below(resources)}
       order by i.id limit ${pageSize}
    `.execute(db.kysely)
    if (rows.length > 0) yield rows
    const last = rows.at(-1)
    if (!last || rows.length < pageSize) return
    after = last.id
  }
}

/** One event for each study: somebody works on instances of it. */
export async function accessEvents(
  db: Db,
  principal: Principal,
  { resources }: Selection,
  reason: string,
): Promise<AuditEvent[]> {
  const { rows } = await sql<{ uid: string; patientId: string; issuer: string; count: number }>`
    select s.study_instance_uid as uid, p.patient_id as "patientId", p.issuer, count(*) as count
      from instances i
      join series c on c.id = i.series
      join studies s on s.id = c.study
      join patients p on p.id = s.patient
     where ${below(resources)}
     group by s.id, p.id order by s.id
  `.execute(db.kysely)
  return rows.map(({ uid, patientId, issuer, count }) =>
    instancesAccessed({
      action: 'R',
      reason,
      participants: [
        {
          userId: principal.id,
          requestor: true,
          ...(principal.address !== undefined && { address: principal.address }),
        },
      ],
      objects: [
        { kind: 'patient', patientId, issuer },
        { kind: 'study', studyInstanceUid: uid, instanceCount: count },
      ],
    }),
  )
}

function below(resources: readonly Resource[]) {
  const of = (level: Level): string[] => resources.filter(one => one.level === level).map(one => one.orthancId)
  return sql<boolean>`(
    i.orthanc_id = any(${of('instance')}::text[])
    or i.series in (
      select c2.id from series c2 where c2.orthanc_id = any(${of('series')}::text[])
      union all
      select c2.id from series c2 join studies s2 on s2.id = c2.study where s2.orthanc_id = any(${of('study')}::text[])
      union all
      select c2.id from series c2 join studies s2 on s2.id = c2.study join patients p2 on p2.id = s2.patient
       where p2.orthanc_id = any(${of('patient')}::text[])))`
}
