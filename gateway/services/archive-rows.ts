/** The rows of transfers to an archive: each statement with one intent. */
import { type Kysely, sql } from 'kysely'
import { type ArchiveTerms, archiveTerms } from '../../policy/document.ts'
import type { Tx } from '../db/db.ts'
import type { Schema, TransferState } from '../db/schema.ts'
import { decode } from '../decode.ts'
import { GatewayError } from '../errors.ts'

type Executor = Kysely<Schema> | Tx

/** A transfer to an archive as its delivery needs it. */
export interface ArchiveRow {
  readonly id: string
  readonly modality: string
  readonly terms: ArchiveTerms
  /** What leaves; an archive gets instances as they are stored. */
  readonly profile: string
  /** A person has decided on it, not a rule. */
  readonly isManual: boolean
  readonly state: TransferState
  readonly studyInstanceUid: string
  readonly patient: { readonly issuer: string; readonly patientId: string } | undefined
  readonly objectCount: number
  readonly bytesTotal: number
  readonly attempts: number
  /** By the database's clock, which the job queue goes by. */
  readonly isDue: boolean
  readonly expiresAt: Date
  readonly createdAt: Date
}

/** One instance of a transfer. */
export interface ArchiveItem {
  readonly ordinal: number
  readonly sopClassUid: string
  readonly sopInstanceUid: string
  readonly transferSyntaxUid: string
  readonly sizeBytes: number
  readonly fileSha256: Buffer
  /** Who sent it to us: a peer's name, an AE title. */
  readonly source: string
}

interface RawRow {
  id: string
  modality: string | null
  terms: unknown
  profile: string
  is_manual: boolean
  state: TransferState
  study: string
  issuer: string | null
  patient_id: string | null
  object_count: number
  bytes_total: number
  attempts: number
  is_due: boolean
  expires_at: Date
  created_at: Date
}

/** Undefined when it is gone, or goes to a peer. */
export async function loadArchiveTransfer(db: Executor, id: string): Promise<ArchiveRow | undefined> {
  const { rows } = await sql<RawRow>`
    select t.id, t.modality, t.terms, t.profile, t.trigger <> 'stable' as is_manual, t.state, t.study_instance_uid as study, p.issuer, p.patient_id, t.object_count,
           t.bytes_total, t.attempts, coalesce(t.next_attempt_at <= now() + interval '2 seconds', true) as is_due,
           t.expires_at, t.created_at
      from transfers t left join studies s on s.id = t.study left join patients p on p.id = s.patient
     where t.id = ${id}`.execute(db)
  const [row] = rows
  if (row?.modality == null) return undefined
  const terms = decode(archiveTerms, row.terms ?? {})
  if (!terms.ok) throw new GatewayError('POLICY_INVALID', 'the stored terms of a transfer cannot be read')
  return {
    id: row.id,
    modality: row.modality,
    terms: terms.value,
    profile: row.profile,
    isManual: row.is_manual,
    state: row.state,
    studyInstanceUid: row.study,
    patient: row.patient_id === null ? undefined : { issuer: row.issuer ?? '', patientId: row.patient_id },
    objectCount: row.object_count,
    bytesTotal: row.bytes_total,
    attempts: row.attempts,
    isDue: row.is_due,
    expiresAt: row.expires_at,
    createdAt: row.created_at,
  }
}

/** The instances that the archive has not taken yet (`undelivered`) or not committed to (`unarchived`), in their order. */
export async function loadArchiveItems(
  db: Executor,
  id: string,
  which: 'undelivered' | 'unarchived',
): Promise<ArchiveItem[]> {
  const open = which === 'undelivered' ? sql`t.delivered_at is null` : sql`t.archived_at is null`
  const { rows } = await sql<ArchiveItem>`
    select t.ordinal, t.sop_class_uid as "sopClassUid", t.sop_instance_uid as "sopInstanceUid",
           t.transfer_syntax_uid as "transferSyntaxUid", t.size_bytes as "sizeBytes", t.file_sha256 as "fileSha256",
           coalesce(p.name, i.origin ->> 'callingAe', i.origin ->> 'principal', '') as source
      from transfer_items t
      left join instances i on i.sop_instance_uid = t.sop_instance_uid
      left join peers p on p.id::text = i.origin ->> 'peerId'
     where t.transfer = ${id} and ${open}
     order by t.ordinal`.execute(db)
  return rows
}

/** What became of one instance in a pass; without a problem the archive has taken it. */
export interface ItemResult {
  readonly ordinal: number
  readonly problem: string | null
}

/** Writes results, and the bytes that the archive has taken. Tells the state that the transfer is in now. */
export async function writeItemResults(
  db: Executor,
  id: string,
  results: readonly ItemResult[],
): Promise<TransferState | undefined> {
  const { rows } = await sql<{ state: TransferState }>`
    with written as (
      update transfer_items i set problem = given.problem,
             delivered_at = case when given.problem is null then now() end
        from unnest(${results.map(result => result.ordinal)}::integer[], ${results.map(result => result.problem)}::text[])
          as given (ordinal, problem)
       where i.transfer = ${id} and i.ordinal = given.ordinal
      returning i.size_bytes, i.delivered_at)
    update transfers set bytes_acknowledged = bytes_acknowledged + taken.bytes,
           bytes_sent = bytes_sent + taken.bytes, updated_at = now()
      from (select coalesce(sum(size_bytes) filter (where delivered_at is not null), 0)::bigint as bytes from written) taken
     where id = ${id} returning state`.execute(db)
  return rows[0]?.state
}

/** How far a transfer is. */
export interface ArchiveCounts {
  readonly undelivered: number
  readonly unarchived: number
  /** Requests for commitment that may still be answered. */
  readonly open: number
  /** Those that nobody asks any more. */
  readonly abandoned: number
}

/** As which an item `i` was sent: an endpoint gets it under another UID. */
const sentUid = sql`coalesce((select o.sop_instance_uid from transfer_outputs o
                               where o.transfer = i.transfer and o.ordinal = i.ordinal), i.sop_instance_uid)`

/** Takes over what the archive has committed to since each instance was sent, and counts. */
export async function takeCommitments(tx: Tx, id: string): Promise<ArchiveCounts> {
  await sql`
    update transfer_items i set archived_at = now()
     where i.transfer = ${id} and i.archived_at is null
       and exists (select from commitments c join commitment_items a on a.commitment = c.id
                    where c.transfer = i.transfer and a.sop_instance_uid = ${sentUid} and a.outcome = 0
                      and c.created_at >= i.delivered_at)`.execute(tx)
  const { rows } = await sql<ArchiveCounts>`
    select count(*) filter (where delivered_at is null)::integer as undelivered,
           count(*) filter (where archived_at is null)::integer as unarchived,
           (select count(*)::integer from commitments where transfer = ${id} and state in ('asking', 'waiting')) as open,
           (select count(*)::integer from commitments where transfer = ${id} and state = 'abandoned') as abandoned
      from transfer_items where transfer = ${id}`.execute(tx)
  return rows[0] ?? { undelivered: 0, unarchived: 0, open: 0, abandoned: 0 }
}

/** What the archive would not commit to is to be sent again; how many instances that are. */
export async function reopenUncommitted(tx: Tx, id: string): Promise<number> {
  const { rows } = await sql<{ bytes: number }>`
    update transfer_items i set delivered_at = null,
           problem = 'NOT_COMMITTED' || coalesce((
             select '_' || upper(lpad(to_hex(a.outcome), 4, '0'))
               from commitments c join commitment_items a on a.commitment = c.id
              where c.transfer = i.transfer and a.sop_instance_uid = ${sentUid} and a.outcome > 0
              order by c.created_at desc limit 1), '')
     where i.transfer = ${id} and i.archived_at is null
    returning size_bytes as bytes`.execute(tx)
  const bytes = rows.reduce((sum, row) => sum + row.bytes, 0)
  await sql`
    update transfers set bytes_acknowledged = greatest(0, bytes_acknowledged - ${bytes}) where id = ${id}`.execute(tx)
  return rows.length
}

/** How often a transfer has been through a step. */
export async function countSteps(db: Executor, id: string, step: string): Promise<number> {
  const { rows } = await sql<{ count: number }>`
    select count(*)::integer as count from transfer_steps where transfer = ${id} and step = ${step}`.execute(db)
  return rows[0]?.count ?? 0
}

/** Transfers that a job should be waiting for and that nothing has happened to for ten minutes. */
export async function findStaleArchives(db: Executor): Promise<string[]> {
  const { rows } = await sql<{ id: string }>`
    select id from transfers
     where modality is not null and state in ('planned', 'sent')
       and greatest(updated_at, next_attempt_at) < now() - interval '10 minutes'
     order by created_at limit 1000`.execute(db)
  return rows.map(row => row.id)
}
