/**
 * From a pseudonym back to the patient: a request with purpose and reason, the approval of a second person, and then,
 * for a day, the answer to the one who asked. Each step is in the audit log; the answer is given to nobody else.
 */
import { randomUUID } from 'node:crypto'
import { sql } from 'kysely'
import { authorize } from '../../policy/authorize.ts'
import { type AuditObject, eventTypes, requestorOf, securityAlert } from '../audit/event.ts'
import { appendAudit } from '../audit/log.ts'
import type { Db, Tx } from '../db/db.ts'
import { GatewayError } from '../errors.ts'
import type { Principal } from '../principal.ts'
import type { PseudonymEntry, Pseudonyms } from './pseudonyms.ts'

/** What is asked for. */
export interface ReidentificationWish {
  /** Row of the project. */
  readonly project: number
  /** One pseudonym; undefined asks for the project's whole table. */
  readonly pseudonym: string | undefined
  /** Such as `incidental-finding`. */
  readonly purpose: string
  /** In the person's words. */
  readonly why: string
}

export interface ReidentificationRequest extends Omit<ReidentificationWish, 'pseudonym'> {
  readonly id: string
  readonly pseudonym: string | null
  readonly state: 'requested' | 'approved' | 'refused'
  readonly requestedBy: string
  readonly requestedAt: Date
  readonly decidedBy: string | null
  readonly decidedAt: Date | null
  /** Until when it may be decided; once approved, until when it is answered. */
  readonly expiresAt: Date
}

export interface Reidentification {
  /** @throws GatewayError NOT_FOUND when there is no such project */
  request(principal: Principal, wish: ReidentificationWish): Promise<ReidentificationRequest>
  /** Newest first. */
  list(principal: Principal, page: { readonly limit: number }): Promise<readonly ReidentificationRequest[]>
  /**
   * Approves or refuses.
   *
   * @throws GatewayError FORBIDDEN for the one who asked, NOT_FOUND, STATE_CONFLICT when it is decided or over
   */
  decide(
    principal: Principal,
    id: string,
    decision: { readonly isApproved: boolean; readonly why: string },
  ): Promise<ReidentificationRequest>
  /**
   * The answer: none for a pseudonym that nobody has.
   *
   * @throws GatewayError FORBIDDEN for anybody but the one who asked, and unless it is approved; NOT_FOUND, PROJECT_KEY
   */
  reveal(principal: Principal, id: string): Promise<readonly PseudonymEntry[]>
}

const decideWithinMs = 7 * 24 * 3_600_000
const revealWithinMs = 24 * 3_600_000
/** Most patients that one audit event names; a whole table is told by its count. */
const mostNamed = 10

export function openReidentification(options: {
  db: Db
  pseudonyms: Pick<Pseudonyms, 'find' | 'table'>
  clock?: () => Date
}): Reidentification {
  const { db, pseudonyms, clock = () => new Date() } = options

  const audit = (
    tx: Tx,
    principal: Principal,
    request: ReidentificationRequest,
    step: 'requested' | 'approved' | 'refused' | 'revealed' | 'denied',
    more: { readonly why?: string; readonly objects?: readonly AuditObject[]; readonly count?: number } = {},
  ): Promise<void> =>
    appendAudit(
      tx,
      securityAlert({
        type: eventTypes.restrictedFunction,
        outcome: step === 'denied' ? 'minor-failure' : 'success',
        reason: `reidentification-${step}`,
        participants: [requestorOf(principal)],
        objects: [{ kind: 'setting', name: `pseudonyms/${request.project}` }, ...(more.objects ?? [])],
        detail: {
          request: request.id,
          purpose: request.purpose,
          why: more.why ?? request.why,
          ...(request.pseudonym !== null && { pseudonym: request.pseudonym }),
          ...(more.count !== undefined && { count: more.count }),
        },
      }),
    )

  const load = async (tx: Tx, id: string): Promise<ReidentificationRequest> => {
    const row = await tx
      .selectFrom('reidentifications')
      .select(columns)
      .where('id', '=', id)
      .forUpdate()
      .executeTakeFirst()
    if (!row) throw new GatewayError('NOT_FOUND', 'no such request')
    return row
  }

  return {
    request: async (principal, { project, pseudonym, purpose, why }) => {
      authorize(principal, 'pseudonym.reidentify')
      return await db.inTransaction(async tx => {
        const known = await tx.selectFrom('deid_projects').select('id').where('id', '=', project).executeTakeFirst()
        if (!known) throw new GatewayError('NOT_FOUND', 'no such project')
        const id = randomUUID()
        await tx
          .insertInto('reidentifications')
          .values({
            id,
            project,
            pseudonym: pseudonym ?? null,
            purpose,
            why,
            requested_by: principal.id,
            expires_at: new Date(clock().getTime() + decideWithinMs),
          })
          .execute()
        const request = await load(tx, id)
        await audit(tx, principal, request, 'requested')
        return request
      })
    },
    list: async (principal, { limit }) => {
      authorize(principal, 'pseudonym.reidentify')
      return await db.kysely
        .selectFrom('reidentifications')
        .select(columns)
        .orderBy('requested_at', 'desc')
        .orderBy('id', 'desc')
        .limit(limit)
        .execute()
    },
    decide: async (principal, id, { isApproved, why }) => {
      authorize(principal, 'pseudonym.reidentify')
      const outcome = await db.inTransaction(async tx => {
        const request = await load(tx, id)
        if (request.requestedBy === principal.id) {
          await audit(tx, principal, request, 'denied', { why })
          return new GatewayError('FORBIDDEN', 'another person than the one who asked must decide')
        }
        if (request.state !== 'requested' || request.expiresAt < clock())
          return new GatewayError('STATE_CONFLICT', 'the request is decided, or its time is over')
        const state = isApproved ? 'approved' : 'refused'
        await tx
          .updateTable('reidentifications')
          .set({
            state,
            decided_by: principal.id,
            decided_at: sql<Date>`now()`,
            expires_at: new Date(clock().getTime() + revealWithinMs),
          })
          .where('id', '=', id)
          .execute()
        await audit(tx, principal, request, state, { why })
        return await load(tx, id)
      })
      if (outcome instanceof GatewayError) throw outcome
      return outcome
    },
    reveal: async (principal, id) => {
      authorize(principal, 'pseudonym.reidentify')
      const outcome = await db.inTransaction(async tx => {
        const request = await load(tx, id)
        const isAllowed =
          request.requestedBy === principal.id && request.state === 'approved' && request.expiresAt >= clock()
        if (!isAllowed) {
          await audit(tx, principal, request, 'denied')
          return new GatewayError('FORBIDDEN', 'expected an approved request of the same person, not older than a day')
        }
        const { project, pseudonym } = request
        const found = pseudonym === null ? undefined : await pseudonyms.find(tx, project, pseudonym)
        const entries = pseudonym === null ? await pseudonyms.table(tx, project) : found ? [found] : []
        const named = entries.length <= mostNamed ? entries : []
        await audit(tx, principal, request, 'revealed', {
          count: entries.length,
          objects: named.map(({ subject }) => ({ kind: 'patient', patientId: subject.id, issuer: subject.issuer })),
        })
        return entries
      })
      if (outcome instanceof GatewayError) throw outcome
      return outcome
    },
  }
}

const columns = [
  'id',
  'project',
  'pseudonym',
  'purpose',
  'why',
  'state',
  'requested_by as requestedBy',
  'requested_at as requestedAt',
  'decided_by as decidedBy',
  'decided_at as decidedAt',
  'expires_at as expiresAt',
] as const
