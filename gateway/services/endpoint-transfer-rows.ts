/** The rows of transfers to endpoints: each statement with one intent. */
import { type Kysely, sql } from 'kysely'
import type { PackageFile, PreparedObject } from '../../endpoints/package.ts'
import type { Tx } from '../db/db.ts'
import type { Schema } from '../db/schema.ts'
import { decode, object, optional, text } from '../decode.ts'
import { GatewayError } from '../errors.ts'

type Executor = Kysely<Schema> | Tx

/** What a delivery is called at its endpoint: fields of the path template. */
export interface DeliveryNames {
  readonly sponsor?: string | undefined
  readonly protocol?: string | undefined
  readonly site?: string | undefined
  /** The subject's pseudonym or number. */
  readonly subject?: string | undefined
  readonly visit?: string | undefined
}

const name = optional(text({ max: 128, pattern: /^[^\p{Cc}]*$/u, expected: 'text without control characters' }))
const names = object({ sponsor: name, protocol: name, site: name, subject: name, visit: name })

/** Transfers to an endpoint that are not over: those that wait for it. */
export async function findWaitingTransfers(db: Executor, endpoint: string): Promise<readonly string[]> {
  const { rows } = await sql<{ id: string }>`
    select id from transfers where endpoint = ${endpoint} and state in ('planned', 'prepared', 'signed')
     order by created_at`.execute(db)
  return rows.map(({ id }) => id)
}

/** Those that wait for an endpoint need not any more; which they are. */
export async function wakeWaitingTransfers(tx: Tx, endpoint: string): Promise<readonly string[]> {
  const ids = await findWaitingTransfers(tx, endpoint)
  await sql`update transfers set next_attempt_at = null where id = any(${ids}::uuid[])`.execute(tx)
  return ids
}

/** Transfers to endpoints that a job should be waiting for: all, or those that should have been tried ten minutes ago. */
export async function findUnfinishedTransfers(db: Executor, which: 'all' | 'stale'): Promise<readonly string[]> {
  const { rows } = await sql<{ id: string }>`
    select t.id from transfers t left join endpoints e on e.name = t.endpoint
     where t.endpoint is not null
       and (t.state in ('planned', 'prepared', 'signed')
            or (t.state = 'delivered' and e.acknowledgement is not null and t.next_attempt_at is not null))
       and (${which === 'all'} or greatest(t.updated_at, t.next_attempt_at) < now() - interval '10 minutes')
     order by t.created_at`.execute(db)
  return rows.map(({ id }) => id)
}

/** Which endpoint, and what it is called there. @throws GatewayError STATE_CONFLICT for names that cannot be read */
export async function loadDelivery(
  db: Executor,
  transfer: string,
): Promise<{ readonly endpoint: string; readonly names: DeliveryNames } | undefined> {
  const row = await db
    .selectFrom('transfers')
    .select(['endpoint', 'names'])
    .where('id', '=', transfer)
    .executeTakeFirst()
  if (!row || row.endpoint === null) return undefined
  const decoded = decode(names, row.names ?? {})
  if (!decoded.ok) throw new GatewayError('STATE_CONFLICT', 'the names of the delivery cannot be read')
  return { endpoint: row.endpoint, names: decoded.value }
}

/** One output of a transfer, as it is packed or sent. */
export interface EndpointObject extends PreparedObject {
  readonly ordinal: number
  /** The recipient has it. */
  readonly isDelivered: boolean
}

/** Outputs in their order; their series and modality stand in what the store knows, or in `seriesOf`. */
export async function loadEndpointOutputs(db: Executor, transfer: string) {
  const { rows } = await sql<{
    ordinal: number
    sopInstanceUid: string
    studyInstanceUid: string
    sopClassUid: string
    transferSyntaxUid: string
    sizeBytes: number
    sha256: Buffer
    isDelivered: boolean
  }>`
    select o.ordinal, o.sop_instance_uid as "sopInstanceUid", o.study_instance_uid as "studyInstanceUid",
           i.sop_class_uid as "sopClassUid", o.transfer_syntax_uid as "transferSyntaxUid", o.size_bytes as "sizeBytes",
           o.sha256, i.delivered_at is not null as "isDelivered"
      from transfer_outputs o join transfer_items i on i.transfer = o.transfer and i.ordinal = o.ordinal
     where o.transfer = ${transfer} order by o.ordinal`.execute(db)
  return rows
}

/** Fixes what is delivered. Files that are there already, with the same bytes, stay delivered. */
export async function writeFiles(tx: Tx, transfer: string, files: readonly PackageFile[]): Promise<void> {
  await sql`delete from transfer_files where transfer = ${transfer}
             and name <> all(${files.map(({ name }) => name)}::text[])`.execute(tx)
  await sql`
    insert into transfer_files (transfer, ordinal, name, role, size_bytes, sha256)
    select ${transfer}::uuid, ordinal - 1, name, role, size, decode(sha256, 'hex')
      from unnest(${files.map(file => file.name)}::text[], ${files.map(file => file.role)}::text[],
                  ${files.map(file => file.size)}::bigint[], ${files.map(file => file.sha256)}::text[])
           with ordinality as file (name, role, size, sha256, ordinal)
    on conflict (transfer, name) do update set ordinal = excluded.ordinal, role = excluded.role,
       size_bytes = excluded.size_bytes, sha256 = excluded.sha256,
       delivered_at = case when transfer_files.sha256 = excluded.sha256 then transfer_files.delivered_at end`.execute(
    tx,
  )
}

/** A file of a delivery, as it is removed. */
export interface DeliveredFile {
  readonly name: string
  /** SHA-256, hex. */
  readonly sha256: string
}

/** All files of a delivery, there or not. */
export async function findFiles(db: Executor, transfer: string): Promise<readonly DeliveredFile[]> {
  const { rows } = await sql<DeliveredFile>`
    select name, encode(sha256, 'hex') as sha256 from transfer_files where transfer = ${transfer}`.execute(db)
  return rows
}

/** Held or refused for so long that what is half written is debris. */
const isAbandoned = sql`t.state in ('held', 'refused') and t.updated_at < now() - interval '20 hours'`

/** Files that may lie half written at an endpoint since a transfer was held or refused, hours ago. */
export async function findStaleParts(db: Executor, transfer: string): Promise<readonly DeliveredFile[]> {
  const { rows } = await sql<DeliveredFile>`
    select f.name, encode(f.sha256, 'hex') as sha256 from transfer_files f join transfers t on t.id = f.transfer
     where f.transfer = ${transfer} and f.delivered_at is null and ${isAbandoned}`.execute(db)
  return rows
}

/** Transfers that have such files. */
export async function findAbandoned(db: Executor): Promise<readonly string[]> {
  const { rows } = await sql<{ id: string }>`
    select t.id from transfers t where t.endpoint is not null and ${isAbandoned}
       and exists (select from transfer_files f where f.transfer = t.id and f.delivered_at is null) limit 1000`.execute(
    db,
  )
  return rows.map(({ id }) => id)
}

/** They are not there any more; a delivery that goes on packs them again. */
export async function forgetFiles(db: Executor, transfer: string, files: readonly DeliveredFile[]): Promise<void> {
  await sql`delete from transfer_files where transfer = ${transfer}
             and name = any(${files.map(({ name }) => name)}::text[])`.execute(db)
}

/** Names of files that are there. */
export async function findDelivered(db: Executor, transfer: string): Promise<Set<string>> {
  const rows = await db
    .selectFrom('transfer_files')
    .select('name')
    .where('transfer', '=', transfer)
    .where('delivered_at', 'is not', null)
    .execute()
  return new Set(rows.map(row => row.name))
}

/** A file has its final name. */
export async function markDelivered(db: Executor, transfer: string, file: string, bytes: number): Promise<void> {
  await sql`
    with written as (
      update transfer_files set delivered_at = now() where transfer = ${transfer} and name = ${file} returning 1)
    update transfers set bytes_acknowledged = least(bytes_total, bytes_acknowledged + ${bytes}), updated_at = now()
     where id = ${transfer} and exists (select from written)`.execute(db)
}

/** What became of one object that was sent by a protocol of its own; without a problem it was taken. */
export async function markObject(
  db: Executor,
  transfer: string,
  { ordinal, size }: Pick<EndpointObject, 'ordinal' | 'size'>,
  problem: string | null,
): Promise<void> {
  await sql`
    with written as (
      update transfer_items set problem = ${problem}, delivered_at = ${problem === null ? sql`now()` : sql`null`}
       where transfer = ${transfer} and ordinal = ${ordinal} returning 1)
    update transfers set updated_at = now(),
           bytes_acknowledged = least(bytes_total, bytes_acknowledged + ${problem === null ? size : 0})
     where id = ${transfer} and exists (select from written)`.execute(db)
}

/** Those of the objects that the endpoint has not committed to. */
export async function findUncommitted(
  db: Executor,
  transfer: string,
  objects: readonly EndpointObject[],
): Promise<readonly EndpointObject[]> {
  const rows = await db
    .selectFrom('transfer_items')
    .select('ordinal')
    .where('transfer', '=', transfer)
    .where('archived_at', 'is', null)
    .execute()
  const open = new Set(rows.map(({ ordinal }) => ordinal))
  return objects.filter(({ ordinal }) => open.has(ordinal))
}

/** What a recipient said of a delivery. */
export interface Acknowledgement {
  readonly outcome: 'accepted' | 'rejected'
  readonly reason: string
  /** Name and bytes as they came; the bytes are a blob. */
  readonly fileName: string
  readonly fileSha256: Buffer
  readonly sizeBytes: number
  /** A person, or the endpoint. */
  readonly takenBy: string
}

/** Keeps it; what was said first counts, unless a person says otherwise. */
export async function writeAcknowledgement(tx: Tx, transfer: string, said: Acknowledgement): Promise<void> {
  const values = {
    outcome: said.outcome,
    reason: said.reason,
    file_name: said.fileName,
    file_sha256: said.fileSha256,
    size_bytes: said.sizeBytes,
    taken_by: said.takenBy,
    taken_at: new Date(),
  }
  await tx
    .insertInto('transfer_acknowledgements')
    .values({ transfer, ...values })
    .onConflict(conflict => conflict.column('transfer').doUpdateSet(values))
    .execute()
}
