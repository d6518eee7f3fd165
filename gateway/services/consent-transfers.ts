/** What consents and objections mean for transfers: each rule once, in the database's `consent_gap`. */
import { type Kysely, sql } from 'kysely'
import { instancesTransferred } from '../audit/event.ts'
import { appendAudit } from '../audit/log.ts'
import type { Tx } from '../db/db.ts'
import type { Schema } from '../db/schema.ts'
import type { Queue } from '../jobs/queue.ts'
import type { PatientName, Settled } from './consents.ts'
import { laneOf } from './transfer-lane.ts'
import { addStep } from './transfer-steps.ts'

type Executor = Kysely<Schema> | Tx

/** Why something may not go. */
export type ConsentGap = 'CONSENT_MISSING' | 'CONSENT_OBJECTED'

const messages: Readonly<Record<ConsentGap, string>> = {
  CONSENT_MISSING: 'the agreement asks for a consent of the patient, and none is in force',
  CONSENT_OBJECTED: 'the patient objects',
}

/** A gap in words. */
export const describeGap = (code: ConsentGap): { readonly code: ConsentGap; readonly message: string } => ({
  code,
  message: messages[code],
})

/** Why nothing may be sent now; undefined when it may. */
export async function findConsentGap(
  db: Executor,
  about: PatientName & {
    readonly purpose: string
    /** Site id, or a modality's name. */
    readonly recipient: string
    readonly needsConsent: boolean
    readonly zone: 'inside' | 'outside'
  },
): Promise<{ readonly code: ConsentGap; readonly message: string } | undefined> {
  const { issuer, patientId, purpose, recipient, needsConsent, zone } = about
  const { rows } = await sql<{ gap: ConsentGap | null }>`
    select consent_gap(${issuer}, ${patientId}, ${purpose}, ${recipient}, ${needsConsent}, ${zone}) as gap`.execute(db)
  return rows[0]?.gap ? describeGap(rows[0].gap) : undefined
}

/** The same of a transfer; a transfer that is gone may not go on either. */
export async function gapOfTransfer(
  db: Executor,
  id: string,
): Promise<{ readonly code: ConsentGap; readonly message: string } | undefined> {
  const { rows } = await sql<{ gap: ConsentGap | null }>`select gap from transfer_consents where id = ${id}`.execute(db)
  if (!rows[0]) return describeGap('CONSENT_MISSING')
  return rows[0].gap ? describeGap(rows[0].gap) : undefined
}

/**
 * Why a transfer may not go on, whatever its state: consents, and an identity that changed under way. A person who has
 * looked sets it going again.
 */
export async function obstacleOf(
  db: Executor,
  id: string,
): Promise<{ readonly code: ConsentGap | 'IDENTITY_CHANGED'; readonly message: string } | undefined> {
  const { rows } = await sql<{ gap: ConsentGap | null; error: string | null }>`
    select c.gap, case when t.state = 'held' and t.error_code = 'IDENTITY_CHANGED' then coalesce(t.error, '') end as error
      from transfer_consents c join transfers t on t.id = c.id where c.id = ${id}`.execute(db)
  const [row] = rows
  if (!row) return describeGap('CONSENT_MISSING')
  if (row.error !== null) return { code: 'IDENTITY_CHANGED', message: row.error }
  return row.gap ? describeGap(row.gap) : undefined
}

interface Found {
  readonly id: string
  readonly state: string
  readonly isOffered: boolean
  readonly modality: string | null
  readonly endpoint: string | null
  readonly recipient: string | null
  readonly studyInstanceUid: string
  readonly gap: ConsentGap | null
}

/**
 * Brings unfinished transfers in line: what has no consent any more is held, or cancelled where the peer knows of it
 * already; what was held for want of one goes on.
 */
export async function settleTransfers(
  tx: Tx,
  queue: Pick<Queue, 'enqueue'>,
  patient: PatientName | undefined,
  by: string,
): Promise<Settled> {
  const held: string[] = []
  const stopped: string[] = []
  const released: string[] = []
  // Locked in one order, and looked at as they are after that.
  await sql`
    select t.id from transfers t left join studies s on s.id = t.study left join patients p on p.id = s.patient
     where ${unfinished} and ${ofPatient(patient)} order by t.id for update of t`.execute(tx)
  const { rows } = await sql<Found>`
    select c.id, t.state, t.manifest_id is not null as "isOffered", t.modality, t.endpoint, c.recipient,
           t.study_instance_uid as "studyInstanceUid", c.gap
      from transfer_consents c join transfers t on t.id = c.id
      left join studies s on s.id = t.study left join patients p on p.id = s.patient
     where ${unfinished} and ${ofPatient(patient)}
       and case when t.state <> 'held' or t.manifest_id is not null then c.gap is not null
                -- What is held for another reason waits for a person, who cannot overrule the patient either.
                else t.error_code in ('CONSENT_MISSING', 'CONSENT_OBJECTED') and c.gap is distinct from t.error_code end
     order by c.id`.execute(tx)
  for (const row of rows) {
    if (row.gap === null) {
      await release(tx, queue, row, by)
      released.push(row.id)
    } else if (row.isOffered && row.modality === null) {
      await stop(tx, queue, row, { gap: row.gap, by })
      stopped.push(row.id)
    } else {
      await hold(tx, row, { gap: row.gap, by })
      held.push(row.id)
    }
  }
  return { held, stopped, released }
}

/** To an archive, `sent` means that it has everything. */
const unfinished = sql`(t.state in ('planned', 'prepared', 'signed', 'held') or (t.state = 'sent' and t.modality is null))`

const ofPatient = (patient: PatientName | undefined) =>
  patient === undefined
    ? sql`(t.needs_consent or t.zone = 'outside')`
    : sql`p.patient_id = ${patient.patientId} and p.issuer = ${patient.issuer}`

async function hold(tx: Tx, { id, ...row }: Found, { gap, by }: { gap: ConsentGap; by: string }): Promise<void> {
  await tx
    .updateTable('transfers')
    .set({ state: 'held', error_code: gap, error: messages[gap], next_attempt_at: null, updated_at: sql<Date>`now()` })
    .where('id', '=', id)
    .execute()
  await addStep(tx, id, 'held', { code: gap, by })
  await auditStop(tx, { id, ...row }, gap, by)
}

/** The peer knows of it: it is told by the job, and by the next range that does not come. */
async function stop(
  tx: Tx,
  queue: Pick<Queue, 'enqueue'>,
  row: Found,
  { gap, by }: { gap: ConsentGap; by: string },
): Promise<void> {
  await tx
    .updateTable('transfers')
    .set({
      state: 'cancelled',
      error_code: gap,
      error: messages[gap],
      next_attempt_at: null,
      updated_at: sql<Date>`now()`,
    })
    .where('id', '=', row.id)
    .execute()
  await addStep(tx, row.id, 'cancelled', { code: gap, by })
  await auditStop(tx, row, gap, by)
  await queue.enqueue(tx, 'deliver', { transfer: row.id }, { singletonKey: row.id })
}

/** Goes on with the time that it had. */
async function release(tx: Tx, queue: Pick<Queue, 'enqueue'>, row: Found, by: string): Promise<void> {
  await tx
    .updateTable('transfers')
    .set({
      state: 'planned',
      error_code: null,
      error: null,
      next_attempt_at: null,
      attempts: 0,
      manifest_created: sql<Date>`now()`,
      expires_at: sql<Date>`greatest(expires_at, now() + (expires_at - created_at))`,
      updated_at: sql<Date>`now()`,
    })
    .where('id', '=', row.id)
    .execute()
  await addStep(tx, row.id, 'released', { by })
  await queue.enqueue(tx, laneOf(row), { transfer: row.id }, { singletonKey: row.id })
}

async function auditStop(tx: Tx, row: Found, reason: ConsentGap, by: string): Promise<void> {
  const event = instancesTransferred({
    action: 'R',
    outcome: 'serious-failure',
    reason,
    source: { userId: 'gateway' },
    destination: { userId: row.recipient ?? 'unknown' },
    requestor: { userId: by },
    objects: [
      { kind: 'study', studyInstanceUid: row.studyInstanceUid },
      { kind: 'transfer', transferId: row.id },
    ],
  })
  await appendAudit(tx, event)
}

/** What a recipient has got. */
export interface SentTransfer {
  readonly id: string
  readonly studyInstanceUid: string
  readonly state: string
  readonly purpose: string
  /** Data of a trial stay where they are unless a person decides otherwise: the trial rests on them. */
  readonly isTrial: boolean
}

/** Newest first, at most 1000. */
export async function loadSent(
  tx: Tx,
  about: { readonly patient: PatientName; readonly purpose: string; readonly recipient: string },
): Promise<readonly SentTransfer[]> {
  const { patient, purpose, recipient } = about
  const { rows } = await sql<SentTransfer>`
    select t.id, t.study_instance_uid as "studyInstanceUid", t.state, t.purpose,
           (t.purpose = 'trial' or t.purpose like 'trial-%') as "isTrial"
      from transfers t join transfer_consents c on c.id = t.id
      join studies s on s.id = t.study join patients p on p.id = s.patient
     where p.patient_id = ${patient.patientId} and p.issuer = ${patient.issuer}
       and t.state in ('sent', 'receipted', 'delivered', 'archived') and t.zone = 'outside'
       and ${purpose} in ('*', t.purpose) and ${recipient} in ('*', c.recipient)
     order by t.created_at desc limit 1000`.execute(tx)
  return rows
}
