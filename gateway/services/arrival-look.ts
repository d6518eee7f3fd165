/**
 * One look at an endpoint: what is there is noted, what is whole is fetched and imported, what was taken is moved or
 * deleted there. It does nothing but carry rows on, so that a killed gateway goes on where it was.
 */
import { rm } from 'node:fs/promises'
import { deliveryOf, type Look, lookAround } from '../../endpoints/arriving.ts'
import type { FileStore } from '../../endpoints/file-store.ts'
import { folderOf } from '../../endpoints/paths.ts'
import { GatewayError, isGatewayError } from '../errors.ts'
import { changed, fetchFile } from './arrival-fetch.ts'
import { type ArrivalParts, importArrival } from './arrival-import.ts'
import {
  type Arrival,
  type ArrivalFile,
  findArrivals,
  findFilesOf,
  findSeen,
  findUnsettled,
  forgetFile,
  noteFailed,
  noteFetched,
  noteSettled,
  noteStrange,
  noteWaiting,
  openArrival,
  rememberSeen,
} from './arrival-rows.ts'
import type { InboundTerms } from './arrival-terms.ts'
import type { EndpointSecrets } from './endpoint.ts'
import { readBounded } from './endpoint-answers.ts'

const mostSignatureBytes = 16_777_216

/** An endpoint that is looked at. */
export interface OpenPlace {
  readonly store: FileStore
  readonly terms: InboundTerms
  readonly secrets: EndpointSecrets
}

/** Makes the look, which throws GatewayError ENDPOINT_*, STORAGE_FULL, STORAGE_IO; what is wrong with a file stands in its row. */
export function createLook(
  parts: ArrivalParts,
): (endpoint: string, place: OpenPlace, signal: AbortSignal) => Promise<void> {
  const { db, pathOf, clock } = parts

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
        await parts.blobs.assertRoom(file.size)
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

  return async (endpoint, { store, terms, secrets }, signal) => {
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
