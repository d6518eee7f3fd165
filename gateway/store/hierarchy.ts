/** Moves up and down the hierarchy by Orthanc ids, and what a part of it comes to. */
import { sql } from 'kysely'
import type { Db, Tx } from '../db/db.ts'
import type { Level } from './query.ts'

/** The levels from the top down. */
export const levelOrder: readonly Level[] = ['patient', 'study', 'series', 'instance']

const alias: Readonly<Record<Level, string>> = { patient: 'p', study: 's', series: 'c', instance: 'i' }

/** All levels joined from the patient down to `lowest`, as p, s, c and i. */
function joined(lowest: Level) {
  const parts = [
    sql`patients p`,
    sql`join studies s on s.patient = p.id`,
    sql`join series c on c.study = s.id`,
    sql`join instances i on i.series = c.id`,
  ]
  return sql.join(parts.slice(0, levelOrder.indexOf(lowest) + 1), sql` `)
}

const key = (level: Level, column: 'id' | 'orthanc_id') => sql.ref(`${alias[level]}.${column}`)

/** A resource by the key of its row. */
export interface ResourceRow {
  readonly level: Level
  readonly id: number
  readonly orthancId: string
}

/** The table of each level. */
export const levelTables: Readonly<Record<Level, string>> = {
  patient: 'patients',
  study: 'studies',
  series: 'series',
  instance: 'instances',
}

/** The row of a resource, or undefined where there is none of this level. */
export async function findResource(db: Db | Tx, level: Level, orthancId: string): Promise<ResourceRow | undefined> {
  const { rows } = await sql<{ id: number }>`
    select id from ${sql.table(levelTables[level])} where orthanc_id = ${orthancId}
  `.execute('kysely' in db ? db.kysely : db)
  return rows[0] && { level, id: rows[0].id, orthancId }
}

/** The Orthanc id of what is above a resource; undefined for an unknown resource. */
export async function findAncestor(db: Db, level: Level, orthancId: string, above: Level): Promise<string | undefined> {
  const { rows } = await sql<{ id: string }>`
    select ${key(above, 'orthanc_id')} as id from ${joined(level)} where ${key(level, 'orthanc_id')} = ${orthancId}
  `.execute(db.kysely)
  return rows[0]?.id
}

const pageSize = 1000

/** Orthanc ids of what is below a resource, in order of arrival, page by page. */
export async function* findDescendants(
  db: Db,
  level: Level,
  orthancId: string,
  below: Level,
): AsyncGenerator<string[], void, void> {
  for (let after = 0; ; ) {
    const { rows } = await sql<{ id: number; orthancId: string }>`
      select ${key(below, 'id')} as id, ${key(below, 'orthanc_id')} as "orthancId" from ${joined(below)}
       where ${key(level, 'orthanc_id')} = ${orthancId} and ${key(below, 'id')} > ${after}
       order by ${key(below, 'id')} limit ${pageSize}
    `.execute(db.kysely)
    const last = rows.at(-1)
    if (last) yield rows.map(row => row.orthancId)
    if (!last || rows.length < pageSize) return
    after = last.id
  }
}

/** What a resource holds. */
export interface PartCounts {
  readonly studies: number
  readonly series: number
  readonly instances: number
  /** Of the instances' files. */
  readonly sizeBytes: number
}

/** Counts and bytes below a resource; undefined for an unknown one. */
export async function loadPartCounts(db: Db, level: Level, orthancId: string): Promise<PartCounts | undefined> {
  if (level === 'patient' || level === 'study') {
    // From the counters of the studies.
    const { rows } = await sql<PartCounts & { found: number }>`
      select count(distinct p.id) as found, count(s.id) as studies, coalesce(sum(s.instance_count), 0)::bigint as instances,
             coalesce(sum(s.size_bytes), 0)::bigint as "sizeBytes",
             coalesce(sum((select count(*) from series c where c.study = s.id)), 0)::bigint as series
        from patients p join studies s on s.patient = p.id where ${key(level, 'orthanc_id')} = ${orthancId}
    `.execute(db.kysely)
    return rows[0]?.found ? rows[0] : undefined
  }
  const { rows } = await sql<PartCounts & { found: number }>`
    select count(distinct c.id) as found, 0::bigint as studies, 1::bigint as series, count(*) as instances,
           coalesce(sum(i.size_bytes), 0)::bigint as "sizeBytes"
      from series c join instances i on i.series = c.id where ${key(level, 'orthanc_id')} = ${orthancId}
  `.execute(db.kysely)
  return rows[0]?.found ? rows[0] : undefined
}

/** Bytes of what is attached to a resource and to what is below it: as they are stored, and uncompressed. */
export async function loadAttachedBytes(
  db: Db,
  level: Level,
  orthancId: string,
): Promise<{ readonly stored: number; readonly content: number }> {
  const parts = levelOrder.slice(levelOrder.indexOf(level)).map(
    below => sql`(a.level = ${below} and a.resource in (
      select ${key(below, 'id')} from ${joined(below)} where ${key(level, 'orthanc_id')} = ${orthancId}))`,
  )
  const { rows } = await sql<{ stored: number; content: number }>`
    select coalesce(sum(a.size_bytes), 0)::bigint as stored, coalesce(sum(a.content_bytes), 0)::bigint as content
      from resource_attachments a where ${sql.join(parts, sql` or `)}
  `.execute(db.kysely)
  return rows[0] ?? { stored: 0, content: 0 }
}

/** What an Orthanc id, or a DICOM identifier of any level, names: in order of the levels, each at most `limit`. */
export async function lookupIdentifier(db: Db, identifier: string, limit = 1000): Promise<ResourceRow[]> {
  const found: ResourceRow[] = []
  const columns: Readonly<Record<Level, string>> = {
    patient: 'patient_id',
    study: 'study_instance_uid',
    series: 'series_instance_uid',
    instance: 'sop_instance_uid',
  }
  for (const level of levelOrder) {
    const { rows } = await sql<{ id: number; orthancId: string }>`
      select id, orthanc_id as "orthancId" from ${sql.table(levelTables[level])}
       where ${level === 'patient' ? sql`upper(patient_id) = upper(${identifier})` : sql`${sql.ref(columns[level])} = ${identifier}`} order by id limit ${limit}
    `.execute(db.kysely)
    found.push(...rows.map(row => ({ level, ...row })))
  }
  return found
}

/** Whom and what a resource is about, for the audit log. */
export interface Subject {
  readonly patientId: string
  readonly issuer: string
  readonly studyInstanceUid: string | null
  readonly sopInstanceUid: string | null
}

/** The subject of a resource, from the transaction's view. */
export async function loadSubject(tx: Tx, { level, id }: Pick<ResourceRow, 'level' | 'id'>): Promise<Subject> {
  const study = level === 'patient' ? sql`null` : sql`s.study_instance_uid`
  const instance = level === 'instance' ? sql`i.sop_instance_uid` : sql`null`
  const { rows } = await sql<Subject>`
    select p.patient_id as "patientId", p.issuer, ${study} as "studyInstanceUid", ${instance} as "sopInstanceUid"
      from ${joined(level)} where ${key(level, 'id')} = ${id}
  `.execute(tx)
  return rows[0] ?? { patientId: '', issuer: '', studyInstanceUid: null, sopInstanceUid: null }
}
