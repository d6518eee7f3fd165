/** The rows of storage commitments: each statement with one intent. */
import { createHash } from 'node:crypto'
import { type Kysely, sql } from 'kysely'
import type { Tx } from '../db/db.ts'
import type { CommitmentState, Schema } from '../db/schema.ts'

type Executor = Kysely<Schema> | Tx

/** One instance of a request, as the requestor names it. */
export interface InstanceReference {
  readonly sopClassUid: string
  readonly sopInstanceUid: string
}

/** A storage commitment request, PS3.4 Table J.3-1. */
export interface CommitmentRequest {
  readonly transactionUid: string
  readonly instances: readonly InstanceReference[]
}

/** Values of Failure Reason (0008,1197), PS3.3 §C.14.1.1. */
export const failureReason = {
  processingFailure: 0x0110,
  noSuchInstance: 0x0112,
  classInstanceConflict: 0x0119,
  classNotSupported: 0x0122,
  duplicateTransaction: 0x0131,
  resourceLimitation: 0x0213,
} as const

/** What is answered to a request, PS3.4 Table J.3-2. */
export interface CommitmentReport {
  readonly transactionUid: string
  readonly committed: readonly InstanceReference[]
  readonly failed: readonly (InstanceReference & { readonly reason: number })[]
}

/** A commitment without its instances. */
export interface CommitmentRow {
  readonly id: string
  readonly direction: 'received' | 'sent'
  readonly transactionUid: string
  readonly aeTitle: string
  readonly transfer: string | undefined
  readonly state: CommitmentState
  readonly isDuplicate: boolean
  readonly instanceCount: number
  readonly failedCount: number
  readonly attempts: number
  readonly errorCode: string | undefined
  readonly error: string | undefined
  readonly nextAttemptAt: Date | undefined
  readonly expiresAt: Date
  readonly createdAt: Date
  readonly updatedAt: Date
}

interface RawRow {
  id: string
  direction: 'received' | 'sent'
  transaction_uid: string
  ae_title: string
  transfer: string | null
  state: CommitmentState
  is_duplicate: boolean
  instance_count: number
  failed_count: number
  attempts: number
  error_code: string | null
  error: string | null
  next_attempt_at: Date | null
  expires_at: Date
  created_at: Date
  updated_at: Date
}

const columns = sql`
  c.id, c.direction, c.transaction_uid, c.ae_title, c.transfer, c.state, c.is_duplicate, c.instance_count,
  c.failed_count, c.attempts, c.error_code, c.error, c.next_attempt_at, c.expires_at, c.created_at, c.updated_at`

const readRow = (raw: RawRow): CommitmentRow => ({
  id: raw.id,
  direction: raw.direction,
  transactionUid: raw.transaction_uid,
  aeTitle: raw.ae_title,
  transfer: raw.transfer ?? undefined,
  state: raw.state,
  isDuplicate: raw.is_duplicate,
  instanceCount: raw.instance_count,
  failedCount: raw.failed_count,
  attempts: raw.attempts,
  errorCode: raw.error_code ?? undefined,
  error: raw.error ?? undefined,
  nextAttemptAt: raw.next_attempt_at ?? undefined,
  expiresAt: raw.expires_at,
  createdAt: raw.created_at,
  updatedAt: raw.updated_at,
})

export async function loadCommitment(db: Executor, id: string): Promise<CommitmentRow | undefined> {
  const { rows } = await sql<RawRow>`select ${columns} from commitments c where c.id = ${id}`.execute(db)
  return rows[0] && readRow(rows[0])
}

/** Locks the row until the transaction ends. */
export async function lockCommitment(tx: Tx, id: string): Promise<CommitmentRow | undefined> {
  const { rows } = await sql<RawRow>`select ${columns} from commitments c where c.id = ${id} for update`.execute(tx)
  return rows[0] && readRow(rows[0])
}

/** Our own request of this transaction, locked; undefined when we never asked it. */
export async function lockAsked(tx: Tx, transactionUid: string): Promise<CommitmentRow | undefined> {
  const { rows } = await sql<RawRow>`
    select ${columns} from commitments c
     where c.direction = 'sent' and c.transaction_uid = ${transactionUid} for update`.execute(tx)
  return rows[0] && readRow(rows[0])
}

/** Our own request by its transaction UID, or by its row; undefined when there is none. */
export async function findAsked(
  db: Executor,
  by: string | { readonly id: string },
): Promise<CommitmentRow | undefined> {
  const where = typeof by === 'string' ? sql`c.transaction_uid = ${by}` : sql`c.id = ${by.id}`
  const { rows } = await sql<RawRow>`
    select ${columns} from commitments c where c.direction = 'sent' and ${where}`.execute(db)
  return rows[0] && readRow(rows[0])
}

/** Newest first; `before` is the creation time of the last one seen. */
export async function listCommitments(
  db: Executor,
  filter: {
    readonly direction?: 'received' | 'sent'
    readonly state?: CommitmentState
    readonly transfer?: string
    readonly before?: Date
    readonly limit: number
  },
): Promise<CommitmentRow[]> {
  const { direction, state, transfer, before, limit } = filter
  const { rows } = await sql<RawRow>`
    select ${columns} from commitments c
     where (${direction ?? null}::text is null or c.direction = ${direction ?? null})
       and (${state ?? null}::text is null or c.state = ${state ?? null})
       and (${transfer ?? null}::uuid is null or c.transfer = ${transfer ?? null}::uuid)
       and (${before ?? null}::timestamptz is null or c.created_at < ${before ?? null}::timestamptz)
     order by c.created_at desc, c.id desc limit ${limit}`.execute(db)
  return rows.map(readRow)
}

/** Identifies what a request names, whatever its order: the same request again is the same. */
export function contentDigest(instances: readonly InstanceReference[]): Buffer {
  const lines = instances.map(instance => `${instance.sopClassUid} ${instance.sopInstanceUid}\n`).sort()
  return createHash('sha256').update(lines.join('')).digest()
}

/** Inserts a request and its instances; undefined, and nothing written, when the same one is there. */
export async function insertCommitment(
  tx: Tx,
  row: {
    readonly id: string
    readonly direction: 'received' | 'sent'
    readonly aeTitle: string
    readonly transfer?: string | undefined
    readonly state: CommitmentState
    readonly isDuplicate?: boolean
    readonly expiresAt: Date
  },
  request: CommitmentRequest,
): Promise<string | undefined> {
  const { transactionUid, instances } = request
  const inserted = await tx
    .insertInto('commitments')
    .values({
      id: row.id,
      direction: row.direction,
      transaction_uid: transactionUid,
      ae_title: row.aeTitle,
      content_sha256: contentDigest(instances),
      transfer: row.transfer ?? null,
      state: row.state,
      is_duplicate: row.isDuplicate ?? false,
      instance_count: instances.length,
      expires_at: row.expiresAt,
    })
    .onConflict(conflict =>
      conflict.columns(['direction', 'ae_title', 'transaction_uid', 'content_sha256']).doNothing(),
    )
    .returning('id')
    .executeTakeFirst()
  if (!inserted) return undefined
  await sql`
    insert into commitment_items (commitment, ordinal, sop_class_uid, sop_instance_uid)
    select ${row.id}::uuid, ordinal - 1, class, instance
      from unnest(${instances.map(item => item.sopClassUid)}::text[], ${instances.map(item => item.sopInstanceUid)}::text[])
        with ordinality as item (class, instance, ordinal)`.execute(tx)
  return inserted.id
}

/** A request of this peer and transaction, whatever it names. */
export async function findReceived(
  tx: Tx,
  aeTitle: string,
  transactionUid: string,
): Promise<readonly { readonly id: string; readonly contentSha256: Buffer }[]> {
  const { rows } = await sql<{ id: string; contentSha256: Buffer }>`
    select id, content_sha256 as "contentSha256" from commitments
     where direction = 'received' and ae_title = ${aeTitle} and transaction_uid = ${transactionUid}
       for update`.execute(tx)
  return rows
}

/** Writes a state, and with it what is wrong, or that nothing is. The caller holds the row's lock. */
export async function writeCommitment(
  tx: Tx,
  id: string,
  state: CommitmentState,
  more: {
    readonly code?: string
    readonly message?: string
    readonly attempts?: number
    readonly nextAttemptAt?: Date
    readonly failedCount?: number
  } = {},
): Promise<void> {
  await tx
    .updateTable('commitments')
    .set({
      state,
      error_code: more.code ?? null,
      error: more.message ?? null,
      next_attempt_at: more.nextAttemptAt ?? null,
      ...(more.attempts !== undefined && { attempts: more.attempts }),
      ...(more.failedCount !== undefined && { failed_count: more.failedCount }),
      updated_at: sql<Date>`now()`,
    })
    .where('id', '=', id)
    .execute()
}

/** An instance of a commitment with what is known of it. */
export interface CommitmentItem extends InstanceReference {
  readonly ordinal: number
  /** Undefined as long as nobody knows, 0 committed, else a Failure Reason. */
  readonly outcome: number | undefined
}

/** The items in their order, from `from` on. `open`: only those without outcome. */
export async function loadCommitmentItems(
  db: Executor,
  id: string,
  page: { readonly from?: number; readonly limit?: number; readonly which?: 'all' | 'open' } = {},
): Promise<CommitmentItem[]> {
  const { from = 0, limit = 1_000_000, which = 'all' } = page
  const { rows } = await sql<{ ordinal: number; class: string; instance: string; outcome: number | null }>`
    select ordinal, sop_class_uid as class, sop_instance_uid as instance, outcome from commitment_items
     where commitment = ${id} and ordinal >= ${from} and (${which === 'all'} or outcome is null)
     order by ordinal limit ${limit}`.execute(db)
  return rows.map(row => ({
    ordinal: row.ordinal,
    sopClassUid: row.class,
    sopInstanceUid: row.instance,
    outcome: row.outcome ?? undefined,
  }))
}

/** Writes outcomes by place. */
export async function writeOutcomes(
  db: Executor,
  id: string,
  outcomes: readonly { readonly ordinal: number; readonly outcome: number | null }[],
): Promise<void> {
  await sql`
    update commitment_items i set outcome = given.outcome
      from unnest(${outcomes.map(item => item.ordinal)}::integer[], ${outcomes.map(item => item.outcome)}::integer[])
        as given (ordinal, outcome)
     where i.commitment = ${id} and i.ordinal = given.ordinal`.execute(db)
}

/** Forgets the outcomes, to find them anew. */
export async function clearOutcomes(tx: Tx, id: string): Promise<void> {
  await sql`update commitment_items set outcome = null where commitment = ${id}`.execute(tx)
}

/** What is answered of a request whose items all have their outcome; those without count as failed. */
export async function loadReport(
  db: Executor,
  row: Pick<CommitmentRow, 'id' | 'transactionUid'>,
): Promise<CommitmentReport> {
  const items = await loadCommitmentItems(db, row.id)
  const reference = ({ sopClassUid, sopInstanceUid }: InstanceReference) => ({ sopClassUid, sopInstanceUid })
  return {
    transactionUid: row.transactionUid,
    committed: items.filter(item => item.outcome === 0).map(reference),
    failed: items
      .filter(item => item.outcome !== 0)
      .map(item => ({ ...reference(item), reason: item.outcome ?? failureReason.processingFailure })),
  }
}

/** Commitments that a job should be waiting for and that nothing has happened to for ten minutes. */
export async function findStaleCommitments(db: Executor): Promise<{ id: string; state: CommitmentState }[]> {
  const { rows } = await sql<{ id: string; state: CommitmentState }>`
    select id, state from commitments
     where state in ('verifying', 'reporting', 'asking', 'waiting')
       and greatest(updated_at, next_attempt_at) < now() - interval '10 minutes'
     order by created_at limit 1000`.execute(db)
  return rows
}

/**
 * Forgets commitments that ended three months ago, some at a time. What an archive has committed to stays with its
 * transfer (`transfer_items.archived_at`), and the audit log keeps who was told what.
 */
export async function forgetCommitments(db: Executor): Promise<void> {
  await sql`
    delete from commitments where id in (
      select id from commitments
       where created_at < now() - interval '90 days' and updated_at < now() - interval '90 days'
         and state not in ('verifying', 'reporting', 'asking', 'waiting')
       order by created_at limit 100)`.execute(db)
}

/** Counts by direction and state, for metrics and status. */
export async function countCommitments(
  db: Executor,
): Promise<{ direction: 'received' | 'sent'; state: CommitmentState; count: number }[]> {
  const { rows } = await sql<{ direction: 'received' | 'sent'; state: CommitmentState; count: number }>`
    select direction, state, count(*) as count from commitments group by direction, state order by 1, 2`.execute(db)
  return rows
}

/** Does a transfer go to an endpoint of a third party? */
export async function isForEndpoint(db: Executor, transfer: string): Promise<boolean> {
  const row = await db.selectFrom('transfers').select('endpoint').where('id', '=', transfer).executeTakeFirst()
  return (row?.endpoint ?? null) !== null
}
