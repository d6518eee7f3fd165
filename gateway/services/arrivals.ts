/**
 * What arrives at endpoints. A job for each endpoint that is looked at: files that are whole are fetched to our disk,
 * verified and decided about like anything foreign, and taken once; what happened to each stands in its row.
 */
import { mkdir, readdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { deliveryOf, type Look, lookAround } from '../../endpoints/arriving.ts'
import type { FileStore } from '../../endpoints/file-store.ts'
import { openFileStore } from '../../endpoints/open-place.ts'
import { folderOf } from '../../endpoints/paths.ts'
import { authorize } from '../../policy/authorize.ts'
import { requestorOf } from '../audit/event.ts'
import { appendAudit } from '../audit/log.ts'
import { GatewayError, isGatewayError } from '../errors.ts'
import type { Queue } from '../jobs/queue.ts'
import type { Log } from '../log.ts'
import type { Principal } from '../principal.ts'
import { storageError } from '../store/io-error.ts'
import { changed, fetchFile } from './arrival-fetch.ts'
import { type ArrivalParts, decisionEvent, importArrival } from './arrival-import.ts'
import {
  type Arrival,
  type ArrivalEnd,
  type ArrivalFile,
  findArrivals,
  findFilesOf,
  findKept,
  findPolled,
  findSeen,
  findUnsettled,
  forgetFile,
  isDue,
  listFiles,
  loadArrival,
  makeDue,
  noteFailed,
  noteFetched,
  notePolled,
  noteSettled,
  noteStrange,
  noteWaiting,
  openArrival,
  rememberSeen,
  retryFile,
  writeArrival,
} from './arrival-rows.ts'
import type { InboundTerms } from './arrival-terms.ts'
import { type EndpointSecrets, isPlace } from './endpoint.ts'
import { readBounded } from './endpoint-answers.ts'
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
const mostSignatureBytes = 16_777_216

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

  const soon = (endpoint: string): Promise<void> =>
    db.inTransaction(async tx => {
      await makeDue(tx, endpoint)
      await queue.enqueue(tx, 'poll-endpoint', { endpoint }, { singletonKey: endpoint })
    })

  /** Groups what is whole, as much as one look may take. */
  const openArrivals = async (endpoint: string, terms: InboundTerms, look: Look): Promise<void> => {
    const listed = new Set(look.files.map(({ path }) => path))
    const groups = new Map<string, ArrivalFile[]>()
    let [files, bytes] = [0, 0]
    const seen = (await findSeen(db.kysely, endpoint)).filter(({ path }) => listed.has(path))
    const unready = new Set(seen.filter(file => !isReady(file, terms, look, clock())))
    // A study that is being put there file by file is not taken in parts; the inbox itself may never be quiet.
    const growing = new Set([...unready].map(file => deliveryOf(file, look)).filter(folder => folder !== terms.folder))
    for (const file of seen) {
      if (unready.has(file) || growing.has(deliveryOf(file, look))) continue
      if (file.size > terms.mostFileBytes) {
        const limit = `expected at most ${terms.mostFileBytes} bytes in a file`
        await noteFailed(db.kysely, file.id, new GatewayError('TOO_LARGE', limit))
        continue
      }
      const folder = deliveryOf(file, look)
      if (terms.signers.length > 0 && !look.signatures.has(folder)) {
        await noteWaiting(
          db.kysely,
          [file.id],
          new GatewayError('OFFER_INCOMPLETE', 'it waits for the manifest.sig of its delivery'),
        )
        continue
      }
      if (files > 0 && (files >= terms.mostFiles || bytes + file.size > terms.mostBytes)) break
      files += 1
      bytes += file.size
      groups.set(folder, [...(groups.get(folder) ?? []), file])
    }
    for (const [folder, members] of groups) await db.inTransaction(tx => openArrival(tx, { endpoint, folder }, members))
  }

  const fetchAll = async (store: FileStore, arrival: Arrival, found: Look, signal: AbortSignal): Promise<void> => {
    const there = new Map(found.files.map(file => [file.path, file]))
    for (const file of await findFilesOf(db.kysely, arrival.id)) {
      if (file.state !== 'fetching') continue
      const { size, modified } = there.get(file.path) ?? {}
      try {
        if (size !== file.size || modified !== file.modified) throw changed()
        await options.blobs.assertRoom(file.size)
        const sha256 = await fetchFile(store, file, pathOf(file.id), signal)
        if (await noteFetched(db.kysely, arrival.endpoint, file.id, sha256)) await rm(pathOf(file.id), { force: true })
      } catch (error) {
        signal.throwIfAborted()
        if (!isGatewayError(error) || !isOfFile(error)) throw error
        await rm(pathOf(file.id), { force: true })
        if (error.code === 'STATE_CONFLICT') await forgetFile(db.kysely, file.id)
        else await noteFailed(db.kysely, file.id, error)
      }
    }
  }

  /** What was taken is moved or deleted there; what cannot be is tried again at the next look. */
  const settle = async (
    store: FileStore,
    endpoint: string,
    terms: InboundTerms,
    signal: AbortSignal,
  ): Promise<void> => {
    const files = await findUnsettled(db.kysely, endpoint)
    if (terms.after === 'leave')
      return await noteSettled(
        db.kysely,
        files.map(({ id }) => id),
      )
    let problem: GatewayError | undefined
    for (const { id, path, size } of files) {
      try {
        const there = await store.stat(path, signal)
        if (there?.kind === 'file' && there.size === size) {
          if (terms.after === 'delete') await store.remove(path, signal)
          else await moveAway(store, path, terms.moveTo, id, signal)
        }
        await noteSettled(db.kysely, [id])
      } catch (error) {
        if (!isGatewayError(error, 'ENDPOINT_DENIED')) throw error
        problem ??= error
      }
    }
    if (problem) throw problem
  }

  const look = async (
    endpoint: string,
    { store, terms, secrets }: { store: FileStore; terms: InboundTerms; secrets: EndpointSecrets },
    signal: AbortSignal,
  ): Promise<void> => {
    const except = terms.after === 'move' ? terms.moveTo : undefined
    const found = await lookAround(store, { folder: terms.folder, pattern: terms.pattern, except }, signal)
    await db.inTransaction(async tx => {
      await rememberSeen(tx, endpoint, found.files)
      await noteStrange(tx, endpoint, found.strange)
    })
    await openArrivals(endpoint, terms, found)
    for (const arrival of await findArrivals(db.kysely, endpoint, 'fetching')) {
      await fetchAll(store, arrival, found, signal)
      const path = found.signatures.get(arrival.folder)
      const signature = path === undefined ? undefined : await readSignature(store, path, signal)
      await importArrival(parts, { arrival, terms, secrets, signature }, signal)
    }
    await settle(store, endpoint, terms, signal)
  }

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

/** True for what goes wrong with one file; a line that breaks, or a full disk of ours, is no fault of it. */
const isOfFile = ({ code, meaning }: GatewayError): boolean =>
  meaning.retry === 'no' || code === 'ENDPOINT_PROTOCOL' || code === 'ENDPOINT_FULL'

function isReady(
  { path, seenAt }: ArrivalFile,
  { ready, stableSeconds }: InboundTerms,
  look: Look,
  now: Date,
): boolean {
  if (ready === 'stable') return now.getTime() - seenAt.getTime() >= stableSeconds * 1_000
  if (look.marked.has(path)) return true
  for (let folder = folderOf(path); ; folder = folderOf(folder)) {
    if (look.finished.has(folder)) return true
    if (folder === '') return false
  }
}

/** Below another folder under the same path; what is there already stays. */
async function moveAway(store: FileStore, path: string, to: string, id: number, signal: AbortSignal): Promise<void> {
  const below = (name: string): string => (to === '' ? name : `${to}/${name}`)
  const there = await store.stat(below(path), signal)
  const target = there ? below(`${id}/${path}`) : below(path)
  await store.makeFolder(folderOf(target), signal)
  await store.rename(path, target, signal)
}

async function readSignature(store: FileStore, path: string, signal: AbortSignal): Promise<Uint8Array> {
  const bytes = await readBounded(store, path, mostSignatureBytes, signal)
  if (!bytes) throw new GatewayError('TOO_LARGE', 'the manifest.sig of a delivery is too large')
  return bytes
}
