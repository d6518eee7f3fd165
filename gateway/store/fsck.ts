/**
 * Compares rows and blobs: both are walked once in the order of their digests and merged, so that
 * memory does not grow with the archive. Safe beside a running gateway: what looks wrong is asked
 * again before it is reported.
 */
import { createHash } from 'node:crypto'
import { setMaxListeners } from 'node:events'
import type { Db } from '../db/db.ts'
import { isGatewayError } from '../errors.ts'
import type { Blobs, StoredBlob } from './blobs.ts'
import { findWrongCounters, repairCounter, type WrongCounter } from './counters.ts'
import { listReferences, type Reference, referenceCheck } from './references.ts'

/** Something that is not as it should be. */
export type FsckProblem =
  | {
      /** `damaged`: the bytes have another digest; `size`: a row says another size; `unreadable`: the disk fails. */
      readonly kind: 'missing' | 'damaged' | 'size' | 'unreadable'
      /** The blob, 64 hex digits. */
      readonly sha256: string
      readonly sopInstanceUid: string | null
      /** Which rows name the blob: instance, conflict, quarantine, transfer. */
      readonly sources: readonly string[]
      /** What was expected and found, without patient data. */
      readonly detail: string
    }
  | ({ readonly kind: 'counter' } & WrongCounter)

/** The outcome. Orphans are harmless and no problem. */
export interface FsckReport {
  readonly ok: boolean
  /** Blobs compared, and bytes read from them. */
  readonly blobs: number
  readonly bytesRead: number
  /** The first ones, at most `longestList`; `problemCount` is how many there were. */
  readonly problems: readonly FsckProblem[]
  readonly problemCount: number
  /** Blobs no row names, older than the grace period. */
  readonly orphans: number
  readonly orphanBytes: number
  readonly repaired: { readonly orphans: number; readonly counters: number }
}

/** How far a running check is. */
export interface FsckProgress {
  readonly blobs: number
  readonly bytesRead: number
  /** About how many blobs there are in all. */
  readonly expectedBlobs: number
  readonly problemCount: number
}

/** What `fsck` takes. */
export interface FsckOptions {
  readonly db: Db
  readonly blobs: Blobs
  /** `safe`: remove orphans older than the grace period and set counters right. Bytes are never touched. */
  readonly repair: 'nothing' | 'safe'
  /** `names`: only presence and size, without reading the blobs (default `bytes`). */
  readonly compare?: 'bytes' | 'names'
  /** Blobs read at a time (default 4). */
  readonly concurrency?: number
  readonly graceMs?: number
  readonly onProgress?: (progress: FsckProgress) => void
  readonly signal?: AbortSignal
}

/** No report holds more problems than this. */
export const longestList = 10_000

const readBytes = 1024 * 1024
const defaultGraceMs = 3_600_000

/**
 * Checks the whole store.
 *
 * @throws GatewayError DATABASE_UNAVAILABLE, STORAGE_IO (the store itself cannot be listed); the
 *   signal's reason when aborted
 */
export async function fsck(options: FsckOptions): Promise<FsckReport> {
  return await new Check(options).run()
}

class Check {
  readonly #options: FsckOptions
  readonly #graceMs: number
  readonly #reading = new Set<Promise<void>>()
  readonly #problems: FsckProblem[] = []
  #problemCount = 0
  #blobs = 0
  #bytesRead = 0
  #expectedBlobs = 0
  #orphans = 0
  #orphanBytes = 0
  #orphanBatch: StoredBlob[] = []
  /** Read into again and again: buffers of a gigabyte a second outrun the collector. */
  readonly #buffers: Buffer[] = []

  constructor(options: FsckOptions) {
    this.#options = options
    this.#graceMs = options.graceMs ?? defaultGraceMs
    if (options.signal) setMaxListeners(0, options.signal)
  }

  async run(): Promise<FsckReport> {
    const { db, blobs, repair } = this.#options
    this.#expectedBlobs = await countInstances(db)
    await this.#merge()
    await Promise.all(this.#reading)
    await this.#judgeOrphans()
    const counters = await this.#checkCounters()
    const swept =
      repair === 'safe' && this.#orphans > 0
        ? await blobs.sweep(referenceCheck(db), {
            graceMs: this.#graceMs,
            ...(this.#options.signal ? { signal: this.#options.signal } : {}),
          })
        : undefined
    return {
      ok: this.#problemCount === 0,
      blobs: this.#blobs,
      bytesRead: this.#bytesRead,
      problems: this.#problems,
      problemCount: this.#problemCount,
      orphans: this.#orphans,
      orphanBytes: this.#orphanBytes,
      repaired: { orphans: swept?.removed ?? 0, counters },
    }
  }

  /** A merge join of two ordered streams. */
  async #merge(): Promise<void> {
    const rows = listReferences(this.#options.db)[Symbol.asyncIterator]()
    const files = this.#options.blobs.list()[Symbol.asyncIterator]()
    let row = await rows.next()
    let file = await files.next()
    while (!row.done || !file.done) {
      this.#options.signal?.throwIfAborted()
      const order = row.done ? 1 : file.done ? -1 : Buffer.compare(row.value.sha256, file.value.sha256)
      if (order < 0 && !row.done) await this.#checkMissing(row.value)
      else if (order > 0 && !file.done) await this.#noteOrphan(file.value)
      else if (!row.done && !file.done) await this.#checkPair(row.value, file.value)
      if (order <= 0) row = await rows.next()
      if (order >= 0) file = await files.next()
    }
  }

  /** The blob may have come, or the row gone, since the streams passed by. */
  async #checkMissing(reference: Reference): Promise<void> {
    const { db, blobs } = this.#options
    if (await blobs.has(reference.sha256)) return await this.#read(reference, undefined)
    const still = await referenceCheck(db)([reference.sha256])
    if (still.size > 0 && !(await blobs.has(reference.sha256))) {
      this.#report(problemOf('missing', reference, 'a row names this blob, and there is no such file'))
    }
  }

  async #checkPair(reference: Reference, blob: StoredBlob): Promise<void> {
    const { leastBytes, mostBytes } = reference
    if (leastBytes !== null && (leastBytes !== blob.sizeBytes || mostBytes !== blob.sizeBytes)) {
      const said = leastBytes === mostBytes ? `${leastBytes}` : `${leastBytes} to ${mostBytes}`
      this.#report(problemOf('size', reference, `rows say ${said} bytes, the file has ${blob.sizeBytes}`))
    }
    await this.#read(reference, blob)
  }

  /** Reads the blob beside others; waits while too many are being read. */
  async #read(reference: Reference, blob: StoredBlob | undefined): Promise<void> {
    this.#blobs += 1
    if (this.#options.compare === 'names') return this.#progress()
    while (this.#reading.size >= (this.#options.concurrency ?? 4)) await Promise.race(this.#reading)
    const reading = this.#verify(reference, blob).finally(() => {
      this.#reading.delete(reading)
      this.#progress()
    })
    this.#reading.add(reading)
  }

  async #verify(reference: Reference, blob: StoredBlob | undefined): Promise<void> {
    try {
      const actual = await this.#digest(reference.sha256)
      if (actual.equals(reference.sha256)) return
      const size = blob ? ` (${blob.sizeBytes} bytes)` : ''
      this.#report(problemOf('damaged', reference, `the file${size} has the digest ${actual.toString('hex')}`))
    } catch (error) {
      if (this.#options.signal?.aborted) return
      const missing = isGatewayError(error, 'STORAGE_CORRUPT')
      const detail = missing ? 'the file went away' : error instanceof Error ? error.message : String(error)
      this.#report(problemOf(missing ? 'missing' : 'unreadable', reference, detail))
    }
  }

  async #digest(sha256: Buffer): Promise<Buffer> {
    const blob = await this.#options.blobs.open(sha256)
    const buffer = this.#buffers.pop() ?? Buffer.allocUnsafeSlow(readBytes)
    try {
      const hash = createHash('sha256')
      for (let at = 0; at < blob.sizeBytes; at += readBytes) {
        this.#options.signal?.throwIfAborted()
        const bytes = await blob.read(at, readBytes, buffer)
        hash.update(bytes)
        this.#bytesRead += bytes.length
      }
      return hash.digest()
    } finally {
      this.#buffers.push(buffer)
      await blob.close()
    }
  }

  async #noteOrphan(blob: StoredBlob): Promise<void> {
    if (Date.now() - blob.changedAt.getTime() < this.#graceMs) return
    this.#orphanBatch.push(blob)
    if (this.#orphanBatch.length >= 500) await this.#judgeOrphans()
  }

  /** A row may have been committed since its page was read. */
  async #judgeOrphans(): Promise<void> {
    const batch = this.#orphanBatch
    this.#orphanBatch = []
    if (batch.length === 0) return
    const named = await referenceCheck(this.#options.db)(batch.map(blob => blob.sha256))
    for (const blob of batch) {
      if (named.has(blob.sha256.toString('hex'))) continue
      this.#orphans += 1
      this.#orphanBytes += blob.sizeBytes
    }
  }

  async #checkCounters(): Promise<number> {
    let repaired = 0
    for await (const wrong of findWrongCounters(this.#options.db)) {
      this.#options.signal?.throwIfAborted()
      if (this.#options.repair === 'nothing') this.#report({ kind: 'counter', ...wrong })
      else if (await repairCounter(this.#options.db, wrong)) repaired += 1
    }
    return repaired
  }

  #report(problem: FsckProblem): void {
    this.#problemCount += 1
    if (this.#problems.length < longestList) this.#problems.push(problem)
  }

  #progress(): void {
    this.#options.onProgress?.({
      blobs: this.#blobs,
      bytesRead: this.#bytesRead,
      expectedBlobs: Math.max(this.#expectedBlobs, this.#blobs),
      problemCount: this.#problemCount,
    })
  }
}

async function countInstances(db: Db): Promise<number> {
  const { count } = await db.kysely
    .selectFrom('studies')
    .select(eb => eb.fn.coalesce(eb.fn.sum<string>('instance_count'), eb.lit(0)).as('count'))
    .executeTakeFirstOrThrow()
  return Number(count)
}

function problemOf(
  kind: 'missing' | 'damaged' | 'size' | 'unreadable',
  reference: Reference,
  detail: string,
): FsckProblem {
  return {
    kind,
    sha256: reference.sha256.toString('hex'),
    sopInstanceUid: reference.sopInstanceUid,
    sources: reference.sources,
    detail,
  }
}
