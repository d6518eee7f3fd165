/**
 * Which patient of the archive a patient of another site is: what a person has found out. Transfers that wait
 * for it go on in the same transaction.
 */

import { type Kysely, sql } from 'kysely'
import { authorize } from '../../policy/authorize.ts'
import { instancesAccessed, requestorOf } from '../audit/event.ts'
import { appendAudit } from '../audit/log.ts'
import type { Db, Tx } from '../db/db.ts'
import type { Schema } from '../db/schema.ts'
import { GatewayError } from '../errors.ts'
import type { Queue } from '../jobs/queue.ts'
import type { Principal } from '../principal.ts'
import { addStep } from './transfer-steps.ts'

/** The patient as another site names it, and as the archive does. */
export interface PatientLink {
  /** Site id of the peer, or another issuer. */
  readonly issuer: string
  readonly patientId: string
  readonly archivePatientId: string
  readonly archiveIssuer: string | null
  /** Patient's Name (0010,0010) in the archive; null leaves the name as it came. */
  readonly archiveName: string | null
}

/** A link with who made it. */
export interface StoredPatientLink extends PatientLink {
  readonly linkedBy: string
  readonly createdAt: Date
}

export interface PatientLinks {
  list(limit: number): Promise<StoredPatientLink[]>
  /** Links, or changes a link; what is in the archive already stays as it is there. */
  put(principal: Principal, link: PatientLink): Promise<void>
  /** @throws GatewayError NOT_FOUND */
  remove(principal: Principal, patient: Pick<PatientLink, 'issuer' | 'patientId'>): Promise<void>
}

export function openPatientLinks(options: { readonly db: Db; readonly queue: Pick<Queue, 'enqueue'> }): PatientLinks {
  const { db, queue } = options
  return {
    list: limit => select(db.kysely, sql`order by created_at desc limit ${limit}`),

    async put(principal, link) {
      authorize(principal, 'patient.link')
      const { issuer, patientId, archivePatientId, archiveIssuer, archiveName } = link
      if (issuer === '') throw new GatewayError('BAD_REQUEST', 'expected the issuer of another site')
      await db.inTransaction(async tx => {
        await sql`
          insert into patient_links (issuer, patient_id, archive_patient_id, archive_issuer, archive_name, linked_by)
          values (${issuer}, ${patientId}, ${archivePatientId}, ${archiveIssuer}, ${archiveName}, ${principal.id})
          on conflict (issuer, patient_id) do update set archive_patient_id = excluded.archive_patient_id,
            archive_issuer = excluded.archive_issuer, archive_name = excluded.archive_name,
            linked_by = excluded.linked_by, created_at = now()`.execute(tx)
        await audit(tx, principal, link, 'patient-linked')
        const { rows } = await sql<{ id: string }>`
          update transfers t set state = 'planned', error_code = null, error = null, updated_at = now()
            from studies s join patients p on p.id = s.patient
           where s.id = t.study and p.issuer = ${issuer} and p.patient_id = ${patientId}
             and t.state = 'held' and t.error_code = 'PATIENT_UNLINKED'
          returning t.id`.execute(tx)
        for (const { id } of rows) {
          await addStep(tx, id, 'patient-linked', { by: principal.id })
          await queue.enqueue(tx, 'archive', { transfer: id }, { singletonKey: id })
        }
      })
    },

    async remove(principal, patient) {
      authorize(principal, 'patient.link')
      await db.inTransaction(async tx => {
        const { issuer, patientId } = patient
        const { numAffectedRows } = await sql`
          delete from patient_links where issuer = ${issuer} and patient_id = ${patientId}`.execute(tx)
        if (!numAffectedRows) throw new GatewayError('NOT_FOUND', 'no such link')
        await audit(tx, principal, patient, 'patient-unlinked')
      })
    },
  }
}

/** The link of a patient; undefined when nobody has made one. */
export async function findPatientLink(
  db: Kysely<Schema> | Tx,
  patient: Pick<PatientLink, 'issuer' | 'patientId'>,
): Promise<StoredPatientLink | undefined> {
  const [link] = await select(db, sql`where issuer = ${patient.issuer} and patient_id = ${patient.patientId}`)
  return link
}

async function select(db: Kysely<Schema> | Tx, rest: ReturnType<typeof sql>): Promise<StoredPatientLink[]> {
  const { rows } = await sql<StoredPatientLink>`
    select issuer, patient_id as "patientId", archive_patient_id as "archivePatientId",
           archive_issuer as "archiveIssuer", archive_name as "archiveName", linked_by as "linkedBy",
           created_at as "createdAt"
      from patient_links ${rest}`.execute(db)
  return rows
}

function audit(
  tx: Tx,
  principal: Principal,
  { issuer, patientId }: Pick<PatientLink, 'issuer' | 'patientId'>,
  reason: string,
): Promise<void> {
  return appendAudit(
    tx,
    instancesAccessed({
      action: 'U',
      reason,
      participants: [requestorOf(principal)],
      objects: [{ kind: 'patient', patientId, issuer }],
    }),
  )
}
