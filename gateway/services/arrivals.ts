/**
 * What arrives at endpoints. A job for each endpoint that is looked at: files that are whole are fetched to our disk,
 * verified and decided about like anything foreign, and taken once; what happened to each stands in its row.
 */
import { mkdir, readdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { openFileStore } from '../../endpoints/open-place.ts'
import { authorize } from '../../policy/authorize.ts'
import { requestorOf } from '../audit/event.ts'
import { appendAudit } from '../audit/log.ts'
import { GatewayError, isGatewayError } from '../errors.ts'
import type { Queue } from '../jobs/queue.ts'
import type { Log } from '../log.ts'
import type { Principal } from '../principal.ts'
import { storageError } from '../store/io-error.ts'
import { type ArrivalParts, decisionEvent, importArrival } from './arrival-import.ts'
import { createLook } from './arrival-look.ts'
import {
  type Arrival,
  type ArrivalEnd,
  type ArrivalFile,
  findArrivals,
  findFilesOf,
  findKept,
  findPolled,
  isDue,
  listFiles,
  loadArrival,
  makeDue,
  noteFailed,
  notePolled,
  retryFile,
  writeArrival,
} from './arrival-rows.ts'
import { isPlace } from './endpoint.ts'
import type { Endpoints } from './endpoints.ts'
import { refuseUnnamedEndpoint } from './inbound-policy.ts'

export interface Arrivals {
  /** What was found at an endpoint, the latest first. @throws GatewayError NOT_FOUND */
  list(
    principal: Principal,
    endpoint: string,
    page: { readonly limit: number; readonly before?: number | undefined },
  ): Promise<readonly ArrivalFile[]>
  /** Looks at it now, not at the next time. @throws GatewayError NOT_FOUND, BAD_REQUEST where nobody looks */
  poll(principal: Principal, endpoint: string): Promise<void>
  /** Takes a file up again that failed or was refused. @throws GatewayError NOT_FOUND */
  retry(principal: Principal, endpoint: string, file: number): Promise<void>
  /** Is this a held arrival? */
  isHeld(id: string): Promise<boolean>
  /** A person wants a held arrival imported. @throws GatewayError STATE_CONFLICT unless it is held */
  release(id: string, principal: Principal, why?: string): Promise<void>
  /** A person does not want it; it is not fetched again. @throws as `release` */
  reject(id: string, principal: Principal, why?: string): Promise<void>
}

const retryMs = 60_000

/** Opens the service, takes the lane, and takes up what a killed process has left. */
export async function openArrivals(
  options: Omit<ArrivalParts, 'pathOf'> & {
    readonly queue: Pick<Queue, 'enqueue' | 'work'>
    readonly endpoints: Pick<Endpoints, 'open' | 'load' | 'alarm'>
    readonly dataDir: string
    readonly log: Log
  },
): Promise<Arrivals> {
  const { db, queue, endpoints, clock } = options
  const log = options.log.child({ part: 'endpoints' })
  const dir = join(options.dataDir, 'arrivals')
  await mkdir(dir, { recursive: true, mode: 0o700 }).catch(error => {
    throw storageError(error, 'making the folder of arrivals')
  })
  const pathOf = (file: number): string => join(dir, String(file))
  const parts: ArrivalParts = { ...options, pathOf }
  const look = createLook(parts)

  const soon = (endpoint: string): Promise<void> =>
    db.inTransaction(async tx => {
      await makeDue(tx, endpoint)
      await queue.enqueue(tx, 'poll-endpoint', { endpoint }, { singletonKey: endpoint })
    })

  const attempt = async (
    name: string,
    signal: AbortSignal,
  ): Promise<{ next: number; problem?: GatewayError } | undefined> => {
    const { endpoint, secrets } = await endpoints.open(name)
    const { inbound: terms, settings, state } = endpoint
    if (!terms || !isPlace(settings)) return undefined
    const next = terms.everySeconds * 1_000
    try {
      for (const arrival of await findArrivals(db.kysely, name, 'released'))
        await importArrival(parts, { arrival, terms, secrets, signature: undefined }, signal)
      if (state !== 'active') throw new GatewayError('ENDPOINT_STOPPED', `the endpoint is ${state}`)
      await refuseUnnamedEndpoint(db.kysely, name)
      const store = await openFileStore(settings, secrets, signal)
      try {
        await look(name, { store, terms, secrets }, signal)
      } finally {
        await store.close()
      }
      return { next }
    } catch (error) {
      signal.throwIfAborted()
      if (!isGatewayError(error) || error.code === 'DATABASE_UNAVAILABLE') throw error
      if (error.code === 'ENDPOINT_HOST_KEY' || error.code === 'ENDPOINT_LOGIN')
        await endpoints.alarm(name, error.code, error.message)
      if (error.code !== 'ENDPOINT_STOPPED')
        log.warn({ endpoint: name, code: error.code }, `what arrives cannot be taken: ${error.message}`)
      return { next: error.meaning.retry === 'yes' ? Math.min(next, retryMs) : next, problem: error }
    }
  }

  /** Harmless at any time and any number of times. */
  const run = async (name: string, signal: AbortSignal): Promise<void> => {
    if (!(await isDue(db.kysely, name))) return
    const done = await attempt(name, signal)
    if (!done) return
    const due = new Date(clock().getTime() + done.next)
    await db.inTransaction(async tx => {
      await notePolled(tx, name, due, done.problem)
      await queue.enqueue(tx, 'poll-endpoint', { endpoint: name }, { singletonKey: name, startAfter: due })
    })
  }

  /** Every endpoint gets its job; bytes that no row wants are removed. */
  const recover = async (): Promise<void> => {
    const kept = await findKept(db.kysely)
    for (const name of await readdir(dir))
      if (!kept.has(Number(name))) await rm(join(dir, name), { recursive: true, force: true })
    for (const { name, due } of await findPolled(db.kysely))
      await db.inTransaction(tx =>
        queue.enqueue(tx, 'poll-endpoint', { endpoint: name }, { singletonKey: name, ...(due && { startAfter: due }) }),
      )
  }

  const decide = async (id: string, principal: Principal, end: ArrivalEnd): Promise<Arrival> => {
    authorize(principal, 'transfer.decide')
    return await db.inTransaction(async tx => {
      const found = await loadArrival(tx, id)
      if (!found || !(await writeArrival(tx, id, ['held'], end)))
        throw new GatewayError('STATE_CONFLICT', 'expected an arrival that is held')
      await appendAudit(tx, decisionEvent(found, end, requestorOf(principal)))
      return found
    })
  }

  await recover()
  queue.work('poll-endpoint', { concurrency: 4 }, ({ endpoint }, signal) => run(endpoint, signal))

  return {
    async list(principal, endpoint, page) {
      authorize(principal, 'endpoint.read')
      await endpoints.load(principal, endpoint)
      return await listFiles(db.kysely, endpoint, page)
    },
    async poll(principal, endpoint) {
      authorize(principal, 'endpoint.manage')
      const { inbound } = await endpoints.load(principal, endpoint)
      if (!inbound) throw new GatewayError('BAD_REQUEST', 'nobody looks at this endpoint: set inbound.folder')
      await soon(endpoint)
    },
    async retry(principal, endpoint, file) {
      authorize(principal, 'endpoint.manage')
      if (!(await db.inTransaction(tx => retryFile(tx, endpoint, file))))
        throw new GatewayError('NOT_FOUND', 'no such file that failed or was refused')
      await soon(endpoint)
    },
    async isHeld(id) {
      return (await loadArrival(db.kysely, id))?.state === 'held'
    },
    async release(id, principal, why) {
      authorize(principal, 'transfer.decide')
      const { endpoint } = await decide(id, principal, { state: 'released', ...(why !== undefined && { reason: why }) })
      await soon(endpoint)
    },
    async reject(id, principal, why = 'refused by a person') {
      authorize(principal, 'transfer.decide')
      await decide(id, principal, { state: 'refused', code: 'OFFER_REFUSED', reason: why })
      const refused = new GatewayError('OFFER_REFUSED', 'refused by a person')
      for (const file of await findFilesOf(db.kysely, id)) {
        if (file.state === 'fetched') await noteFailed(db.kysely, file.id, refused, 'refused')
        await rm(pathOf(file.id), { force: true })
      }
    },
  }
}
