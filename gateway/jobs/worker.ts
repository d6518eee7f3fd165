/** One lane's claim loop: claims up to its concurrency, runs handlers, settles each outcome. */
import { setTimeout as delay } from 'node:timers/promises'
import type { PgBoss } from 'pg-boss'
import { decode, describeExpected } from '../decode.ts'
import { GatewayError, isGatewayError } from '../errors.ts'
import type { Log } from '../log.ts'
import { type Jobs, type Lane, lanes } from './lanes.ts'

/** What a handler learns beside its data. */
export interface JobInfo {
  readonly id: string
  /** 1 for the first run. */
  readonly attempt: number
}
export type Handler<L extends Lane> = (data: Jobs[L], signal: AbortSignal, job: JobInfo) => Promise<void>

/** A job and the attempt that holds it: what settling is fenced on. */
export interface ClaimedJob {
  readonly id: string
  readonly retryCount: number
}

export interface Worker {
  readonly lane: Lane
  /** Claims until the lane is drained or full. */
  pump(): void
  /** Resolves when no claim is under way; none starts until `resume`. */
  pause(): Promise<void>
  resume(): void
  /** Refreshes heartbeats; aborts handlers whose claim has gone. */
  touch(): Promise<void>
  running(): readonly ClaimedJob[]
  close(deadlineMs: number): Promise<void>
}

/** Longer than any sane run, shorter than pg-boss's expiry of 24 h. */
const maxRunMs = 12 * 3600 * 1000

type Outcome = 'completed' | 'again' | 'given-back' | 'given-up'
interface Run extends ClaimedJob {
  readonly abort: AbortController
  done: Promise<void>
}

/** Creates a lane's worker; nothing runs before the first `pump`. */
export function createWorker<L extends Lane>(options: {
  boss: PgBoss
  lane: L
  concurrency: number
  handler: Handler<L>
  log: Log
  /** Gives jobs back to be run again at once. */
  release: (jobs: readonly ClaimedJob[]) => Promise<void>
  /** When the next job that waits for its time is due (epoch ms); soon enough should none be. */
  findNextDue: () => Promise<number>
  /** Pumps every lane at that instant at the latest. */
  sleepUntil: (instant: number) => void
}): Worker {
  const { boss, lane, concurrency, handler, release, findNextDue, sleepUntil } = options
  const log = options.log.child({ lane })
  const runs = new Map<string, Run>()
  const closing = new AbortController()
  let paused = 0
  let pumping: Promise<void> | undefined
  let again = false

  const pump = (): void => {
    again = true
    if (pumping || paused > 0 || closing.signal.aborted) return
    pumping = claim().finally(() => {
      pumping = undefined
      if (again) pump()
    })
  }

  const claim = async (): Promise<void> => {
    while (again && paused === 0 && !closing.signal.aborted) {
      again = false
      try {
        // Asked first: what becomes due meanwhile is claimed, what is due later has its timer.
        const nextDue = await findNextDue()
        await claimUntilFull()
        sleepUntil(nextDue)
      } catch (error) {
        // The database is away or refuses: the jobs wait there, and so do we.
        log.debug({ error: nameOf(error) }, 'cannot claim jobs')
        await delay(1000, undefined, { signal: closing.signal }).catch(() => undefined)
        again = true
      }
    }
  }

  const claimUntilFull = async (): Promise<void> => {
    while (paused === 0 && !closing.signal.aborted) {
      const free = concurrency - runs.size
      if (free <= 0) return
      const jobs = await boss.fetch<unknown>(lane, { batchSize: free })
      if (jobs.length === 0) return
      for (const job of jobs) start(job)
    }
  }

  const start = (job: ClaimedJob & { readonly data: unknown }): void => {
    // The same job again while an earlier attempt, whose claim was lost, still runs here: one after the other.
    const before = runs.get(job.id)
    before?.abort.abort(new Error('claim lost'))
    const current: Run = {
      id: job.id,
      retryCount: job.retryCount,
      abort: new AbortController(),
      done: Promise.resolve(),
    }
    current.done = (before?.done ?? Promise.resolve())
      .then(() => run(current, job.data))
      .catch(error => log.error({ job: job.id, error: nameOf(error) }, 'job could not be settled'))
      .finally(() => {
        if (runs.get(job.id) === current) runs.delete(job.id)
        pump()
      })
    runs.set(job.id, current)
  }

  const run = async (job: Run, data: unknown): Promise<void> => {
    const signal = AbortSignal.any([job.abort.signal, closing.signal])
    const limit = setTimeout(() => job.abort.abort(new Error('ran too long')), maxRunMs).unref()
    try {
      await handler(decodeData(lane, data), signal, { id: job.id, attempt: job.retryCount + 1 })
      await settle(job, 'completed')
    } catch (error) {
      if (closing.signal.aborted) return await settle(job, 'given-back')
      const final = isGatewayError(error) && error.meaning.retry === 'no'
      const context = { job: job.id, attempt: job.retryCount + 1, ...describeError(error) }
      if (final) log.error(context, 'job given up')
      else log.warn(context, 'job failed, will be run again')
      await settle(job, final ? 'given-up' : 'again', error)
    } finally {
      clearTimeout(limit)
    }
  }

  // While the database is away the outcome is kept and told when it is back.
  const settle = async (job: ClaimedJob, outcome: Outcome, error?: unknown): Promise<void> => {
    const attempt = { id: job.id, retryCount: job.retryCount }
    for (let waitMs = 100; ; waitMs = Math.min(5000, waitMs * 2)) {
      try {
        if (outcome === 'completed') await boss.complete(lane, attempt)
        else if (outcome === 'again') await boss.fail(lane, attempt, describeError(error))
        else if (outcome === 'given-up') await boss.cancel(lane, attempt)
        else await release([job])
        return
      } catch (cause) {
        if (closing.signal.aborted) throw cause
        await delay(waitMs, undefined, { signal: closing.signal }).catch(() => undefined)
      }
    }
  }

  return {
    lane,
    pump,
    running: () => [...runs.values()],
    async pause() {
      paused += 1
      await pumping
    },
    resume() {
      paused -= 1
      pump()
    },
    async touch() {
      const held = [...runs.values()]
      if (held.length === 0) return
      const refreshed = await boss
        .touch(
          lane,
          held.map(job => ({ id: job.id, retryCount: job.retryCount })),
        )
        .then(settledIds)
        .catch(() => undefined)
      // A heartbeat that could not be sent says nothing about the claims.
      if (refreshed) for (const job of held) if (!refreshed.has(job.id)) job.abort.abort(new Error('claim lost'))
    },
    async close(deadlineMs) {
      closing.abort(new Error('closing'))
      await pumping
      const deadline = new AbortController()
      await Promise.race([
        Promise.all([...runs.values()].map(job => job.done)),
        delay(deadlineMs, undefined, { signal: deadline.signal }).catch(() => undefined),
      ])
      deadline.abort()
      if (runs.size === 0) return
      log.warn({ jobs: runs.size }, 'jobs did not end in time and are given back')
      await release([...runs.values()]).catch(() => undefined)
    },
  }
}

function decodeData<L extends Lane>(lane: L, raw: unknown): Jobs[L] {
  const decoded = decode(lanes[lane], raw)
  if (!decoded.ok) throw new GatewayError('BAD_REQUEST', `job data: ${describeExpected(decoded.problems)}`)
  return decoded.value
}

/** The ids that a settling call reports at run time; its declared type keeps them to itself. */
function settledIds(response: object): ReadonlySet<unknown> | undefined {
  return 'settled' in response && Array.isArray(response.settled) ? new Set(response.settled) : undefined
}

const nameOf = (error: unknown): string => (error instanceof Error ? error.name : typeof error)

/** What may be logged and stored of an error: code and message of ours, of others only name and place. */
function describeError(error: unknown): Record<string, string> {
  if (isGatewayError(error)) return { code: error.code, message: error.message }
  const place = error instanceof Error ? error.stack?.split('\n').find(line => line.startsWith('    at ')) : undefined
  return { error: nameOf(error), ...(place && { at: place.trim().slice(3) }) }
}
