/** Legal holds: a person says that a patient's studies, or one study, must not be deleted, and why. */
import { randomUUID } from 'node:crypto'
import { authorize } from '../../policy/authorize.ts'
import { type AuditEvent, eventTypes, requestorOf, securityAlert } from '../audit/event.ts'
import { appendAudit } from '../audit/log.ts'
import type { Db } from '../db/db.ts'
import { GatewayError } from '../errors.ts'
import type { Principal } from '../principal.ts'

/** What is held: a patient with everything that comes, or one study. */
export type HeldSubject =
  | { readonly issuer: string; readonly patientId: string }
  | { readonly studyInstanceUid: string }

export interface LegalHold {
  readonly id: string
  readonly issuer: string | null
  readonly patientId: string | null
  readonly studyInstanceUid: string | null
  readonly reason: string
  readonly placedBy: string
  readonly createdAt: Date
  readonly releasedAt: Date | null
  readonly releasedBy: string | null
}

export interface LegalHolds {
  /** Newest first, released ones too; reading is audited. */
  list(principal: Principal, limit: number): Promise<readonly LegalHold[]>
  place(principal: Principal, subject: HeldSubject, reason: string): Promise<LegalHold>
  /** @throws GatewayError NOT_FOUND unless it is in force */
  release(principal: Principal, id: string): Promise<LegalHold>
}

/** Opens the holds of this database. */
export function openLegalHolds({ db }: { readonly db: Db }): LegalHolds {
  return {
    async list(principal, limit) {
      authorize(principal, 'retention.read')
      return await db.inTransaction(async tx => {
        await appendAudit(tx, changed(principal, 'legal-holds', 'legal-holds-read'))
        return await tx.selectFrom('legal_holds').select(columns).orderBy('created_at', 'desc').limit(limit).execute()
      })
    },

    async place(principal, subject, reason) {
      authorize(principal, 'hold.manage')
      const id = randomUUID()
      return await db.inTransaction(async tx => {
        const named =
          'patientId' in subject
            ? { issuer: subject.issuer, patient_id: subject.patientId }
            : { study_instance_uid: subject.studyInstanceUid }
        await appendAudit(tx, changed(principal, id, 'legal-hold-placed'))
        return await tx
          .insertInto('legal_holds')
          .values({ id, reason, placed_by: principal.id, ...named })
          .returning(columns)
          .executeTakeFirstOrThrow()
      })
    },

    async release(principal, id) {
      authorize(principal, 'hold.manage')
      return await db.inTransaction(async tx => {
        const released = await tx
          .updateTable('legal_holds')
          .set({ released_at: new Date(), released_by: principal.id })
          .where('id', '=', id)
          .where('released_at', 'is', null)
          .returning(columns)
          .executeTakeFirst()
        if (!released) throw new GatewayError('NOT_FOUND', 'no such legal hold is in force')
        await appendAudit(tx, changed(principal, id, 'legal-hold-released'))
        return released
      })
    },
  }
}

const columns = [
  'id',
  'issuer',
  'patient_id as patientId',
  'study_instance_uid as studyInstanceUid',
  'reason',
  'placed_by as placedBy',
  'created_at as createdAt',
  'released_at as releasedAt',
  'released_by as releasedBy',
] as const

const changed = (principal: Principal, hold: string, reason: string): AuditEvent =>
  securityAlert({
    type: eventTypes.securityConfiguration,
    reason,
    participants: [requestorOf(principal)],
    objects: [{ kind: 'setting', name: `legal-hold:${hold}` }],
  })
