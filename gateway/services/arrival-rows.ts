/** The rows of what arrives at endpoints: each statement with one intent. */
import { randomUUID } from 'node:crypto'
import { type Kysely, sql } from 'kysely'
import type { ArrivingFile } from '../../endpoints/arriving.ts'
import type { Tx } from '../db/db.ts'
import type { ArrivalsTable, ArrivingFilesTable, Schema } from '../db/schema.ts'
import type { GatewayError } from '../errors.ts'

type Executor = Kysely<Schema> | Tx

/** A file as it was seen, and what became of it. */
export interface ArrivalFile extends ArrivingFile {
  readonly id: number
  readonly state: ArrivingFilesTable['state']
  readonly arrival: string | null
  readonly sha256: Buffer | null
  readonly instances: number
  readonly errorCode: string | null
  readonly error: string | null
  readonly seenAt: Date
  readonly updatedAt: Date
}

/** Files of one folder that were taken together. */
export interface Arrival {
  readonly id: string
  readonly endpoint: string
  readonly folder: string
  readonly state: ArrivalsTable['state']
}

const fileColumns = sql.raw(`id, path, size_bytes as size, modified, state, arrival, sha256, instances,
  error_code as "errorCode", error, seen_at as "seenAt", updated_at as "updatedAt"`)

/** Notes what was found; files that are not there any more, or not as they were, and that nobody took, are forgotten. */
export async function rememberSeen(tx: Tx, endpoint: string, files: readonly ArrivingFile[]): Promise<void> {
  const [paths, sizes, times] = [
    files.map(file => file.path),
    files.map(file => file.size),
    files.map(file => file.modified),
  ]
  const found = sql`unnest(${paths}::text[], ${sizes}::bigint[], ${times}::text[]) as found (path, size, modified)`
  await sql`
    delete from arriving_files f
     where f.endpoint = ${endpoint}
       and (f.state in ('seen', 'failed', 'refused') or f.updated_at < now() - interval '90 days')
       and f.state not in ('fetching', 'fetched')
       and not exists (select from ${found}
                        where found.path = f.path and found.size = f.size_bytes and found.modified = f.modified)`.execute(
    tx,
  )
  await sql`
    insert into arriving_files (endpoint, path, size_bytes, modified, state)
    select ${endpoint}, path, size, modified, 'seen' from ${found}
    on conflict do nothing`.execute(tx)
}

/** Files that were seen and wait to be taken. */
export async function findSeen(db: Executor, endpoint: string): Promise<readonly ArrivalFile[]> {
  const { rows } = await sql<ArrivalFile>`
    select ${fileColumns} from arriving_files where endpoint = ${endpoint} and state = 'seen' order by path`.execute(db)
  return rows
}

/** Files that were taken, and are still to be moved or deleted there. */
export async function findUnsettled(db: Executor, endpoint: string): Promise<readonly ArrivalFile[]> {
  const { rows } = await sql<ArrivalFile>`
    select ${fileColumns} from arriving_files
     where endpoint = ${endpoint} and state in ('taken', 'known') and not is_settled order by id`.execute(db)
  return rows
}

/** Says of waiting files why they wait. */
export async function noteWaiting(db: Executor, ids: readonly number[], error: GatewayError): Promise<void> {
  await sql`update arriving_files set error_code = ${error.code}, error = ${error.message}
             where id = any(${[...ids]}::bigint[]) and state = 'seen'`.execute(db)
}

/** Notes what is not taken as it is. */
export async function noteStrange(
  db: Executor,
  endpoint: string,
  strange: readonly { readonly path: string; readonly why: string }[],
): Promise<void> {
  await sql`
    insert into arriving_files (endpoint, path, size_bytes, state, error_code, error, is_settled)
    select ${endpoint}, path, 0, 'refused', 'BAD_REQUEST', why, true
      from unnest(${strange.map(({ path }) => path)}::text[], ${strange.map(({ why }) => why)}::text[]) as s (path, why)
    on conflict do nothing`.execute(db)
}

/** Files that are taken together. */
export async function openArrival(
  tx: Tx,
  { endpoint, folder }: { readonly endpoint: string; readonly folder: string },
  files: readonly ArrivalFile[],
): Promise<void> {
  const id = randomUUID()
  await tx
    .insertInto('arrivals')
    .values({ id, endpoint, folder, state: 'fetching', ...empty })
    .execute()
  await sql`update arriving_files set arrival = ${id}::uuid, state = 'fetching', error_code = null, error = null,
                   updated_at = now() where id = any(${files.map(file => file.id)}::bigint[])`.execute(tx)
}

const empty = { signed_by: null, rule: null, policy_version: null, reason_code: null, reason: null }

/** Arrivals in a state, oldest first. */
export async function findArrivals(
  db: Executor,
  endpoint: string,
  state: Arrival['state'],
): Promise<readonly Arrival[]> {
  return await db
    .selectFrom('arrivals')
    .select(['id', 'endpoint', 'folder', 'state'])
    .where('endpoint', '=', endpoint)
    .where('state', '=', state)
    .orderBy('created_at')
    .execute()
}

/** Files of an arrival. */
export async function findFilesOf(db: Executor, arrival: string): Promise<readonly ArrivalFile[]> {
  const { rows } = await sql<ArrivalFile>`
    select ${fileColumns} from arriving_files where arrival = ${arrival}::uuid order by path`.execute(db)
  return rows
}

/** A file is here with all its bytes; true when the same bytes were taken before. */
export async function noteFetched(db: Executor, endpoint: string, id: number, sha256: Buffer): Promise<boolean> {
  const { rows } = await sql<{ state: string }>`
    update arriving_files set sha256 = ${sha256}, updated_at = now(), error_code = null, error = null,
           state = case when exists (select from arriving_files o
                                      where o.endpoint = ${endpoint} and o.sha256 = ${sha256} and o.state = 'taken')
                        then 'known' else 'fetched' end
     where id = ${id} returning state`.execute(db)
  return rows[0]?.state === 'known'
}

/** A file cannot be taken; a person may try it again. */
export async function noteFailed(
  db: Executor,
  id: number,
  error: GatewayError,
  state: 'failed' | 'refused' = 'failed',
): Promise<void> {
  await sql`update arriving_files set state = ${state}, error_code = ${error.code}, error = ${error.message},
                   updated_at = now() where id = ${id}`.execute(db)
}

/** It is another file now: seen anew. */
export async function forgetFile(db: Executor, id: number): Promise<void> {
  await sql`delete from arriving_files where id = ${id}`.execute(db)
}

/** Its instances are stored. */
export async function noteTaken(tx: Tx, id: number, instances: number): Promise<void> {
  await sql`update arriving_files set state = 'taken', instances = ${instances}, error_code = null, error = null,
                   updated_at = now() where id = ${id}`.execute(tx)
}

/** Moved or deleted there; or left there, when it stays known. */
export async function noteSettled(db: Executor, ids: readonly number[]): Promise<void> {
  await sql`update arriving_files set is_settled = true where id = any(${[...ids]}::bigint[])`.execute(db)
}

/** What has been decided of an arrival. */
export interface ArrivalEnd {
  readonly state: Arrival['state']
  readonly signedBy?: string | undefined
  readonly rule?: string | undefined
  readonly policyVersion?: number | undefined
  readonly objects?: number
  readonly sizeBytes?: number
  readonly code?: string
  readonly reason?: string
}

/** Writes it, when the arrival is still in a state. */
export async function writeArrival(
  tx: Tx,
  id: string,
  from: readonly Arrival['state'][],
  end: ArrivalEnd,
): Promise<boolean> {
  const { numUpdatedRows } = await tx
    .updateTable('arrivals')
    .set({
      state: end.state,
      ...(end.signedBy !== undefined && { signed_by: end.signedBy }),
      ...(end.rule !== undefined && { rule: end.rule }),
      ...(end.policyVersion !== undefined && { policy_version: end.policyVersion }),
      ...(end.objects !== undefined && { objects: end.objects }),
      ...(end.sizeBytes !== undefined && { size_bytes: end.sizeBytes }),
      reason_code: end.code ?? null,
      reason: end.reason ?? null,
      updated_at: sql<Date>`now()`,
    })
    .where('id', '=', id)
    .where('state', 'in', [...from])
    .executeTakeFirst()
  return numUpdatedRows === 1n
}

/** Files whose bytes are kept on our disk. */
export async function findKept(db: Executor): Promise<ReadonlySet<number>> {
  const { rows } = await sql<{ id: number }>`
    select f.id from arriving_files f join arrivals a on a.id = f.arrival
     where f.state in ('fetching', 'fetched') and a.state in ('fetching', 'held', 'released')`.execute(db)
  return new Set(rows.map(({ id }) => id))
}

/** Files of an endpoint, the latest first; at most `limit`, before a position. */
export async function listFiles(
  db: Executor,
  endpoint: string,
  page: { readonly limit: number; readonly before?: number | undefined },
): Promise<readonly ArrivalFile[]> {
  const { rows } = await sql<ArrivalFile>`
    select ${fileColumns} from arriving_files
     where endpoint = ${endpoint} and id < ${page.before ?? Number.MAX_SAFE_INTEGER}
     order by id desc limit ${page.limit}`.execute(db)
  return rows
}

/** What failed or was refused is taken up again at the next look. */
export async function retryFile(tx: Tx, endpoint: string, id: number): Promise<boolean> {
  const { numAffectedRows = 0n } = await sql`
    update arriving_files set state = 'seen', arrival = null, error_code = null, error = null,
           seen_at = 'epoch', updated_at = now()
     where endpoint = ${endpoint} and id = ${id} and state in ('failed', 'refused') and not is_settled`.execute(tx)
  return numAffectedRows === 1n
}

/** One arrival. */
export async function loadArrival(db: Executor, id: string): Promise<Arrival | undefined> {
  return await db
    .selectFrom('arrivals')
    .select(['id', 'endpoint', 'folder', 'state'])
    .where('id', '=', id)
    .executeTakeFirst()
}

/** Is it time to look at an endpoint? */
export async function isDue(db: Executor, endpoint: string): Promise<boolean> {
  const { rows } = await sql<{ due: boolean }>`
    select coalesce(poll_due_at <= now(), true) as due from endpoints
     where name = ${endpoint} and inbound is not null`.execute(db)
  return rows[0]?.due === true
}

/** The next look is due at once. */
export async function makeDue(tx: Tx, endpoint: string): Promise<void> {
  await tx.updateTable('endpoints').set({ poll_due_at: null }).where('name', '=', endpoint).execute()
}

/** A look has ended; when the next one is due, and what went wrong. */
export async function notePolled(
  tx: Tx,
  endpoint: string,
  due: Date,
  problem: GatewayError | undefined,
): Promise<void> {
  const said = { poll_error_code: problem?.code ?? null, poll_error: problem?.message ?? null }
  await tx
    .updateTable('endpoints')
    .set({ poll_due_at: due, polled_at: sql<Date>`now()`, ...said })
    .where('name', '=', endpoint)
    .execute()
}

/** Endpoints that are looked at, and when the next time is. */
export async function findPolled(
  db: Executor,
): Promise<readonly { readonly name: string; readonly due: Date | null }[]> {
  return await db
    .selectFrom('endpoints')
    .select(['name', 'poll_due_at as due'])
    .where('inbound', 'is not', null)
    .execute()
}
