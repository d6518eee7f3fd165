/** What a ZIP archive holds: the instances below some resources, fixed when it is planned, and read page by page. */
import { sql } from 'kysely'
import type { Db } from '../db/db.ts'
import type { DicomJson } from '../dicom/json.ts'
import type { Level } from '../dicom/levels.ts'
import { GatewayError } from '../errors.ts'

/** A series of an archive, all or some of its instances. */
export interface ZipSeries {
  readonly id: number
  readonly study: number
  readonly patient: number
  readonly studyInstanceUid: string
  readonly patientId: string
  readonly issuer: string
  readonly sopClassUids: readonly string[]
  /** Rows of `instances`, in order of arrival. */
  readonly instances: readonly number[]
  readonly sizeBytes: number
}

/** An instance of an archive. */
export interface ZipInstance {
  readonly sopInstanceUid: string
  readonly sopClassUid: string
  readonly transferSyntaxUid: string
  readonly fileSha256: Buffer
  readonly sizeBytes: number
  /** Empty unless asked for. */
  readonly attributes: DicomJson
}

/** The attributes of the levels around a series. */
export interface ZipAttributes {
  readonly patient: DicomJson
  readonly study: DicomJson
  readonly series: DicomJson
}

interface Found {
  readonly level: Level
  readonly id: number
  readonly orthancId: string
}

const pageSize = 256

/**
 * The series below the resources in Orthanc's order: by identifier, level by level.
 *
 * @param orthancIds  of the level when it is given, else of any level
 * @throws GatewayError NOT_FOUND when one is unknown
 */
export async function planZip(db: Db, orthancIds: readonly string[], level?: Level): Promise<ZipSeries[]> {
  const { rows: found } = await sql<Found>`
    select 'patient' as level, id, orthanc_id as "orthancId" from patients where orthanc_id = any(${orthancIds}::text[])
    union all select 'study', id, orthanc_id from studies where orthanc_id = any(${orthancIds}::text[])
    union all select 'series', id, orthanc_id from series where orthanc_id = any(${orthancIds}::text[])
    union all select 'instance', id, orthanc_id from instances where orthanc_id = any(${orthancIds}::text[])
  `.execute(db.kysely)
  const usable = found.filter(row => level === undefined || row.level === level)
  const known = new Set(usable.map(row => row.orthancId))
  if (!orthancIds.every(id => known.has(id))) throw new GatewayError('NOT_FOUND', 'no such resource')
  const ids = (of: Level): number[] => usable.filter(row => row.level === of).map(row => row.id)
  const instances = ids('instance')
  const { rows } = await sql<ZipSeries>`
    with chosen (series, is_whole) as (
      select c.id, true from studies s join series c on c.study = s.id where s.patient = any(${ids('patient')}::bigint[])
      union all select c.id, true from series c where c.study = any(${ids('study')}::bigint[])
      union all select c.id, true from series c where c.id = any(${ids('series')}::bigint[])
      union all select i.series, false from instances i where i.id = any(${instances}::bigint[])
    )
    select c.id, s.id as study, p.id as patient, s.study_instance_uid as "studyInstanceUid",
           p.patient_id as "patientId", p.issuer, i.ids as instances, i.classes as "sopClassUids",
           i.bytes::float8 as "sizeBytes"
      from (select series, bool_or(is_whole) as is_whole from chosen group by series) as chosen
      join series c on c.id = chosen.series
      join studies s on s.id = c.study
      join patients p on p.id = s.patient
      join lateral (
        select array_agg(i.id order by i.id)::float8[] as ids, array_agg(distinct i.sop_class_uid) as classes,
               sum(i.size_bytes) as bytes
          from instances i
         where i.series = c.id and (chosen.is_whole or i.id = any(${instances}::bigint[]))
      ) i on i.ids is not null
     order by p.orthanc_id collate "C", s.orthanc_id collate "C", c.orthanc_id collate "C"
  `.execute(db.kysely)
  return rows
}

/** The attributes around a series. @throws GatewayError NOT_FOUND when it is no longer in the store */
export async function loadZipAttributes(db: Db, series: number): Promise<ZipAttributes> {
  const { rows } = await sql<ZipAttributes>`
    select p.attributes as patient, s.attributes as study, c.attributes as series
      from series c
      join studies s on s.id = c.study
      join patients p on p.id = s.patient
     where c.id = ${series}
  `.execute(db.kysely)
  const [row] = rows
  if (row === undefined) throw gone()
  return row
}

/**
 * The instances of a series in their order.
 *
 * @param wanted  `attributes` to have them as well
 * @throws GatewayError NOT_FOUND when one is no longer in the store: an archive never lacks what was planned
 */
export async function* loadZipInstances(
  db: Db,
  { instances }: ZipSeries,
  wanted: 'attributes' | 'bytes',
): AsyncGenerator<ZipInstance> {
  const attributes = wanted === 'attributes' ? sql`i.attributes` : sql`'{}'::jsonb`
  for (let at = 0; at < instances.length; at += pageSize) {
    const ids = instances.slice(at, at + pageSize)
    const { rows } = await sql<ZipInstance>`
      select i.sop_instance_uid as "sopInstanceUid", i.sop_class_uid as "sopClassUid",
             i.transfer_syntax_uid as "transferSyntaxUid", i.file_sha256 as "fileSha256",
             i.size_bytes as "sizeBytes", ${attributes} as attributes
        from instances i where i.id = any(${ids}::bigint[]) order by i.id
    `.execute(db.kysely)
    if (rows.length < ids.length) throw gone()
    yield* rows
  }
}

function gone(): GatewayError {
  return new GatewayError('NOT_FOUND', 'a resource was removed while its archive was written')
}
