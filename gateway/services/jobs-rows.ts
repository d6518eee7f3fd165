/** The rows of the gateway's own jobs: each change of state is one statement that says from which it may come. */
import { type RawBuilder, sql } from 'kysely'
import type { Db, Tx } from '../db/db.ts'
import type { BackgroundJobState } from '../db/schema.ts'
import { decode, isObject, object, record, text } from '../decode.ts'
import { GatewayError } from '../errors.ts'

/** What a job tells about itself: ids, UIDs and counts, no patient data. */
export type JobContent = Readonly<Record<string, unknown>>

/** A file that a job has made, under its key. */
export interface JobOutput {
  /** Media type. */
  readonly type: string
  readonly filename: string
}

/** One job, as people see it. */
export interface Job {
  readonly id: string
  readonly type: string
  readonly state: BackgroundJobState
  readonly priority: number
  readonly permissive: boolean
  readonly parameters: unknown
  readonly content: JobContent
  readonly outputs: Readonly<Record<string, JobOutput>>
  /** 0 to 100. */
  readonly progress: number
  /** A code of gateway/errors.ts, or `CANCELLED`, `INTERRUPTED`, `INTERNAL`. */
  readonly errorCode: string | null
  readonly error: string | null
  readonly requestedBy: string
  readonly requestedFrom: string | null
  /** Time spent running, in milliseconds. */
  readonly runtimeMs: number
  readonly createdAt: Date
  readonly endedAt: Date | null
}

/** What is stored of a new job. */
export interface NewJob {
  readonly id: string
  readonly type: string
  readonly priority: number
  readonly permissive: boolean
  readonly parameters: unknown
  readonly content: JobContent
  readonly requestedBy: string
  readonly requestedFrom: string | undefined
}

/** Why a job ended without success. */
export interface JobFailure {
  readonly code: string
  readonly message: string
}

/** Stores a job that waits to be run. */
export async function insertJob(tx: Tx, job: NewJob): Promise<void> {
  await tx
    .insertInto('background_jobs')
    .values({
      id: job.id,
      type: job.type,
      priority: job.priority,
      permissive: job.permissive,
      parameters: job.parameters === undefined ? null : JSON.stringify(job.parameters),
      content: JSON.stringify(job.content),
      requested_by: job.requestedBy,
      requested_from: job.requestedFrom ?? null,
    })
    .execute()
}

/** Ends a job that was never to be run. */
export async function endJob(tx: Tx, id: string, failure: JobFailure | undefined): Promise<void> {
  await sql`
    update background_jobs set state = ${failure ? 'failure' : 'success'}, progress = 100, ended_at = clock_timestamp(),
           error_code = ${failure?.code ?? null}, error = ${failure?.message ?? null}
     where id = ${id}::uuid
  `.execute(tx)
}

/** How many jobs have not ended. */
export async function countOpenJobs(tx: Tx): Promise<number> {
  const { rows } = await sql<{ open: number }>`
    select count(*) as open from background_jobs where ended_at is null
  `.execute(tx)
  return rows[0]?.open ?? 0
}

/** Jobs by id, or all of them, in ascending order of id. */
export async function loadJobs(db: Db, ids?: readonly string[]): Promise<Job[]> {
  return await select(db, ids ? sql`where id = any(${ids}::uuid[]) order by id` : sql`order by id`)
}

/** Claims a job for running; undefined when it must not run. Repeatable: a run that died left it `running`. */
export async function claimJob(db: Db, id: string): Promise<Job | undefined> {
  const { numAffectedRows } = await sql`
    update background_jobs set state = 'running', started_at = clock_timestamp()
     where id = ${id}::uuid and state in ('pending', 'running')
  `.execute(db.kysely)
  return numAffectedRows ? (await loadJobs(db, [id]))[0] : undefined
}

/** Notes how far a job is; also for one that was paused while it noted. */
export async function noteProgress(
  db: Db,
  id: string,
  progress: number,
  content: JobContent | undefined,
): Promise<void> {
  await sql`
    update background_jobs set progress = ${progress},
           content = content || ${JSON.stringify(content ?? {})}::jsonb
     where id = ${id}::uuid and state in ('running', 'paused')
  `.execute(db.kysely)
}

/** Ends a running job; false when somebody has paused or cancelled it meanwhile. */
export async function succeedJob(
  db: Db,
  id: string,
  content: JobContent,
  outputs: Readonly<Record<string, JobOutput>>,
): Promise<boolean> {
  const { numAffectedRows } = await sql`
    update background_jobs set state = 'success', progress = 100, content = content || ${JSON.stringify(content)}::jsonb,
           outputs = ${JSON.stringify(outputs)}::jsonb, error_code = null, error = null, ${leaving}
     where id = ${id}::uuid and state = 'running'
  `.execute(db.kysely)
  return Boolean(numAffectedRows)
}

/** Ends a job in one of these states as failed; false when it is in another. */
export async function failJob(
  db: Db | Tx,
  id: string,
  failure: JobFailure,
  from: readonly BackgroundJobState[],
): Promise<boolean> {
  const { numAffectedRows } = await sql`
    update background_jobs set state = 'failure', error_code = ${failure.code}, error = ${failure.message}, ${leaving}
     where id = ${id}::uuid and state = any(${from}::text[])
  `.execute('kysely' in db ? db.kysely : db)
  return Boolean(numAffectedRows)
}

/** Pauses a job that waits or runs. */
export async function pauseJob(tx: Tx, id: string): Promise<boolean> {
  const { numAffectedRows } = await sql`
    update background_jobs set state = 'paused', runtime_ms = runtime_ms + ${sinceStart}, started_at = null
     where id = ${id}::uuid and state in ('pending', 'running')
  `.execute(tx)
  return Boolean(numAffectedRows)
}

/** Lets a paused (`resume`) or failed (`resubmit`) job wait to be run again; its priority, or undefined. */
export async function requeueJob(tx: Tx, id: string, from: 'paused' | 'failure'): Promise<number | undefined> {
  const { rows } = await sql<{ priority: number }>`
    update background_jobs set state = 'pending', error_code = null, error = null, ended_at = null, outputs = '{}',
           progress = case when ${from} = 'failure' then 0 else progress end,
           runtime_ms = case when ${from} = 'failure' then 0 else runtime_ms end
     where id = ${id}::uuid and state = ${from}
    returning priority
  `.execute(tx)
  return rows[0]?.priority
}

/** Forgets one output; false when there is none under this key. */
export async function forgetOutput(tx: Tx, id: string, key: string): Promise<boolean> {
  const { numAffectedRows } = await sql`
    update background_jobs set outputs = outputs - ${key}::text where id = ${id}::uuid and jsonb_exists(outputs, ${key})
  `.execute(tx)
  return Boolean(numAffectedRows)
}

/**
 * Removes the oldest ended jobs beyond `keep`, and the outputs of those that ended before; ids of the former. Each is
 * kept for a minute, so that who waited for it finds its end.
 *
 * @param archivesKept  so many archives and media are kept, the newest; undefined: all
 */
export async function pruneJobs(
  db: Db,
  keep: number,
  outputsBefore: Date,
  archivesKept: number | undefined,
): Promise<string[]> {
  const { rows } = await sql<{ id: string }>`
    delete from background_jobs where id in (
      select id from background_jobs where ended_at is not null order by ended_at desc, id offset ${keep})
       and ended_at < clock_timestamp() - interval '1 minute'
    returning id
  `.execute(db.kysely)
  await sql`
    update background_jobs set outputs = '{}' where ended_at < ${outputsBefore} and outputs <> '{}'
  `.execute(db.kysely)
  if (archivesKept !== undefined) {
    await sql`
      update background_jobs set outputs = '{}' where outputs <> '{}' and id in (
        select id from background_jobs where type in ('Archive', 'Media') and outputs <> '{}'
         order by ended_at desc, id offset ${archivesKept})
    `.execute(db.kysely)
  }
  return rows.map(row => row.id)
}

const sinceStart = sql`coalesce(extract(epoch from clock_timestamp() - started_at) * 1000, 0)::bigint`
const leaving = sql`runtime_ms = runtime_ms + ${sinceStart}, started_at = null, ended_at = clock_timestamp()`

const outputsDecoder = record(object({ type: text({ max: 256 }), filename: text({ max: 256 }) }))

async function select(db: Db, rest: RawBuilder<unknown>): Promise<Job[]> {
  const { rows } = await sql<
    Omit<Job, 'content' | 'outputs'> & { readonly content: unknown; readonly outputs: unknown }
  >`
    select id, type, state, priority, permissive, parameters, content, outputs, progress, error_code as "errorCode",
           error, requested_by as "requestedBy", requested_from as "requestedFrom",
           runtime_ms + ${sinceStart} as "runtimeMs", created_at as "createdAt", ended_at as "endedAt"
      from background_jobs ${rest}
  `.execute(db.kysely)
  return rows.map(({ content, outputs, ...row }) => {
    const decoded = decode(outputsDecoder, outputs)
    if (!decoded.ok || !isObject(content)) throw new GatewayError('BAD_REQUEST', 'a stored job cannot be read')
    return { ...row, content, outputs: decoded.value }
  })
}
