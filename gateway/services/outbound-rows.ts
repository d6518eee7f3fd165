/** The rows of outbound transfers: each statement with one intent. */
import { type Kysely, sql } from 'kysely'
import type { Tx } from '../db/db.ts'
import type { Schema, TransferState } from '../db/schema.ts'

type Executor = Kysely<Schema> | Tx

/** An outbound transfer as its delivery needs it. */
export interface OutboundRow {
  readonly id: string
  readonly study: number | undefined
  readonly studyInstanceUid: string
  readonly peer: string | undefined
  readonly trigger: string
  readonly rule: string
  readonly policy: { readonly version: number; readonly sha256: Buffer }
  readonly profile: string
  /** Row of the de-identification project, once it is chosen. */
  readonly project: number | undefined
  readonly purpose: string
  /** The agreement that it goes under, by its name in the policy. */
  readonly agreement: string | undefined
  readonly priority: string
  readonly state: TransferState
  /** Secret of this transfer; what derives from it is the same in every run. */
  readonly nonce: Buffer
  readonly manifestCreated: Date
  readonly manifestId: string | undefined
  readonly objectCount: number
  readonly bytesTotal: number
  readonly bytesAcknowledged: number
  readonly attempts: number
  readonly errorCode: string | undefined
  readonly error: string | undefined
  /** By the database's clock, which the job queue goes by. */
  readonly isDue: boolean
  readonly expiresAt: Date
  /** The peer has signed that it accepted the offer. */
  readonly isAccepted: boolean
  /** The peer has signed how it ended. */
  readonly isClosed: boolean
}

/** One object of a transfer's snapshot. */
export interface OutboundItem {
  readonly sopInstanceUid: string
  readonly sopClassUid: string
  readonly transferSyntaxUid: string
  readonly sizeBytes: number
  readonly fileSha256: Buffer
}

export async function loadOutbound(db: Executor, id: string): Promise<OutboundRow | undefined> {
  const row = await db
    .selectFrom('transfers')
    .innerJoin('policy_versions', 'policy_versions.version', 'transfers.policy_version')
    .select([
      'transfers.id',
      'study',
      'study_instance_uid',
      'peer',
      'trigger',
      'rule',
      'policy_version',
      'policy_versions.sha256 as policy_sha256',
      'profile',
      'project',
      'purpose',
      'agreement',
      'priority',
      'state',
      'nonce',
      'manifest_created',
      'manifest_id',
      'object_count',
      'bytes_total',
      'bytes_acknowledged',
      'attempts',
      'error_code',
      'error',
      sql<boolean>`coalesce(next_attempt_at <= now() + interval '2 seconds', true)`.as('is_due'),
      'expires_at',
      sql<boolean>`exists (select 1 from receipts r where r.transfer = transfers.id and r.direction = 'received'
                            and r.kind = 'accepted')`.as('is_accepted'),
      sql<boolean>`exists (select 1 from receipts r where r.transfer = transfers.id and r.direction = 'received'
                            and r.kind in ('imported', 'refused', 'cancelled', 'expired'))`.as('is_closed'),
    ])
    .where('transfers.id', '=', id)
    .executeTakeFirst()
  if (!row) return undefined
  return {
    id: row.id,
    study: row.study ?? undefined,
    studyInstanceUid: row.study_instance_uid,
    peer: row.peer ?? undefined,
    trigger: row.trigger,
    rule: row.rule,
    policy: { version: row.policy_version, sha256: row.policy_sha256 },
    profile: row.profile,
    project: row.project ?? undefined,
    purpose: row.purpose,
    agreement: row.agreement ?? undefined,
    priority: row.priority,
    state: row.state,
    nonce: row.nonce,
    manifestCreated: row.manifest_created,
    manifestId: row.manifest_id ?? undefined,
    objectCount: row.object_count,
    bytesTotal: row.bytes_total,
    bytesAcknowledged: row.bytes_acknowledged,
    attempts: row.attempts,
    errorCode: row.error_code ?? undefined,
    error: row.error ?? undefined,
    isDue: row.is_due,
    expiresAt: row.expires_at,
    isAccepted: row.is_accepted,
    isClosed: row.is_closed,
  }
}

export async function loadItems(db: Executor, transfer: string): Promise<OutboundItem[]> {
  const rows = await db
    .selectFrom('transfer_items')
    .select(['sop_instance_uid', 'sop_class_uid', 'transfer_syntax_uid', 'size_bytes', 'file_sha256'])
    .where('transfer', '=', transfer)
    .orderBy('ordinal')
    .execute()
  return rows.map(row => ({
    sopInstanceUid: row.sop_instance_uid,
    sopClassUid: row.sop_class_uid,
    transferSyntaxUid: row.transfer_syntax_uid,
    sizeBytes: row.size_bytes,
    fileSha256: row.file_sha256,
  }))
}

/** The offer as it was signed; undefined before. */
export async function loadOffer(db: Executor, id: string): Promise<Uint8Array | undefined> {
  const row = await db.selectFrom('transfers').select('manifest').where('id', '=', id).executeTakeFirst()
  return row?.manifest ?? undefined
}

/** Locks the row until the transaction ends and tells its state; undefined when it is gone. */
export async function lockState(tx: Tx, id: string): Promise<TransferState | undefined> {
  const row = await tx.selectFrom('transfers').select('state').where('id', '=', id).forUpdate().executeTakeFirst()
  return row?.state
}

/** True while the transfer is in one of `states`. */
export async function isInState(db: Executor, id: string, states: readonly TransferState[]): Promise<boolean> {
  const row = await db
    .selectFrom('transfers')
    .select('id')
    .where('id', '=', id)
    .where('state', 'in', [...states])
    .executeTakeFirst()
  return row !== undefined
}

/** Writes a state, and with it what is wrong, or that nothing is. The caller holds the row's lock. */
export async function writeState(
  tx: Tx,
  id: string,
  state: TransferState,
  more: { code?: string | undefined; message?: string | undefined; nextAttemptAt?: Date; attempts?: number } = {},
): Promise<void> {
  await tx
    .updateTable('transfers')
    .set({
      state,
      error_code: more.code ?? null,
      error: more.message ?? null,
      next_attempt_at: more.nextAttemptAt ?? null,
      ...(more.attempts !== undefined && { attempts: more.attempts }),
      ...(state === 'receipted' && { bytes_acknowledged: sql<number>`bytes_total` }),
      updated_at: sql<Date>`now()`,
    })
    .where('id', '=', id)
    .execute()
}

/** Stores the signed offer, before anything of it is used. */
export async function writeOffer(tx: Tx, id: string, offer: { id: string; bytes: Uint8Array }): Promise<void> {
  await tx
    .updateTable('transfers')
    .set({ manifest: Buffer.from(offer.bytes), manifest_id: offer.id, state: 'signed', updated_at: sql<Date>`now()` })
    .where('id', '=', id)
    .execute()
}

/** Adds to the counters a person watches. `acknowledgedBytes` only where it is known. */
export async function writeProgress(
  db: Executor,
  id: string,
  progress: { sentBytes: number; acknowledgedBytes: number | undefined },
): Promise<void> {
  const { sentBytes, acknowledgedBytes } = progress
  await sql`
    update transfers set bytes_sent = bytes_sent + ${sentBytes}, updated_at = now(),
           bytes_acknowledged = coalesce(${acknowledgedBytes ?? null}::bigint, bytes_acknowledged)
     where id = ${id}`.execute(db)
}

/**
 * Transfers that a job should be waiting for: parked ones are known to a process's memory only. `stale`:
 * those that should have been tried ten minutes ago.
 */
export async function findUnfinished(db: Executor, which: 'all' | 'stale'): Promise<string[]> {
  const { rows } = await sql<{ id: string }>`
    select id from transfers t
     where modality is null and endpoint is null and (state in ('planned', 'prepared', 'signed', 'sent')
            or (state in ('held', 'cancelled') and manifest_id is not null and expires_at > now()
                and not exists (select 1 from receipts r where r.transfer = t.id and r.direction = 'received'
                                 and r.kind in ('imported', 'refused', 'cancelled', 'expired'))))
       and (${which === 'all'} or greatest(updated_at, next_attempt_at) < now() - interval '10 minutes')
     order by created_at`.execute(db)
  return rows.map(row => row.id)
}

/** What identifies the patient and study to a person; undefined when the study is gone. */
export async function loadIdentity(db: Executor, study: number) {
  return await db
    .selectFrom('studies')
    .innerJoin('patients', 'patients.id', 'studies.patient')
    .select([
      'patient_id',
      'patients.birth_date',
      'patients.sex',
      'patients.attributes as patient_attributes',
      'study_date',
      'study_description',
      'accession_number',
    ])
    .where('studies.id', '=', study)
    .executeTakeFirst()
}
