/**
 * Long work that somebody asks for inside the gateway: modifications, anonymizations, archives. Each is a
 * row with its progress and a job of the queue, which bounds how many run and takes up what a killed process
 * left. Work that was handed over as a function ends as interrupted with its process; work of a defined type
 * is made again from its stored parameters and must not mind what an earlier run has done.
 */

import { randomUUID } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import { authorize } from '../../policy/authorize.ts'
import { type AuditEvent, eventTypes, securityAlert } from '../audit/event.ts'
import { appendAudits } from '../audit/log.ts'
import type { Db } from '../db/db.ts'
import { type ErrorCode, errorLine, errorTable, GatewayError, isGatewayError } from '../errors.ts'
import type { Queue } from '../jobs/queue.ts'
import type { Log } from '../log.ts'
import { onBehalfOf, type Principal } from '../principal.ts'
import type { OpenBlob } from '../store/blob-reader.ts'
import { JobFiles } from './jobs-files.ts'
import {
  claimJob,
  countOpenJobs,
  endJob,
  failJob,
  forgetOutput,
  insertJob,
  type Job,
  type JobContent,
  type JobFailure,
  type JobOutput,
  loadJobs,
  noteProgress,
  pauseJob,
  pruneJobs,
  requeueJob,
  succeedJob,
} from './jobs-rows.ts'

/** Tells how much of the work is done, and what the job's content says now. Cheap: written once a second. */
export type JobProgress = (done: number, total: number, content?: JobContent) => void

/** What a job has come to: fields for its content, and files that it wrote to `place`. */
export interface JobResult {
  readonly content?: JobContent
  readonly outputs?: Readonly<Record<string, JobOutput>>
}

/** Gives the path to write the output of this key to. */
export type JobPlace = (key: string) => Promise<string>

/**
 * The work itself. It stops when the signal aborts (cancelled, paused, gateway stopping) and is begun anew
 * when the job is resumed or resubmitted.
 */
export type JobWork = (progress: JobProgress, signal: AbortSignal, place: JobPlace) => Promise<JobResult>

/** Makes the work of a job again from its stored parameters. @throws GatewayError when they cannot be read */
export type JobDefinition = (job: {
  readonly id: string
  readonly principal: Principal
  readonly permissive: boolean
  readonly parameters: unknown
}) => JobWork

/** What somebody wants done. */
export interface JobRequest {
  /** Orthanc's name of the kind, such as `ResourceModification`. */
  readonly type: string
  readonly description: string
  /** Higher first. */
  readonly priority?: number
  /** Goes on with the rest when one item fails. */
  readonly permissive?: boolean
  readonly content?: JobContent
  /** JSON from which a defined type makes the work; stored. */
  readonly parameters?: unknown
  /** Committed with the job. */
  readonly audit?: readonly AuditEvent[]
}

/** An output that is being read. */
export interface OpenOutput {
  readonly file: OpenBlob
  readonly output: JobOutput
  /** Another one for other bytes. */
  readonly tag: string
}

/** Plans, runs and shows jobs. */
export interface BackgroundJobs {
  /** Sets how jobs of a type are made; before `start`. */
  define(type: string, definition: JobDefinition): void
  /**
   * Plans a job; without `work` its type must be defined.
   *
   * @returns its id
   * @throws GatewayError TOO_MANY_REQUESTS when too many wait
   */
  submit(principal: Principal, request: JobRequest, work?: JobWork): Promise<string>
  /** Keeps work that has ended already among the jobs; it was not theirs to run. */
  note(
    by: { readonly id: string; readonly address?: string },
    request: Omit<JobRequest, 'parameters'>,
    failure?: JobFailure,
  ): Promise<void>
  /** Resolves when the job has ended, however. @throws GatewayError NOT_FOUND when it is no longer known */
  ended(id: string, signal?: AbortSignal): Promise<Job>
  /** All that are known, in ascending order of id. */
  list(): Promise<Job[]>
  /** One of them; undefined when there is none. */
  load(id: string): Promise<Job | undefined>
  /** Each is true when it was done or needs not be done, false when the job is not in a state for it, or unknown. */
  pause(principal: Principal, id: string): Promise<boolean>
  resume(principal: Principal, id: string): Promise<boolean>
  cancel(principal: Principal, id: string): Promise<boolean>
  resubmit(principal: Principal, id: string): Promise<boolean>
  /** Opens an output, which the caller closes; audited. @throws GatewayError NOT_FOUND */
  openOutput(principal: Principal, id: string, key: string): Promise<OpenOutput>
  /** Removes an output. @throws GatewayError NOT_FOUND */
  removeOutput(principal: Principal, id: string, key: string): Promise<void>
  /** Lets the queue run jobs, when all types are defined. */
  start(): void
  /** Removes files and outputs whose time is over. */
  sweep(): Promise<void>
}

const mostOpen = 10_000
const progressEveryMs = 1_000
const outputsKeptMs = 24 * 3_600_000
/** Should the end of a job be noticed by another process only. */
const lookEveryMs = 2_000

const uuid = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/

/**
 * Opens the jobs.
 *
 * @param concurrency  how many run at the same time
 * @param historySize  how many ended ones are kept
 * @param archivesKept  of how many archives and media the files are kept; undefined: of all, for their time
 */
export function openBackgroundJobs(options: {
  readonly db: Db
  readonly queue: Queue
  readonly log: Log
  readonly dataDir: string
  readonly concurrency: number
  readonly historySize: number
  readonly archivesKept?: number | undefined
}): BackgroundJobs {
  const { db, queue, concurrency, historySize, archivesKept } = options
  const log = options.log.child({ part: 'background-jobs' })
  const files = new JobFiles(options.dataDir)
  const definitions = new Map<string, JobDefinition>()
  /** Work that exists as a function only: until its job has succeeded or is forgotten. */
  const handed = new Map<string, JobWork>()
  const running = new Map<string, AbortController>()
  const waiting = new Map<string, PromiseWithResolvers<void>>()

  const workOf = (job: Job): JobWork | undefined => {
    const { id, permissive, parameters, requestedBy, requestedFrom } = job
    const principal = { ...onBehalfOf(requestedBy), ...(requestedFrom !== null && { address: requestedFrom }) }
    return handed.get(id) ?? definitions.get(job.type)?.({ id, principal, permissive, parameters })
  }

  const tellEnd = (id: string): void => {
    waiting.get(id)?.resolve()
    waiting.delete(id)
  }

  const enqueue = async (tx: Parameters<Queue['enqueue']>[0], id: string, priority: number): Promise<void> =>
    await queue.enqueue(tx, 'background-job', { job: id }, { singletonKey: id, priority })

  const prune = async (): Promise<void> => {
    const gone = await pruneJobs(db, historySize, new Date(Date.now() - outputsKeptMs), archivesKept)
    for (const id of gone) {
      handed.delete(id)
      await files.remove(id)
    }
  }

  const run = async (id: string, signal: AbortSignal): Promise<void> => {
    const job = await claimJob(db, id)
    if (!job) return
    const stop = new AbortController()
    running.set(id, stop)
    try {
      await perform(job, AbortSignal.any([signal, stop.signal]))
      handed.delete(id)
    } catch (error) {
      if (stop.signal.aborted) return
      if (signal.aborted) throw error
      await failJob(db, id, failureOf(error), ['running'])
      log.warn({ job: id, type: job.type, cause: errorLine(error) }, 'job failed')
    } finally {
      running.delete(id)
    }
    tellEnd(id)
    await prune()
  }

  const perform = async (job: Job, signal: AbortSignal): Promise<void> => {
    const work = workOf(job)
    if (!work) throw new Interrupted()
    let told = performance.now()
    let telling: Promise<void> = Promise.resolve()
    const progress: JobProgress = (done, total, content) => {
      if (performance.now() - told < progressEveryMs) return
      told = performance.now()
      const percent = total > 0 ? Math.min(99, Math.floor((100 * done) / total)) : 0
      telling = telling.then(() => noteProgress(db, job.id, percent, content)).catch(() => undefined)
    }
    try {
      const { content = {}, outputs = {} } = await work(progress, signal, key => files.place(job.id, key))
      await telling
      await files.sync(job.id, Object.keys(outputs))
      await succeedJob(db, job.id, content, outputs)
      log.info({ job: job.id, type: job.type }, 'job ended')
    } finally {
      await telling
    }
  }

  const load = async (id: string): Promise<Job | undefined> =>
    uuid.test(id) ? (await loadJobs(db, [id]))[0] : undefined

  /** Changes a job's state with its audit event; `change` says whether it did. */
  const control = async (
    principal: Principal,
    id: string,
    what: string,
    change: (tx: Parameters<Queue['enqueue']>[0]) => Promise<boolean>,
  ): Promise<boolean> => {
    if (!uuid.test(id)) return false
    return await db.inTransaction(async tx => {
      const isChanged = await change(tx)
      if (isChanged) await appendAudits(tx, [controlled(principal, id, what)])
      return isChanged
    })
  }

  const requeue = async (principal: Principal, id: string, from: 'paused' | 'failure'): Promise<boolean> => {
    authorize(principal, 'job.control')
    const job = await load(id)
    if (!job || !workOf(job)) return false
    return await control(principal, id, from === 'paused' ? 'job-resumed' : 'job-resubmitted', async tx => {
      const priority = await requeueJob(tx, id, from)
      if (priority === undefined) return false
      await enqueue(tx, id, priority)
      return true
    })
  }

  const isEnded = async (id: string): Promise<boolean> => Boolean((await load(id))?.endedAt)

  return {
    define(type, definition) {
      definitions.set(type, definition)
    },

    async submit(principal, request, work) {
      const { type, priority = 0, permissive = false, content = {}, parameters, audit = [], description } = request
      if (!work && !definitions.has(type)) throw new Error(`nobody has defined jobs of type ${type}`)
      const id = randomUUID()
      if (work) handed.set(id, work)
      try {
        await db.inTransaction(async tx => {
          if ((await countOpenJobs(tx)) >= mostOpen) {
            throw new GatewayError('TOO_MANY_REQUESTS', `${mostOpen} jobs are waiting already`)
          }
          await insertJob(tx, {
            id,
            type,
            priority,
            permissive,
            parameters,
            content: { Description: description, ...content },
            requestedBy: principal.id,
            requestedFrom: principal.address,
          })
          await appendAudits(tx, audit)
          await enqueue(tx, id, priority)
        })
      } catch (error) {
        handed.delete(id)
        throw error
      }
      return id
    },

    async note(by, { type, priority = 0, permissive = false, content = {}, audit = [], description }, failure) {
      await db.inTransaction(async tx => {
        const [requestedBy, requestedFrom] = [by.id, by.address]
        const id = randomUUID()
        const told = { Description: description, ...content }
        await insertJob(tx, {
          id,
          type,
          priority,
          permissive,
          parameters: undefined,
          content: told,
          requestedBy,
          requestedFrom,
        })
        await endJob(tx, id, failure)
        await appendAudits(tx, audit)
      })
      await prune()
    },

    async ended(id, signal) {
      for (;;) {
        const end = waiting.get(id) ?? Promise.withResolvers<void>()
        waiting.set(id, end)
        const job = await load(id)
        if (!job) throw new GatewayError('NOT_FOUND', 'no such job')
        if (job.endedAt) {
          waiting.delete(id)
          return job
        }
        const timer = new AbortController()
        const either = signal ? AbortSignal.any([signal, timer.signal]) : timer.signal
        await Promise.race([end.promise, delay(lookEveryMs, undefined, { signal: either }).catch(() => undefined)])
        timer.abort()
        signal?.throwIfAborted()
      }
    },

    list: () => loadJobs(db),
    load,

    async pause(principal, id) {
      authorize(principal, 'job.control')
      const isPaused = await control(principal, id, 'job-paused', tx => pauseJob(tx, id))
      if (isPaused) running.get(id)?.abort(new GatewayError('STATE_CONFLICT', 'the job was paused'))
      return isPaused || (await isEnded(id))
    },

    resume: (principal, id) => requeue(principal, id, 'paused'),
    resubmit: (principal, id) => requeue(principal, id, 'failure'),

    async cancel(principal, id) {
      authorize(principal, 'job.control')
      const failure = { code: 'CANCELLED', message: 'the job was cancelled' }
      const isCancelled = await control(principal, id, 'job-cancelled', tx =>
        failJob(tx, id, failure, ['pending', 'running', 'paused']),
      )
      if (!isCancelled) return await isEnded(id)
      running.get(id)?.abort(new GatewayError('STATE_CONFLICT', failure.message))
      tellEnd(id)
      await prune()
      return true
    },

    async openOutput(principal, id, key) {
      authorize(principal, 'job.read')
      const job = await load(id)
      const output = Object.entries(job?.outputs ?? {}).find(([name]) => name === key)?.[1]
      if (!output) throw new GatewayError('NOT_FOUND', 'the job has no such output')
      const file = await files.open(id, key)
      try {
        await control(principal, id, 'job-output-read', async () => true)
      } catch (error) {
        await file.close()
        throw error
      }
      return { file, output, tag: `${id}-${key}-${job?.endedAt?.getTime()}` }
    },

    async removeOutput(principal, id, key) {
      authorize(principal, 'job.control')
      const isGone = await control(principal, id, 'job-output-removed', tx => forgetOutput(tx, id, key))
      if (!isGone) throw new GatewayError('NOT_FOUND', 'the job has no such output')
      await files.remove(id, key)
    },

    start() {
      queue.work('background-job', { concurrency }, ({ job }, signal) => run(job, signal))
    },

    async sweep() {
      await prune()
      const wanted = new Set((await loadJobs(db)).filter(keepsFiles).map(job => job.id))
      await files.sweep(id => wanted.has(id) || running.has(id))
    },
  }
}

const keepsFiles = (job: Job): boolean => job.endedAt === null || Object.keys(job.outputs).length > 0

/** The job's work has gone with the process that it was handed to. */
class Interrupted extends Error {}

/** What a caller that waited for a failed job is told. */
export function errorOfJob({ errorCode, error }: Job): Error {
  const code = isErrorCode(errorCode) ? errorCode : undefined
  if (code) return new GatewayError(code, error ?? 'the job failed')
  return errorCode === 'INTERNAL'
    ? new Error('the job failed')
    : new GatewayError('STATE_CONFLICT', error ?? 'the job failed')
}

const isErrorCode = (code: string | null): code is ErrorCode => code !== null && Object.hasOwn(errorTable, code)

function failureOf(error: unknown): { code: string; message: string } {
  if (error instanceof Interrupted) return { code: 'INTERRUPTED', message: 'the gateway was restarted meanwhile' }
  if (isGatewayError(error)) return { code: error.code, message: error.message }
  return { code: 'INTERNAL', message: 'internal error' }
}

function controlled({ id, address }: Principal, job: string, reason: string): AuditEvent {
  return securityAlert({
    type: eventTypes.restrictedFunction,
    reason,
    participants: [{ userId: id, requestor: true, ...(address !== undefined && { address }) }],
    detail: { job },
  })
}
