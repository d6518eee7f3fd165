/**
 * Long work with registered nodes: retrievals into our store and sends to a modality. Each is a row with
 * its progress and a job of the queue; it may be repeated at any point, since what has come already is a
 * duplicate, and what was sent already one at the receiver.
 */

import { randomUUID } from 'node:crypto'
import { sql } from 'kysely'
import { authorize } from '../../policy/authorize.ts'
import { beginTransferring } from '../audit/event.ts'
import { appendAudit } from '../audit/log.ts'
import type { Db, Tx } from '../db/db.ts'
import { decode, list, object, oneOf, optional, text } from '../decode.ts'
import { errorLine, GatewayError, isGatewayError } from '../errors.ts'
import type { Queue } from '../jobs/queue.ts'
import type { Log } from '../log.ts'
import type { Principal } from '../principal.ts'
import type {
  DicomNode,
  FindNode,
  NodeProgress,
  NodeResult,
  NodeTarget,
  RetrieveMethod,
  RetrievePurpose,
} from './dicom-node.ts'
import type { Retrieve } from './retrieve.ts'
import type { RetrieveKeys } from './retrieve-plan.ts'

/** One piece of work, as people see it. */
export interface ModalityJob {
  readonly id: string
  readonly kind: 'retrieve' | 'store'
  /** Symbolic name of the node. */
  readonly modality: string
  readonly keys: RetrieveKeys
  /** By which service; null lets the node's abilities decide. */
  readonly method: RetrieveMethod | null
  readonly purpose: RetrievePurpose
  readonly requestedBy: string
  readonly state: 'waiting' | 'running' | 'done' | 'failed' | 'cancelled'
  readonly completed: number
  readonly failed: number
  readonly warning: number
  readonly remaining: number | null
  readonly attempts: number
  readonly errorCode: string | null
  readonly error: string | null
  readonly createdAt: Date
  readonly updatedAt: Date
}

/** What somebody wants done. */
export interface ModalityJobRequest {
  readonly kind: ModalityJob['kind']
  readonly modality: string
  readonly keys: RetrieveKeys
  readonly method?: RetrieveMethod | undefined
}

/** Plans, runs and shows work with registered nodes. */
export interface ModalityJobs {
  /** @throws GatewayError NOT_FOUND for a modality that is not registered, BAD_REQUEST */
  request(principal: Principal, request: ModalityJobRequest): Promise<ModalityJob>
  /** Plans the retrieval of a study's prior, once; false when it is planned already. */
  requestPrior(
    tx: Tx,
    prior: {
      readonly study: number
      readonly modality: string
      readonly studyUid: string
      readonly rule: string
      readonly method?: RetrieveMethod | undefined
    },
  ): Promise<boolean>
  /** The newest first. */
  list(limit: number): Promise<ModalityJob[]>
  /** @throws GatewayError NOT_FOUND */
  load(id: string): Promise<ModalityJob>
  /** Ends it; what has come or gone stays. @throws GatewayError NOT_FOUND, STATE_CONFLICT when it has ended */
  cancel(principal: Principal, id: string): Promise<ModalityJob>
  /** Runs one; the queue calls it. */
  run(id: string, signal: AbortSignal): Promise<void>
}

/** A node that cannot be reached is tried this often, with the queue's growing pauses. */
const maxAttempts = 6
const progressEveryMs = 1_000

export function openModalityJobs(options: {
  readonly db: Db
  readonly queue: Queue
  readonly findNode: FindNode
  readonly retrieve: Retrieve
  readonly node: DicomNode
  readonly log: Log
}): ModalityJobs {
  const { db, queue, findNode, retrieve, node } = options
  const log = options.log.child({ part: 'modality-jobs' })
  const running = new Map<string, AbortController>()

  const insert = async (
    tx: Tx,
    row: Omit<ModalityJobRequest, 'modality'> & {
      readonly modality: string
      readonly purpose: RetrievePurpose
      readonly requestedBy: string
      readonly study?: number
    },
  ): Promise<string | undefined> => {
    const id = randomUUID()
    const inserted = await tx
      .insertInto('modality_jobs')
      .values({
        id,
        kind: row.kind,
        modality: row.modality,
        keys: JSON.stringify(row.keys),
        method: row.method ?? null,
        purpose: row.purpose,
        requested_by: row.requestedBy,
        study: row.study ?? null,
      })
      .onConflict(conflict => conflict.doNothing())
      .returning('id')
      .executeTakeFirst()
    if (!inserted) return undefined
    if (row.kind === 'retrieve') await appendAudit(tx, intentOf(row))
    await queue.enqueue(tx, 'modality-job', { job: id }, { singletonKey: id })
    return id
  }

  const load = async (id: string): Promise<ModalityJob> => {
    const [job] = await select(db, sql`where id = ${id}::uuid`)
    if (!job) throw new GatewayError('NOT_FOUND', 'no such job')
    return job
  }

  const note = async (id: string, { completed, failed, warning, remaining }: NodeProgress): Promise<void> => {
    await sql`
      update modality_jobs set completed = ${completed}, failed = ${failed}, warning = ${warning},
             remaining = ${remaining ?? null}, updated_at = now()
       where id = ${id}::uuid and state = 'running'
    `.execute(db.kysely)
  }

  const end = async (
    id: string,
    state: 'waiting' | 'done' | 'failed',
    error?: { readonly code: string; readonly message: string },
  ): Promise<void> => {
    await sql`
      update modality_jobs set state = ${state}, error_code = ${error?.code ?? null}, error = ${error?.message ?? null},
             updated_at = now()
       where id = ${id}::uuid and state = 'running'
    `.execute(db.kysely)
  }

  const perform = async (job: ModalityJob, target: NodeTarget, signal: AbortSignal): Promise<NodeResult> => {
    let told = performance.now()
    let telling: Promise<void> = Promise.resolve()
    const onProgress = (progress: NodeProgress): void => {
      if (performance.now() - told < progressEveryMs) return
      told = performance.now()
      telling = telling.then(() => note(job.id, progress)).catch(() => undefined)
    }
    const result =
      job.kind === 'retrieve'
        ? await retrieveFrom(node, target, job, onProgress, signal)
        : await storeTo(job, target, onProgress, signal)
    await telling
    await note(job.id, result)
    return result
  }

  const storeTo = async (
    job: ModalityJob,
    target: NodeTarget,
    onProgress: (progress: NodeProgress) => void,
    signal: AbortSignal,
  ): Promise<NodeResult> => {
    assertInside(target)
    const plan = await retrieve.plan(job.keys)
    if (plan.instanceCount === 0) throw new GatewayError('NOT_FOUND', 'nothing is stored under these keys')
    const parties = {
      requestor: { userId: job.requestedBy },
      destination: { userId: target.calledAe, address: target.host },
    }
    await plan.begin(parties)
    let sent: ReadonlyMap<number, number> = new Map()
    try {
      const result = await node.store(target, { retrieve, plan }, onProgress, signal)
      sent = result.sent
      return result
    } finally {
      await plan.end(parties, sent)
    }
  }

  return {
    async request(principal, request) {
      authorize(principal, request.kind === 'store' ? 'study.send' : 'modality.retrieve')
      const target = findNode(request.modality)
      if (request.kind === 'store') assertInside(target)
      const { name } = target
      const id = await db.inTransaction(tx =>
        insert(tx, { ...request, modality: name, purpose: 'manual', requestedBy: principal.id }),
      )
      return await load(id ?? '')
    },

    async requestPrior(tx, { study, modality, studyUid, rule, method }) {
      const keys: RetrieveKeys = { level: 'study', studyUids: [studyUid] }
      const requestedBy = `prefetch:${rule}`
      return (
        (await insert(tx, { kind: 'retrieve', modality, keys, method, purpose: 'prefetch', requestedBy, study })) !==
        undefined
      )
    },

    list: limit => select(db, sql`order by created_at desc, id desc limit ${limit}`),
    load,

    async cancel(principal, id) {
      authorize(principal, 'job.control')
      const { numAffectedRows } = await sql`
        update modality_jobs set state = 'cancelled', updated_at = now()
         where id = ${id}::uuid and state in ('waiting', 'running')
      `.execute(db.kysely)
      const job = await load(id)
      if (!numAffectedRows) throw new GatewayError('STATE_CONFLICT', `the job is ${job.state}`)
      running.get(id)?.abort(new GatewayError('TRANSFER_CANCELLED', 'cancelled by a person'))
      return job
    },

    async run(id, signal) {
      const { rows } = await sql<{ attempts: number }>`
        update modality_jobs set state = 'running', attempts = attempts + 1, error_code = null, error = null,
               updated_at = now()
         where id = ${id}::uuid and state in ('waiting', 'running')
        returning attempts
      `.execute(db.kysely)
      const attempts = rows[0]?.attempts
      if (attempts === undefined) return
      const job = await load(id)
      const cancel = new AbortController()
      running.set(id, cancel)
      try {
        const result = await perform(job, findNode(job.modality), AbortSignal.any([signal, cancel.signal]))
        const { status, completed, failed } = result
        if (status === 0) await end(id, 'done')
        else {
          const hex = status.toString(16).toUpperCase().padStart(4, '0')
          await end(id, 'failed', {
            code: 'REMOTE_STATUS',
            message: `ended with status ${hex}: ${completed} transferred, ${failed} failed`,
          })
        }
        log.info(
          { job: id, kind: job.kind, modality: job.modality, status, completed, failed },
          'work with a node ended',
        )
      } catch (error) {
        if (cancel.signal.aborted) return
        if (signal.aborted) throw error
        await settle(id, attempts, error)
      } finally {
        running.delete(id)
      }
    },
  }

  /** What may succeed later is run again by the queue, the rest ends here. */
  async function settle(id: string, attempts: number, error: unknown): Promise<void> {
    const known = isGatewayError(error) ? { code: error.code, message: error.message } : undefined
    const isFinal = attempts >= maxAttempts || !known || (isGatewayError(error) && error.meaning.retry === 'no')
    await end(id, isFinal ? 'failed' : 'waiting', known ?? { code: 'INTERNAL', message: 'internal error' })
    if (!isFinal) throw error
    log.warn({ job: id, cause: errorLine(error) }, 'work with a node failed')
  }
}

/** Out of the hospital things go by a transfer, which has its decision on record. @throws GatewayError FORBIDDEN */
function assertInside({ name, isOutside }: NodeTarget): void {
  if (isOutside) {
    throw new GatewayError('FORBIDDEN', `${name} is outside of the hospital: nothing is sent there but by a transfer`)
  }
}

/** By the service that was asked for, else by C-GET and, where the node does not offer that, by C-MOVE to ourselves. */
async function retrieveFrom(
  node: DicomNode,
  target: NodeTarget,
  { keys, method, purpose }: ModalityJob,
  onProgress: (progress: NodeProgress) => void,
  signal: AbortSignal,
): Promise<NodeResult> {
  if (method) return await node.retrieve(target, { keys, method, purpose }, onProgress, signal)
  try {
    return await node.retrieve(target, { keys, method: 'get', purpose }, onProgress, signal)
  } catch (error) {
    if (!isGatewayError(error, 'ASSOCIATION_REFUSED')) throw error
    return await node.retrieve(target, { keys, method: 'move', purpose }, onProgress, signal)
  }
}

/** The intent of a retrieval, PS3.15 A.5.3.3; who the patient is shows when the instances come. */
function intentOf({ modality, requestedBy, keys }: { modality: string; requestedBy: string; keys: RetrieveKeys }) {
  return beginTransferring({
    source: { userId: modality },
    destination: { userId: 'gateway' },
    requestor: { userId: requestedBy },
    objects: [
      ...(keys.patientId === undefined ? [] : [{ kind: 'patient' as const, patientId: keys.patientId }]),
      ...(keys.studyUids ?? []).map(studyInstanceUid => ({ kind: 'study' as const, studyInstanceUid })),
    ],
  })
}

const keysDecoder = object({
  level: oneOf('patient', 'study', 'series', 'instance'),
  patientId: optional(text({ max: 64 })),
  issuer: optional(text({ max: 64 })),
  studyUids: optional(list(text({ max: 64 }))),
  seriesUids: optional(list(text({ max: 64 }))),
  sopInstanceUids: optional(list(text({ max: 64 }))),
})

async function select(db: Db, rest: ReturnType<typeof sql>): Promise<ModalityJob[]> {
  const { rows } = await sql<Omit<ModalityJob, 'keys'> & { readonly keys: unknown }>`
    select id, kind, modality, keys, method, purpose, requested_by as "requestedBy", state, completed, failed, warning,
           remaining, attempts, error_code as "errorCode", error, created_at as "createdAt", updated_at as "updatedAt"
      from modality_jobs ${rest}
  `.execute(db.kysely)
  return rows.map(({ keys, ...row }) => {
    const decoded = decode(keysDecoder, keys)
    if (!decoded.ok) throw new GatewayError('BAD_REQUEST', 'the stored keys of a job cannot be read')
    return { ...row, keys: decoded.value }
  })
}
