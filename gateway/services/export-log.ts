/**
 * What users have sent to modalities and peers by Orthanc's routes, as Orthanc lists it (`/exports`) where a site asks for
 * it (`LogExportedResources`). The record that counts is the audit log; this list may be cleared.
 */
import { sql } from 'kysely'
import { authorize } from '../../policy/authorize.ts'
import { eventTypes, securityAlert } from '../audit/event.ts'
import { appendAudit } from '../audit/log.ts'
import type { Db } from '../db/db.ts'
import type { Principal } from '../principal.ts'
import type { Level } from '../store/query.ts'

/** A resource that was sent. */
export interface ExportedResource {
  readonly seq: number
  readonly at: Date
  /** Symbolic name of the receiver. */
  readonly receiver: string
  readonly level: Level
  readonly orthancId: string
  readonly patientId: string
  readonly studyInstanceUid: string | null
  readonly seriesInstanceUid: string | null
  readonly sopInstanceUid: string | null
}

/** Keeps the list. */
export interface ExportLog {
  /** Notes resources of any level; those that nothing has are passed over. */
  note(receiver: string, orthancIds: readonly string[]): Promise<void>
  /** Entries after `since`, and whether these are the last. */
  list(
    since: number,
    limit: number,
  ): Promise<{ readonly entries: readonly ExportedResource[]; readonly isLast: boolean }>
  newest(): Promise<ExportedResource | undefined>
  clear(principal: Principal): Promise<void>
}

/** @param isKept  false keeps nothing */
export function openExportLog({ db, isKept }: { readonly db: Db; readonly isKept: boolean }): ExportLog {
  const columns = sql`seq, at, receiver, level, orthanc_id as "orthancId", patient_id as "patientId",
    study_instance_uid as "studyInstanceUid", series_instance_uid as "seriesInstanceUid", sop_instance_uid as "sopInstanceUid"`
  return {
    async note(receiver, orthancIds) {
      if (!isKept) return
      await sql`
        insert into exported_resources (receiver, level, orthanc_id, patient_id, study_instance_uid, series_instance_uid, sop_instance_uid)
        select ${receiver}, found.*
          from unnest(${orthancIds}::text[]) with ordinality as wanted (id, place) join lateral (
            select 'patient', p.orthanc_id, p.patient_id, null, null, null from patients p where p.orthanc_id = wanted.id
            union all
            select 'study', s.orthanc_id, p.patient_id, s.study_instance_uid, null, null
              from studies s join patients p on p.id = s.patient where s.orthanc_id = wanted.id
            union all
            select 'series', c.orthanc_id, p.patient_id, s.study_instance_uid, c.series_instance_uid, null
              from series c join studies s on s.id = c.study join patients p on p.id = s.patient where c.orthanc_id = wanted.id
            union all
            select 'instance', i.orthanc_id, p.patient_id, s.study_instance_uid, c.series_instance_uid, i.sop_instance_uid
              from instances i join series c on c.id = i.series join studies s on s.id = c.study
              join patients p on p.id = s.patient where i.orthanc_id = wanted.id
          ) found on true
         order by wanted.place
      `.execute(db.kysely)
    },
    async list(since, limit) {
      const { rows } = await sql<ExportedResource>`
        select ${columns} from exported_resources where seq > ${since} order by seq limit ${limit + 1}
      `.execute(db.kysely)
      return { entries: rows.slice(0, limit), isLast: rows.length <= limit }
    },
    async newest() {
      const { rows } = await sql<ExportedResource>`
        select ${columns} from exported_resources order by seq desc limit 1
      `.execute(db.kysely)
      return rows[0]
    },
    async clear(principal) {
      authorize(principal, 'gateway.administer')
      await db.inTransaction(async tx => {
        const { numAffectedRows } = await sql`delete from exported_resources`.execute(tx)
        if (!numAffectedRows) return
        await appendAudit(
          tx,
          securityAlert({
            type: eventTypes.restrictedFunction,
            participants: [{ userId: principal.id, requestor: true }],
            objects: [],
            reason: 'export-list-cleared',
          }),
        )
      })
    },
  }
}
