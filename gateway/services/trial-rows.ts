/** The rows of trials: each statement with one intent, and the one way to write down what happened. */
import { type Kysely, sql } from 'kysely'
import { decodeTrialProtocol, type TrialProtocol, type Visit } from '../../policy/trial-protocol.ts'
import { eventTypes, requestorOf, securityAlert } from '../audit/event.ts'
import { appendAudit } from '../audit/log.ts'
import type { Tx } from '../db/db.ts'
import type { Row, Schema, TrialDelegationsTable } from '../db/schema.ts'
import { GatewayError } from '../errors.ts'
import type { Principal } from '../principal.ts'

type Executor = Kysely<Schema> | Tx

/** A trial as people see it. */
export interface Trial {
  readonly name: string
  /** A closed one takes no uploads. */
  readonly state: 'open' | 'closed'
  readonly document: TrialProtocol
  readonly createdBy: string
  readonly createdAt: Date
  readonly updatedAt: Date
}

/** A subject; who it is stands in the site's file only. */
export interface TrialSubject {
  readonly id: number
  /** The sponsor's number of the subject, which is its pseudonym there. */
  readonly code: string
  readonly state: 'declared' | 'enrolled' | 'withdrawn'
  /** `YYYY-MM-DD` */
  readonly dayZero: string | null
  readonly updatedAt: Date
}

/** What may be delegated. */
export type TrialTask = TrialDelegationsTable['task']

/** Whom of a patient a subject is. */
export interface LinkedSubject extends TrialSubject {
  readonly patient: { readonly issuer: string; readonly patientId: string } | undefined
}

/** @throws GatewayError NOT_FOUND; STATE_CONFLICT for a closed one where an open one is wanted */
export async function loadTrial(db: Executor, name: string, wanted: 'any' | 'open' = 'any'): Promise<Trial> {
  const row = await db.selectFrom('trials').selectAll().where('name', '=', name).executeTakeFirst()
  if (!row) throw new GatewayError('NOT_FOUND', 'no such trial')
  if (wanted === 'open' && row.state !== 'open')
    throw new GatewayError('STATE_CONFLICT', `the trial ${name} is closed: reopen it first`)
  return trialOf(row)
}

export async function listTrials(db: Executor): Promise<readonly Trial[]> {
  return (await db.selectFrom('trials').selectAll().orderBy('name').execute()).map(trialOf)
}

function trialOf(row: Row<'trials'>): Trial {
  const { name, state, created_by: createdBy, created_at: createdAt, updated_at: updatedAt } = row
  return { name, state, document: decodeTrialProtocol(row.document), createdBy, createdAt, updatedAt }
}

/** @throws GatewayError NOT_FOUND */
export function visitOf({ document }: Trial, name: string): Visit {
  const visit = document.visits.find(each => each.name === name)
  if (visit) return visit
  const known = document.visits.map(each => each.name).join(', ')
  throw new GatewayError('NOT_FOUND', `the protocol has no visit ${name}: it has ${known}`)
}

/** The subject of a code, locked for the transaction. @throws GatewayError NOT_FOUND */
export async function lockSubject(tx: Tx, trial: string, code: string): Promise<LinkedSubject> {
  const row = await tx
    .selectFrom('trial_subjects')
    .selectAll()
    .where('trial', '=', trial)
    .where('code', '=', code)
    .forUpdate()
    .executeTakeFirst()
  if (row) return subjectOf(row)
  throw new GatewayError(
    'NOT_FOUND',
    `subject ${code} is not on the list of the trial ${trial}: correct the number, or declare the subject first`,
  )
}

/** All of a trial, by code. */
export async function findSubjects(db: Executor, trial: string): Promise<readonly LinkedSubject[]> {
  const rows = await db.selectFrom('trial_subjects').selectAll().where('trial', '=', trial).orderBy('code').execute()
  return rows.map(subjectOf)
}

function subjectOf(row: Row<'trial_subjects'>): LinkedSubject {
  const { id, code, state, day_zero: dayZero, updated_at: updatedAt, issuer, patient_id: patientId } = row
  const patient = issuer === null || patientId === null ? undefined : { issuer, patientId }
  return { id, code, state, dayZero, updatedAt, patient }
}

/** What the log does not give to a person today. @throws GatewayError FORBIDDEN */
export async function assertDelegated(
  db: Executor,
  trial: string,
  principal: Principal,
  task: TrialTask,
): Promise<void> {
  const { rows } = await sql<{ found: boolean }>`
    select exists (select from trial_delegations where trial = ${trial} and person = ${principal.id} and task = ${task}
                      and ${inForce}) as found`.execute(db)
  if (rows[0]?.found) return
  throw new GatewayError(
    'FORBIDDEN',
    `the delegation log of the trial ${trial} does not give the task "${task}" to ${principal.id} today: ` +
      'who keeps the log has to add it',
  )
}

/** SQL: a line of the log that counts today. */
export const inForce = sql`revoked_at is null and valid_from <= to_char(now(), 'YYYY-MM-DD')
  and (valid_until is null or valid_until >= to_char(now(), 'YYYY-MM-DD'))`

/** What has happened. */
export type TrialEvent =
  | 'trial-created'
  | 'trial-changed'
  | 'trial-closed'
  | 'trial-reopened'
  | 'task-delegated'
  | 'delegation-revoked'
  | 'subject-declared'
  | 'subject-enrolled'
  | 'subject-withdrawn'
  | 'upload-chosen'
  | 'upload-checked'
  | 'upload-approved'
  | 'upload-sent'
  | 'upload-queried'
  | 'query-answered'
  | 'upload-replaced'
  | 'upload-cancelled'
  | 'file-exported'

/** Writes it into the trial's own log and the audit log. `detail` holds nothing of the patient. */
export async function recordTrial(
  tx: Tx,
  principal: Principal,
  about: {
    readonly trial: string
    readonly event: TrialEvent
    readonly subject?: number
    readonly upload?: string
    readonly detail?: Readonly<Record<string, string | number | boolean>>
  },
): Promise<void> {
  const { trial, event, subject = null, upload = null, detail = {} } = about
  await tx
    .insertInto('trial_events')
    .values({ trial, event, subject, upload, person: principal.id, detail: JSON.stringify(detail) })
    .execute()
  await appendAudit(
    tx,
    securityAlert({
      type: eventTypes.objectSecurityAttributesChanged,
      participants: [requestorOf(principal)],
      objects: [{ kind: 'setting', name: `trial:${trial}` }],
      reason: event,
      detail: { ...detail, ...(upload !== null && { upload }), ...(subject !== null && { subject }) },
    }),
  )
}
