/**
 * Consents and objections of patients. A consent is asked for where an agreement's legal basis says so; an objection is
 * apart from it, and stops what goes outside on whatever basis. What lacks a consent is held, not lost, and goes on when
 * the consent comes; withdrawing one stops what is queued or on its way in the same transaction.
 */
import { randomUUID } from 'node:crypto'
import { sql } from 'kysely'
import { authorize } from '../../policy/authorize.ts'
import { isSiteId } from '../../policy/decide.ts'
import { loadActivePolicy } from '../../policy/versions.ts'
import { eventTypes, requestorOf, securityAlert } from '../audit/event.ts'
import { appendAudit } from '../audit/log.ts'
import type { Db, Tx } from '../db/db.ts'
import type { Row } from '../db/schema.ts'
import { GatewayError } from '../errors.ts'
import type { Queue } from '../jobs/queue.ts'
import type { Principal } from '../principal.ts'
import { createAgreementCheck } from './agreement-check.ts'
import { type ConsentGap, loadSent, obstacleOf, type SentTransfer, settleTransfers } from './consent-transfers.ts'

/** A patient, issuer and all: two hospitals' 12345 are two patients. */
export interface PatientName {
  /** '' for the site's own. */
  readonly issuer: string
  readonly patientId: string
}

/** What a patient has said, and who wrote it down. */
export interface Consent {
  readonly id: string
  readonly kind: 'consent' | 'objection'
  readonly patient: PatientName
  /** `*`: every one. */
  readonly purpose: string
  /** A site's id or a modality's name; `*`: everybody. */
  readonly recipient: string
  readonly from: Date
  readonly until: Date | undefined
  /** Where it is written: a form, a system, a conversation. */
  readonly source: string
  readonly recordedBy: string
  readonly createdAt: Date
  readonly withdrawnAt: Date | undefined
  readonly withdrawnBy: string | undefined
  readonly isInForce: boolean
}

export interface NewConsent {
  readonly kind: 'consent' | 'objection'
  readonly patient: PatientName
  readonly purpose: string
  /** A destination of the active policy, a paired site by name or id, a modality, an endpoint, or `*`. */
  readonly recipient: string
  readonly from?: Date
  readonly until?: Date
  readonly source: string
}

/** What a change has done to transfers, by id. */
export interface Settled {
  readonly held: readonly string[]
  readonly stopped: readonly string[]
  readonly released: readonly string[]
}

export interface Consents {
  /** @throws GatewayError BAD_REQUEST, NOT_FOUND for an unknown recipient */
  record(principal: Principal, consent: NewConsent): Promise<{ consent: Consent; settled: Settled }>
  /**
   * Ends a consent or an objection. `sent` is what its patient's recipients have got already under the same purpose: a
   * person decides about a recall.
   *
   * @throws GatewayError NOT_FOUND, STATE_CONFLICT when it was withdrawn before
   */
  withdraw(
    principal: Principal,
    id: string,
  ): Promise<{ consent: Consent; settled: Settled; sent: readonly SentTransfer[] }>
  /** @throws GatewayError NOT_FOUND */
  load(principal: Principal, id: string): Promise<Consent>
  /** Of one patient, or of all; newest first. */
  list(principal: Principal, of: { patient?: PatientName; before?: string; limit: number }): Promise<readonly Consent[]>
  /** Why a transfer may not go on; undefined when it may. Asked before each range, so it is two statements. */
  obstacle(
    transfer: string,
  ): Promise<
    { readonly code: ConsentGap | 'IDENTITY_CHANGED' | 'AGREEMENT_MISSING'; readonly message: string } | undefined
  >
  /** Holds and releases what periods that began or ended ask for. */
  sweep(): Promise<void>
}

/** Opens the service. */
export function openConsents(options: { db: Db; queue: Pick<Queue, 'enqueue'> }): Consents {
  const { db, queue } = options
  const agreementGap = createAgreementCheck()

  const settle = (tx: Tx, patient: PatientName | undefined, by: string): Promise<Settled> =>
    settleTransfers(tx, queue, patient, by)

  return {
    async record(principal, wish) {
      authorize(principal, 'consent.write')
      const { kind, patient, purpose, source, from = new Date(), until } = wish
      if (until !== undefined && until <= from)
        throw new GatewayError('BAD_REQUEST', 'expected a period that has not ended before it begins')
      const id = randomUUID()
      return await db.inTransaction(async tx => {
        const recipient = await resolveRecipient(tx, wish.recipient)
        const row = await tx
          .insertInto('consents')
          .values({
            ...{ id, kind, issuer: patient.issuer, patient_id: patient.patientId, purpose, recipient, source },
            valid_from: from,
            valid_until: until ?? null,
            recorded_by: principal.id,
            withdrawn_at: null,
            withdrawn_by: null,
          })
          .returningAll()
          .executeTakeFirstOrThrow()
        const consent = toConsent(row)
        await audit(tx, principal, consent, `${kind}-recorded`)
        return { consent, settled: await settle(tx, patient, principal.id) }
      })
    },
    async withdraw(principal, id) {
      authorize(principal, 'consent.write')
      return await db.inTransaction(async tx => {
        const known = await tx.selectFrom('consents').selectAll().where('id', '=', id).forUpdate().executeTakeFirst()
        if (!known) throw new GatewayError('NOT_FOUND', 'no such consent')
        if (known.withdrawn_at !== null) throw new GatewayError('STATE_CONFLICT', 'it was withdrawn before')
        const row = await tx
          .updateTable('consents')
          .set({ withdrawn_at: sql<Date>`now()`, withdrawn_by: principal.id })
          .where('id', '=', id)
          .returningAll()
          .executeTakeFirstOrThrow()
        const consent = toConsent(row)
        await audit(tx, principal, consent, `${consent.kind}-withdrawn`)
        const settled = await settle(tx, consent.patient, principal.id)
        return { consent, settled, sent: consent.kind === 'consent' ? await loadSent(tx, consent) : [] }
      })
    },
    async load(principal, id) {
      authorize(principal, 'consent.read')
      const row = await db.kysely.selectFrom('consents').selectAll().where('id', '=', id).executeTakeFirst()
      if (!row) throw new GatewayError('NOT_FOUND', 'no such consent')
      return toConsent(row)
    },
    async list(principal, { patient, before, limit }) {
      authorize(principal, 'consent.read')
      const rows = await db.kysely
        .selectFrom('consents')
        .selectAll()
        .$if(patient !== undefined, query =>
          query.where('patient_id', '=', patient?.patientId ?? '').where('issuer', '=', patient?.issuer ?? ''),
        )
        .$if(before !== undefined, query =>
          query.where(
            sql<boolean>`(created_at, id) < (select b.created_at, b.id from consents b where b.id = ${before ?? ''}::uuid)`,
          ),
        )
        .orderBy('created_at', 'desc')
        .orderBy('id', 'desc')
        .limit(limit)
        .execute()
      return rows.map(toConsent)
    },
    obstacle: async transfer => (await obstacleOf(db.kysely, transfer)) ?? (await agreementGap(db.kysely, transfer)),
    async sweep() {
      await db.inTransaction(tx => settle(tx, undefined, 'gateway'))
    },
  }
}

/** Who is meant, as transfers name them. */
async function resolveRecipient(tx: Tx, name: string): Promise<string> {
  if (name === '*' || isSiteId(name)) return name
  const policy = await loadActivePolicy(tx)
  const destinations = policy?.document.destinations ?? {}
  const named = Object.hasOwn(destinations, name) ? destinations[name] : undefined
  if (named?.modality !== undefined) return named.modality
  const peer = named?.peer ?? name
  if (isSiteId(peer)) return peer
  const query = tx.selectFrom('peers').select('site_id').where('name', '=', peer).where('state', '=', 'active')
  const site = await query.executeTakeFirst()
  if (site) return site.site_id
  const endpoint = named?.endpoint ?? name
  const known = await tx.selectFrom('endpoints').select('name').where('name', '=', endpoint).executeTakeFirst()
  if (known) return known.name
  throw new GatewayError('NOT_FOUND', 'neither a destination of the policy, nor an active peer, nor an endpoint')
}

function toConsent(row: Row<'consents'>): Consent {
  const now = new Date()
  const isInForce =
    row.withdrawn_at === null && row.valid_from <= now && (row.valid_until === null || row.valid_until > now)
  return {
    id: row.id,
    kind: row.kind,
    patient: { issuer: row.issuer, patientId: row.patient_id },
    purpose: row.purpose,
    recipient: row.recipient,
    from: row.valid_from,
    until: row.valid_until ?? undefined,
    source: row.source,
    recordedBy: row.recorded_by,
    createdAt: row.created_at,
    withdrawnAt: row.withdrawn_at ?? undefined,
    withdrawnBy: row.withdrawn_by ?? undefined,
    isInForce,
  }
}

async function audit(tx: Tx, principal: Principal, consent: Consent, reason: string): Promise<void> {
  const { patient, id, purpose, recipient } = consent
  const event = securityAlert({
    type: eventTypes.objectSecurityAttributesChanged,
    participants: [requestorOf(principal)],
    objects: [{ kind: 'patient', patientId: patient.patientId, issuer: patient.issuer }],
    reason,
    detail: { consent: id, purpose, recipient },
  })
  await appendAudit(tx, event)
}
