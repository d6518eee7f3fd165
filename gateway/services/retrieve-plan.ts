/**
 * What a retrieval takes: the instances below the unique keys of an identifier (PS3.4 §C.4.2.2), fixed
 * when it is planned, and read page by page while they leave.
 */
import { sql } from 'kysely'
import {
  type AuditEvent,
  beginTransferring,
  instancesAccessed,
  instancesTransferred,
  type Participant,
} from '../audit/event.ts'
import { appendAudits, auditInsertion } from '../audit/log.ts'
import type { Db } from '../db/db.ts'
import { GatewayError } from '../errors.ts'
import { type ReadingSessions, sessionDetail } from './reading-sessions.ts'

/** The unique keys of a retrieval: those of its level may be lists, those above it are single values. */
export interface RetrieveKeys {
  readonly level: 'patient' | 'study' | 'series' | 'instance'
  readonly patientId?: string | undefined
  /** Issuer of Patient ID (0010,0021), where two patients of the store share the id. */
  readonly issuer?: string | undefined
  readonly studyUids?: readonly string[] | undefined
  /** Of the studies, where no UID names them. */
  readonly accessionNumber?: string | undefined
  readonly seriesUids?: readonly string[] | undefined
  readonly sopInstanceUids?: readonly string[] | undefined
  /** Orthanc ids of resources of any level, in place of keys. */
  readonly resources?: readonly string[] | undefined
}

/** Who takes part in a retrieval, for the audit log. */
export interface RetrieveParties {
  readonly requestor: Participant
  readonly destination: Participant
}

/** An instance that is to leave. */
export interface PlannedInstance {
  readonly sopInstanceUid: string
  readonly sopClassUid: string
  readonly transferSyntaxUid: string
  readonly fileSha256: Buffer
  readonly sizeBytes: number
  readonly orthancId: string
  readonly studyInstanceUid: string
  readonly seriesInstanceUid: string
  /** Place of its study in the plan. */
  readonly study: number
}

/** A retrieval, planned. */
export interface RetrievePlan {
  readonly instanceCount: number
  /** Each SOP class in each transfer syntax among the instances. */
  readonly kinds: readonly { readonly sopClassUid: string; readonly transferSyntaxUid: string }[]
  /** Records the intent, one event for each study; to be awaited before the first byte leaves. */
  begin(parties: RetrieveParties): Promise<void>
  /** Records that somebody reads them here, one event for each study that the reader has not been reading already; to be awaited before the first byte leaves. */
  read(reader: Participant): Promise<void>
  /** The instances, by study and series, from a place on. One that is no longer in the store is left out. */
  instances(from?: number): AsyncIterable<PlannedInstance>
  /** Records what has left, one event for each study; `sent` are the studies of the instances that arrived. */
  end(parties: RetrieveParties, sent: ReadonlyMap<number, number>): Promise<void>
}

const pageSize = 256
const maxNamedInstances = 100

interface StudyRow {
  readonly id: number
  readonly studyInstanceUid: string
  readonly patientId: string
  readonly issuer: string
  readonly sopClassUids: readonly string[]
  readonly ids: readonly number[]
}

/**
 * Finds the instances below the keys.
 *
 * @param ownIssuers  issuers whose patients are the site's own, stored without one
 * @param sessions    reads that are on record
 * @throws GatewayError DICOM_MISMATCH when the Patient ID names patients of several issuers and the identifier
 *   does not say which: two hospitals' 12345 are two people
 */
export async function planRetrieve(
  db: Db,
  keys: RetrieveKeys,
  ownIssuers: ReadonlySet<string>,
  sessions: ReadingSessions,
): Promise<RetrievePlan> {
  const issuer = await issuerFor(db, keys, ownIssuers)
  const where = conditions({ ...keys, issuer })
  const finding = sql<StudyRow>`
    select s.id::float8 as id, s.study_instance_uid as "studyInstanceUid", p.patient_id as "patientId", p.issuer,
           array_agg(distinct i.sop_class_uid) as "sopClassUids", array_agg(i.id order by c.id, i.id)::float8[] as ids
      from patients p
      join studies s on s.patient = p.id
      join series c on c.study = s.id
      join instances i on i.series = c.id
     where ${where}
     group by s.id, p.id
     order by s.id
  `.execute(db.kysely)
  const telling = sql<{ sopClassUid: string; transferSyntaxUid: string }>`
    select distinct i.sop_class_uid as "sopClassUid", i.transfer_syntax_uid as "transferSyntaxUid"
      from patients p
      join studies s on s.patient = p.id
      join series c on c.study = s.id
      join instances i on i.series = c.id
     where ${where}
     order by 1, 2
  `.execute(db.kysely)
  const [{ rows: studies }, { rows: kinds }] = await Promise.all([finding, telling])
  const record = (events: AuditEvent[]): Promise<void> => db.inTransaction(tx => appendAudits(tx, events))
  return {
    instanceCount: studies.reduce((sum, study) => sum + study.ids.length, 0),
    kinds,
    begin: ({ requestor, destination }) =>
      record(
        studies.map(study =>
          beginTransferring({
            source: { userId: 'gateway' },
            destination,
            requestor,
            objects: objectsOf(study, study.ids.length),
          }),
        ),
      ),
    async read(reader) {
      const named = (keys.sopInstanceUids ?? []).slice(0, maxNamedInstances)
      const first = studies.filter(({ id }) => !sessions.covers(reader, id))
      const events = first.map(study =>
        instancesAccessed({
          action: 'R',
          participants: [{ ...reader, requestor: true }],
          objects: [
            ...objectsOf(study, study.ids.length),
            ...named.map(sopInstanceUid => ({ kind: 'instance' as const, sopInstanceUid })),
          ],
          detail: sessionDetail,
        }),
      )
      // By itself a transaction: begin and commit would be two more round trips for each frame.
      if (events.length > 0) await auditInsertion(events).execute(db.kysely)
      for (const { id } of first) sessions.begin(reader, id)
    },
    async *instances(from = 0) {
      let skip = from
      for (const [study, { ids }] of studies.entries()) {
        for (let at = skip; at < ids.length; at += pageSize)
          yield* await loadPage(db, study, ids.slice(at, at + pageSize))
        skip = Math.max(0, skip - ids.length)
      }
    },
    end: ({ requestor, destination }, sent) =>
      record(
        studies.map((study, place) => {
          const count = sent.get(place) ?? 0
          const isWhole = count === study.ids.length
          return instancesTransferred({
            // R: whether the receiver held them already is not known here.
            action: 'R',
            outcome: isWhole ? 'success' : count > 0 ? 'minor-failure' : 'serious-failure',
            source: { userId: 'gateway' },
            destination,
            requestor,
            objects: objectsOf(study, count),
            ...(!isWhole && { detail: { planned: study.ids.length } }),
          })
        }),
      ),
  }
}

const objectsOf = (study: StudyRow, instanceCount: number): AuditEvent['objects'] => [
  { kind: 'patient', patientId: study.patientId, issuer: study.issuer },
  {
    kind: 'study',
    studyInstanceUid: study.studyInstanceUid,
    sopClassUids: study.sopClassUids,
    instanceCount,
  },
]

/** Which patient a Patient ID alone means: the site's own where it has one, else the only one there is. */
async function issuerFor(
  db: Db,
  { level, patientId, issuer }: RetrieveKeys,
  ownIssuers: ReadonlySet<string>,
): Promise<string | undefined> {
  if (issuer !== undefined) return ownIssuers.has(issuer) ? '' : issuer
  if (level !== 'patient' || patientId === undefined) return undefined
  const { rows } = await sql<{ issuer: string }>`
    select issuer from patients where patient_id = ${patientId} order by issuer limit 2
  `.execute(db.kysely)
  const [first, second] = rows
  if (first && second && first.issuer !== '') {
    throw new GatewayError('DICOM_MISMATCH', 'patients of several issuers have this patient id')
  }
  return first?.issuer
}

function conditions(keys: RetrieveKeys) {
  const { patientId, issuer, studyUids, accessionNumber, seriesUids, sopInstanceUids, resources } = keys
  const all = [
    patientId === undefined ? undefined : sql<boolean>`p.patient_id = ${patientId}`,
    issuer === undefined ? undefined : sql<boolean>`p.issuer = ${issuer}`,
    studyUids && sql<boolean>`s.study_instance_uid = any(${studyUids}::text[])`,
    accessionNumber === undefined ? undefined : sql<boolean>`s.accession_number = ${accessionNumber}`,
    seriesUids && sql<boolean>`c.series_instance_uid = any(${seriesUids}::text[])`,
    sopInstanceUids && sql<boolean>`i.sop_instance_uid = any(${sopInstanceUids}::text[])`,
    resources && belowResources(resources),
  ].filter(condition => condition !== undefined)
  // Without any key everything would leave.
  return all.length === 0 ? sql<boolean>`false` : sql.join(all, sql` and `)
}

/** The condition on `i` that it is one of, or below one of the resources with these Orthanc ids. */
export function belowResources(ids: readonly string[]) {
  return sql<boolean>`i.id in (
    select id from instances where orthanc_id = any(${ids}::text[])
    union select i.id from instances i join series c on c.id = i.series where c.orthanc_id = any(${ids}::text[])
    union select i.id from instances i join series c on c.id = i.series join studies s on s.id = c.study
      where s.orthanc_id = any(${ids}::text[])
    union select i.id from instances i join series c on c.id = i.series join studies s on s.id = c.study
      join patients p on p.id = s.patient where p.orthanc_id = any(${ids}::text[]))`
}

async function loadPage(db: Db, study: number, ids: readonly number[]): Promise<PlannedInstance[]> {
  const { rows } = await sql<PlannedInstance>`
    select i.sop_instance_uid as "sopInstanceUid", i.sop_class_uid as "sopClassUid",
           i.transfer_syntax_uid as "transferSyntaxUid", i.file_sha256 as "fileSha256", i.size_bytes as "sizeBytes",
           i.orthanc_id as "orthancId", s.study_instance_uid as "studyInstanceUid", c.series_instance_uid as "seriesInstanceUid",
           ${study}::int as study
      from unnest(${ids}::bigint[]) with ordinality as wanted (id, place)
      join instances i on i.id = wanted.id
      join series c on c.id = i.series
      join studies s on s.id = c.study
     order by wanted.place
  `.execute(db.kysely)
  return rows
}
