/**
 * The job queue: pg-boss's tables and statements, our own claim loop.
 *
 * - Enqueue happens in the caller's transaction; NOTIFY wakes the lane when it commits.
 * - At least once: a handler may meet work that an earlier run has finished, and must not mind.
 * - Two jobs of a lane with the same `singletonKey` never run at the same time. A second one may wait
 *   behind the first: swallowing it would lose a wake-up whose facts the running job has not seen.
 * - Orphans of a killed process are taken up as soon as a session finds itself alone (`db/session.ts`),
 *   at start-up and after the database was lost; beside other living processes, when the heartbeat of
 *   the job has been missing for `heartbeatSeconds`.
 *
 * Not pg-boss's `work()`: at batch size 1 it sleeps out its poll with a backlog waiting (each NOTIFY
 * that arrives while a job runs is one bit, not a count), it fails jobs at shutdown where they should
 * go back, and it neither knows an orphan nor an error that must not be retried.
 */
import { randomUUID } from 'node:crypto'
import { sql } from 'kysely'
import { fromKysely, PgBoss } from 'pg-boss'
import type { Db, Tx } from '../db/db.ts'
import { type Connection, openSession } from '../db/session.ts'
import { GatewayError } from '../errors.ts'
import type { Log } from '../log.ts'
import { type Jobs, type Lane, laneNames } from './lanes.ts'
import { type ClaimedJob, createWorker, type Handler, type Worker } from './worker.ts'

export interface EnqueueOptions {
  /** Jobs of a lane with the same key run one after the other. */
  readonly singletonKey?: string
  /** Not before this instant. */
  readonly startAfter?: Date
  /** Higher first; 0 by default. */
  readonly priority?: number
}

export interface Queue {
  /** Adds a job in the caller's transaction: it exists when, and only when, that commits. */
  enqueue<L extends Lane>(tx: Tx, lane: L, data: Jobs[L], options?: EnqueueOptions): Promise<void>
  /**
   * Runs a lane's jobs, at most `concurrency` at a time. A handler that throws is run again after a
   * growing pause (1 s to 15 min), except for a GatewayError whose meaning says `retry: 'no'`. Its
   * signal aborts when the queue closes, when the claim is lost, and after `maxRunMs` (12 h).
   */
  work<L extends Lane>(lane: L, options: { concurrency: number }, handler: Handler<L>): void
  /** For health: is the database session up, and how many handlers run? */
  state(): { readonly connected: boolean; readonly running: number }
  /** Claims nothing more, aborts the handlers' signals, waits for them, gives back what did not end. */
  close(options?: { deadlineMs?: number }): Promise<void>
}

const channel = 'hanse_jobs'
const heartbeatSeconds = 60
const heartbeatEveryMs = 20_000
/** A lane looks for due jobs at least this often, should a NOTIFY be lost; and when not connected. */
const pollMs = { connected: 30_000, disconnected: 1000 }

/** Opens the queue: installs or migrates pg-boss's schema, creates the lanes, takes up orphans. */
export async function openQueue(options: { db: Db; log: Log }): Promise<Queue> {
  const { db } = options
  const connection = connectionOf(db)
  const log = options.log.child({ part: 'jobs' })
  const boss = await startBoss(connection, log)

  const workers = new Map<Lane, Worker>()
  let closed = false
  let recovery: Promise<void> | undefined
  let nextDue: { readonly at: number; readonly timer: NodeJS.Timeout } | undefined
  let retryRecovery: NodeJS.Timeout | undefined

  const wake = (lane: string): void => {
    for (const worker of workers.values()) if (lane === '' || worker.lane === lane) worker.pump()
  }

  // Jobs that start later, retries among them: sleep until the earliest, not in a poll.
  const sleepUntil = (instant: number): void => {
    if (closed || (nextDue && nextDue.at <= instant)) return
    clearTimeout(nextDue?.timer)
    const timer = setTimeout(() => {
      nextDue = undefined
      wake('')
    }, instant - Date.now())
    nextDue = { at: instant, timer }
  }
  const findNextDue = async (): Promise<number> => {
    const dueMs = (await nextDueMs(db)) ?? Number.POSITIVE_INFINITY
    return Date.now() + Math.min(session.connected ? pollMs.connected : pollMs.disconnected, Math.max(10, dueMs + 2))
  }

  // Serialised with claiming: a claim whose answer is still on its way must not look like an orphan.
  const recover = async (attempt = 0): Promise<void> => {
    if (closed) return
    clearTimeout(retryRecovery)
    const held = [...workers.values()]
    let alone = false
    try {
      await Promise.all(held.map(worker => worker.pause()))
      alone = await session.isAlone()
      if (alone) {
        const released = await releaseOrphans(
          db,
          held.flatMap(worker => worker.running()),
        )
        if (released > 0) log.info({ jobs: released }, 'took up jobs that a killed process left behind')
      }
    } catch {
      // The database went away again: the next connect recovers.
    } finally {
      for (const worker of held) worker.resume()
    }
    // Not alone: a process that was just killed, or another node. The latter's jobs have heartbeats.
    if (!alone && !closed) retryRecovery = setTimeout(startRecovery, Math.min(60_000, 200 * 2 ** attempt), attempt + 1)
  }
  const startRecovery = (attempt = 0): void => {
    recovery = (recovery ?? Promise.resolve()).then(() => recover(attempt))
  }

  let connectedOnce = false
  const session = await openSession({
    connection,
    channel,
    log,
    onNotification: wake,
    onConnected: () => {
      if (connectedOnce) startRecovery()
      connectedOnce = true
    },
  }).catch(async error => {
    await boss.stop({ graceful: false })
    throw unavailable(error)
  })
  await recover()

  const heartbeat = setInterval(() => {
    for (const worker of workers.values()) void worker.touch()
  }, heartbeatEveryMs)

  return {
    async enqueue(tx, lane, data, { singletonKey = randomUUID(), startAfter, priority } = {}) {
      await boss.send(lane, data, {
        db: fromKysely(tx),
        singletonKey,
        ...(startAfter && { startAfter }),
        ...(priority !== undefined && { priority }),
      })
      await sql`select pg_notify(${channel}, ${lane})`.execute(tx)
    },
    work(lane, { concurrency }, handler) {
      if (closed || workers.has(lane)) throw new Error(`lane ${lane} has its worker already, or the queue is closed`)
      const worker = createWorker({
        boss,
        lane,
        concurrency,
        handler,
        log,
        release: ids => release(db, ids),
        findNextDue,
        sleepUntil,
      })
      workers.set(lane, worker)
      worker.pump()
    },
    state() {
      let running = 0
      for (const worker of workers.values()) running += worker.running().length
      return { connected: session.connected, running }
    },
    async close({ deadlineMs = 10_000 } = {}) {
      if (closed) return
      closed = true
      clearTimeout(nextDue?.timer)
      clearTimeout(retryRecovery)
      await recovery
      await Promise.all([...workers.values()].map(worker => worker.close(deadlineMs)))
      clearInterval(heartbeat)
      clearTimeout(nextDue?.timer)
      await session.close()
      await boss.stop({ graceful: false })
    },
  }
}

/** The database's address without its pool's limits: pg-boss and the session set their own. */
function connectionOf({ poolConfig }: Db): Connection {
  const { host, port, user, database, password, connectionString, ssl } = poolConfig
  return {
    ...(connectionString !== undefined && { connectionString }),
    ...(host !== undefined && { host }),
    ...(port !== undefined && { port }),
    ...(user !== undefined && { user }),
    ...(database !== undefined && { database }),
    ...(password !== undefined && { password }),
    ...(ssl !== undefined && { ssl }),
  }
}

/** pg-boss with its own small pool and quiet, cheap maintenance; its errors are logged, never thrown. */
async function startBoss(connection: Connection, log: Log): Promise<PgBoss> {
  const boss = new PgBoss({
    ...connection,
    application_name: 'hanse jobs',
    max: 3,
    schedule: false,
    supervise: true,
    superviseIntervalSeconds: 60,
    monitorIntervalSeconds: 60,
    maintenanceIntervalSeconds: 3600,
    queueCacheIntervalSeconds: 3600,
    bamIntervalSeconds: 3600,
    flowIntervalSeconds: 3600,
    registerInstance: false,
    monitorVacuum: false,
    openTelemetry: { enabled: false },
  })
  // A lost connection makes pg-boss say so on every statement: once is enough until it is quiet again.
  let silentUntil = 0
  boss.on('error', error => {
    if (Date.now() < silentUntil) return
    silentUntil = Date.now() + 60_000
    log.warn({ error: error.name }, 'job queue maintenance failed; it goes on when the database is back')
  })
  boss.on('warning', warning => log.debug({ message: warning.message }, 'job queue maintenance warning'))
  try {
    await boss.start({ attempts: 3 })
    for (const lane of laneNames) {
      await boss.createQueue(lane, { policy: 'singleton' })
      await boss.updateQueue(lane, {
        heartbeatSeconds,
        expireInSeconds: 24 * 3600, // pg-boss's limit; a handler is told to stop long before
        retryLimit: 100_000, // a transfer's own expiry ends it, not a count
        retryDelay: 1,
        retryBackoff: true,
        retryDelayMax: 900,
        retentionSeconds: 90 * 24 * 3600,
        deleteAfterSeconds: 24 * 3600,
      })
    }
    return boss
  } catch (error) {
    await boss.stop({ graceful: false }).catch(() => undefined)
    throw unavailable(error)
  }
}

const unavailable = (cause: unknown): GatewayError =>
  new GatewayError('DATABASE_UNAVAILABLE', 'the job queue cannot reach its database', { cause })

// The three statements below read and write pg-boss's table directly, for it has no call for them.
// They use what its own `restoreJobs` and `fetchNextJob` use (12.38, pinned); the tests hold them.

/** Milliseconds until the earliest job that is waiting for its time; undefined when none is. */
async function nextDueMs(db: Db): Promise<number | undefined> {
  const { rows } = await sql<{ due: number | null }>`
    select (extract(epoch from min(start_after) - clock_timestamp()) * 1000)::float8 as due
      from pgboss.job where state < 'active' and start_after > now() and name = any(${laneNames})
  `.execute(db.kysely)
  return rows[0]?.due ?? undefined
}

/** Gives back every active job but those `held` here; how many that were. */
async function releaseOrphans(db: Db, held: readonly ClaimedJob[]): Promise<number> {
  const { numAffectedRows } = await sql`
    update pgboss.job set state = 'retry', start_after = now(), heartbeat_on = null
     where state = 'active' and name = any(${laneNames}) and not (id = any(${held.map(job => job.id)}::uuid[]))
  `.execute(db.kysely)
  return Number(numAffectedRows ?? 0)
}

/** Gives back these jobs to be run again at once, as far as they are still claimed by that attempt. */
async function release(db: Db, jobs: readonly ClaimedJob[]): Promise<void> {
  await sql`
    update pgboss.job set state = 'retry', start_after = now(), heartbeat_on = null
     where state = 'active' and (id, retry_count) in (
       select * from unnest(${jobs.map(job => job.id)}::uuid[], ${jobs.map(job => job.retryCount)}::int[]))
  `.execute(db.kysely)
}
