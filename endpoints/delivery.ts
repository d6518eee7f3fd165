/**
 * Puts a package at an endpoint: each file under a name of its own until it is whole, then under its final one; what
 * proves and closes the delivery comes last. It goes on where it was cut: what is there already is asked for.
 */
import { Readable } from 'node:stream'
import { GatewayError } from '../gateway/errors.ts'
import type { FileStore } from './file-store.ts'
import type { PackageFile } from './package.ts'
import { folderOf } from './paths.ts'
import { type StallWatch, watchStall } from './stall.ts'
import { openThrottle, type Throttle } from './throttle.ts'

/** How an endpoint wants its files. */
export interface DeliveryRules {
  /** Connections at a time, from 1. */
  readonly parallel: number
  /** All connections together; undefined for no limit. */
  readonly bytesPerSecond?: number | undefined
  /** So long nothing may move before the delivery is given up, to be tried again; default three minutes. */
  readonly stallMs?: number | undefined
}

/** What the sender knows and wants to know; all are awaited. */
export interface DeliveryProgress {
  /** True for files of this delivery that are known to be there. */
  isDone(name: string): boolean
  /** The file has its final name. */
  onDone(file: PackageFile): Promise<void>
  /** So many more bytes were put on the line, repeats included. */
  onSent(bytes: number): void
  /** Asked before each file and every second of one; false ends the delivery. */
  mayContinue(): Promise<boolean>
}

/** How it ended: everything is there, or `mayContinue` said no. */
export type DeliveryResult = 'delivered' | 'stopped'

/** Opens one more connection. */
export type OpenStore = (signal: AbortSignal) => Promise<FileStore>

/**
 * Delivers.
 *
 * @param folder  below the endpoint's root
 * @throws GatewayError ENDPOINT_*, with `retry: 'yes'` for what may pass by itself; the reason of `signal`
 */
export async function deliverFiles(
  open: OpenStore,
  folder: string,
  files: readonly PackageFile[],
  rules: DeliveryRules,
  progress: DeliveryProgress,
  signal: AbortSignal,
): Promise<DeliveryResult> {
  const wanted = files.filter(({ name }) => !progress.isDone(name))
  const content = wanted.filter(({ role }) => role === 'content')
  const rest = (['certificate', 'manifest', 'done'] as const).flatMap(role => wanted.filter(file => file.role === role))
  const throttle = openThrottle(rules.bytesPerSecond)
  const stop = new AbortController()
  const all = AbortSignal.any([signal, stop.signal])
  const first = await open(signal)
  const stall = watchStall(rules.stallMs ?? usualStallMs)
  const deliver = async (): Promise<void> => {
    for (const path of foldersOf(folder, wanted)) {
      await first.makeFolder(path, all)
      stall.moved()
    }
    const lane = async (store: FileStore): Promise<void> => {
      for (let file = content.shift(); file; file = content.shift())
        await putFile(store, folder, file, { throttle, progress, stall, signal: all })
    }
    const lanes = Array.from({ length: Math.min(rules.parallel, content.length) - 1 }, async () => {
      await using store = closing(await open(all))
      await lane(store)
    })
    const outcomes = await Promise.allSettled(
      [lane(first), ...lanes].map(each =>
        each.catch((error: unknown) => {
          stop.abort(error)
          throw error
        }),
      ),
    )
    const [failed] = outcomes.filter(outcome => outcome.status === 'rejected')
    // The first failure, not what it made of the others.
    if (failed) throw stop.signal.aborted ? stop.signal.reason : failed.reason
    for (const file of rest) await putFile(first, folder, file, { throttle, progress, stall, signal: all })
  }
  try {
    const delivering = deliver()
    delivering.catch(() => {}) // also where the other one is first
    await Promise.race([delivering, stall.stalled])
    return 'delivered'
  } catch (error) {
    if (error instanceof Stopped) return 'stopped'
    stop.abort(error)
    throw error
  } finally {
    stall.end()
    await first.close()
  }
}

/**
 * Removes what a delivery that will not go on has left, where the endpoint allows it.
 *
 * @param which  `parts`: unfinished files only
 */
export async function removeDelivery(
  open: OpenStore,
  folder: string,
  files: readonly Pick<PackageFile, 'name' | 'sha256'>[],
  which: 'all' | 'parts',
  signal: AbortSignal,
): Promise<void> {
  await using store = closing(await open(signal))
  if (!store.can.remove) return
  for (const file of files) {
    await store.remove(partOf(folder, file), signal)
    if (which === 'all') await store.remove(`${folder}/${file.name}`, signal)
  }
}

class Stopped extends Error {}

const usualStallMs = 180_000

interface Sending {
  readonly throttle: Throttle
  readonly progress: DeliveryProgress
  readonly stall: StallWatch
  readonly signal: AbortSignal
}

/** The name while it is not whole. The digest keeps bytes of another package from being taken for a beginning of these. */
const partOf = (folder: string, { name, sha256 }: Pick<PackageFile, 'name' | 'sha256'>): string =>
  `${folder}/${name}.${sha256.slice(0, 8)}.part`

async function putFile(store: FileStore, folder: string, file: PackageFile, sending: Sending): Promise<void> {
  const { progress, stall, signal } = sending
  signal.throwIfAborted()
  if (!(await progress.mayContinue())) throw new Stopped()
  const { can } = store
  const final = `${folder}/${file.name}`
  const part = can.rename ? partOf(folder, file) : final
  const there = can.list && can.rename && can.resume ? ((await store.stat(part, signal))?.size ?? 0) : 0
  const offset = there <= file.size ? there : 0
  if (offset < file.size) {
    const source = Readable.from(limited(file.open(offset), sending), { objectMode: false })
    const onSent = (bytes: number): void => {
      stall.moved()
      progress.onSent(bytes)
    }
    await store.put(part, source, { offset, size: file.size, onSent }, signal)
    stall.moved()
  }
  await verify(store, part, file, signal)
  stall.moved()
  if (can.rename) await store.rename(part, final, signal)
  stall.moved()
  await progress.onDone(file)
}

/** Of a file that was written without an error and is not to be seen. */
export const hidden =
  'the endpoint takes files and does not show them: if it is a drop box, switch off list and rename in its settings'

/** What the server has is what was sent, as far as it tells. */
async function verify(store: FileStore, path: string, file: PackageFile, signal: AbortSignal): Promise<void> {
  if (!store.can.list) return
  const size = (await store.stat(path, signal))?.size
  const sha256 = size === file.size ? await store.sha256(path, signal) : undefined
  if (size === file.size && (sha256 === undefined || sha256 === file.sha256)) return
  // Sent again and again it would never be seen.
  if (size === undefined) throw new GatewayError('ENDPOINT_UNSUPPORTED', hidden)
  if (store.can.remove) await store.remove(path, signal)
  throw new GatewayError(
    'ENDPOINT_PROTOCOL',
    'the endpoint does not have the bytes that were sent; they are sent again',
  )
}

const askEveryMs = 1_000

/** The bytes, at the speed that is allowed, as long as they may go. */
async function* limited(source: Readable, { throttle, progress, stall, signal }: Sending): AsyncGenerator<Uint8Array> {
  let asked = performance.now()
  try {
    for await (const chunk of source) {
      const bytes: Uint8Array = chunk
      if (performance.now() - asked > askEveryMs) {
        if (!(await progress.mayContinue())) throw new Stopped()
        asked = performance.now()
      }
      await stall.during(throttle.pass(bytes.length, signal))
      yield bytes
    }
  } finally {
    source.destroy()
  }
}

function foldersOf(folder: string, files: readonly PackageFile[]): readonly string[] {
  const all = new Set([folder, ...files.map(({ name }) => `${folder}/${name}`).map(folderOf)])
  return [...all].filter(path => path !== '').sort()
}

const closing = (store: FileStore): FileStore & AsyncDisposable =>
  Object.assign(store, { [Symbol.asyncDispose]: () => store.close() })
