/**
 * The blob store: instance bytes, content-addressed by SHA-256, in `<data>/blobs/ab/<64 hex>`.
 * A blob is written once under `<data>/staging` and renamed to its digest; bytes and name are made
 * durable before a row may name it. Orphans are harmless and swept.
 */
import { existsSync, linkSync, renameSync, rmSync, statSync } from 'node:fs'
import { mkdir, open, readdir, stat } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { GatewayError } from '../errors.ts'
import type { Log } from '../log.ts'
import { type OpenBlob, openBlob } from './blob-reader.ts'
import { DirSync } from './dir-sync.ts'
import { FreeSpace, type FreeSpaceOptions, type FreeSpaceState } from './free-space.ts'
import { errnoOf, storageError } from './io-error.ts'
import { hashFile, type StagedFile } from './staged-file.ts'
import { type BeforeStep, type Staged, Staging } from './staging.ts'

export type { OpenBlob } from './blob-reader.ts'
export type { StagedFile } from './staged-file.ts'
export type { BeforeStep, Staged, StorageStep } from './staging.ts'

/** A blob as it lies on disk. */
export interface StoredBlob {
  readonly sha256: Buffer
  readonly sizeBytes: number
  /** Since when it may be an orphan: written or renamed then. */
  readonly changedAt: Date
}

/** What a sweep did. */
export interface SweepReport {
  readonly seen: number
  readonly removed: number
  readonly removedBytes: number
}

/** What a sweep looks at. */
export interface SweepOptions {
  readonly graceMs?: number
  /** Only these, a bounded number; every blob unless given. */
  readonly only?: readonly Uint8Array[]
  readonly signal?: AbortSignal
}

/** Answers, for digests, which of them (as lower-case hex) rows refer to. */
export type ReferenceCheck = (digests: readonly Buffer[]) => Promise<ReadonlySet<string>>

/** The open blob store of one gateway process. */
export interface Blobs {
  /** Opens a reception. @throws GatewayError STORAGE_FULL below the watermark, STORAGE_IO */
  stage(options?: { expectedBytes?: number }): Promise<Staged>
  /** Stages all chunks; the data set begins at `datasetOffset` when given. */
  stageFrom(
    chunks: AsyncIterable<Uint8Array>,
    options?: { expectedBytes?: number; datasetOffset?: number },
  ): Promise<StagedFile>
  /** Takes over a file on the same volume: hashes it and makes it durable where it lies; `commit` moves it. */
  stageFile(path: string, options?: { datasetOffset?: number }): Promise<StagedFile>
  /**
   * Renames a staged file to its digest, durably, and protects it from the sweeper until
   * `release`. Replaces an equal blob that exists, which also heals a damaged one.
   *
   * @throws GatewayError STORAGE_FULL, STORAGE_IO; the staged file is gone then
   */
  commit(staged: StagedFile): Promise<void>
  /**
   * Like `commit`, but begins at once and does not make the caller wait: rows may be prepared meanwhile,
   * and must not be committed before the promise resolves.
   */
  place(staged: StagedFile): Promise<void>
  /**
   * Gives a durable file on the same volume a second name, that of its digest, durably, and protects it
   * like `commit`; the file keeps its own.
   *
   * @throws GatewayError STORAGE_FULL, STORAGE_IO
   */
  adopt(path: string, sha256: Buffer): Promise<void>
  /** Protects a blob that a row is going to name; false when it is not there. */
  protect(sha256: Uint8Array): Promise<boolean>
  /** Ends one `commit` or `protect`, after its row was committed or given up. */
  release(sha256: Uint8Array): void
  /**
   * @param sizeBytes  its size, where it is known
   * @throws GatewayError STORAGE_CORRUPT when the blob is missing, or when it is read and shorter; STORAGE_IO
   */
  open(sha256: Uint8Array, sizeBytes?: number): Promise<OpenBlob>
  has(sha256: Uint8Array): Promise<boolean>
  path(sha256: Uint8Array): string
  /** Every blob, in ascending order of digest. */
  list(): AsyncIterable<StoredBlob>
  /** Removes blobs no row refers to, all or some of them, once they are older than `graceMs` (default one hour). */
  sweep(isReferenced: ReferenceCheck, options?: SweepOptions): Promise<SweepReport>
  /** @throws GatewayError STORAGE_FULL when `bytesExpected` more bytes would cross the watermark */
  assertRoom(bytesExpected: number): Promise<void>
  freeSpace(): Promise<FreeSpaceState>
}

/**
 * Opens the blob store in `dir`, creates its directories, and sweeps receptions that died with
 * their process.
 *
 * @param spares  empty staging files that are made ahead (default none)
 * @param before  called before each step that touches the disk, for tests that let it fail
 */
export async function openBlobs(options: {
  dir: string
  log: Log
  freeSpace?: FreeSpaceOptions
  spares?: number
  before?: BeforeStep
}): Promise<Blobs> {
  const root = join(options.dir, 'blobs')
  const before = options.before ?? (() => undefined)
  try {
    await makeFanOut(options.dir, root)
  } catch (error) {
    throw storageError(error, 'opening the blob store')
  }
  const space = new FreeSpace([options.dir], options.freeSpace ?? {})
  const staging = new Staging(join(options.dir, 'staging'), space, before, options.spares ?? 0)
  await staging.sweep()
  return new BlobStore(root, staging, space, before)
}

/**
 * All 256 directories are made at once and made durable. One level: with two, nearly every new blob
 * would make a directory and wait for two directory syncs instead of one; a directory of ext4 or XFS
 * holds the hundred thousands of names that this comes to in a large archive.
 */
async function makeFanOut(dir: string, root: string): Promise<void> {
  await mkdir(root, { recursive: true, mode: 0o700 })
  const present = new Set(await readdir(root))
  const dirs = new DirSync()
  for (let byte = 0; byte < 256; byte += 1) {
    const name = byte.toString(16).padStart(2, '0')
    if (!present.has(name)) await mkdir(join(root, name), { mode: 0o700 })
  }
  await dirs.sync(root)
  await dirs.sync(dir)
}

const defaultGraceMs = 3_600_000

class BlobStore implements Blobs {
  readonly #root: string
  readonly #staging: Staging
  readonly #space: FreeSpace
  readonly #before: BeforeStep
  readonly #dirs = new DirSync()
  /** Digests in use before their row exists, with how often. */
  readonly #protected = new Map<string, number>()
  /** While sweeps run: digests committed since the first of them began. */
  readonly #fresh = new Set<string>()
  #sweeps = 0

  constructor(root: string, staging: Staging, space: FreeSpace, before: BeforeStep) {
    this.#root = root
    this.#staging = staging
    this.#space = space
    this.#before = before
  }

  stage(options: { expectedBytes?: number } = {}): Promise<Staged> {
    return this.#staging.stage(options.expectedBytes ?? 0)
  }

  async stageFrom(
    chunks: AsyncIterable<Uint8Array>,
    options: { expectedBytes?: number; datasetOffset?: number } = {},
  ): Promise<StagedFile> {
    const staged = await this.stage(options)
    try {
      let at = 0
      for await (const chunk of chunks) {
        const meta = options.datasetOffset === undefined ? chunk.length : options.datasetOffset - at
        if (options.datasetOffset !== undefined && meta >= 0 && meta < chunk.length) {
          await staged.append([chunk.subarray(0, meta)])
          staged.markDataset()
          await staged.append([chunk.subarray(meta)])
        } else await staged.append([chunk])
        at += chunk.length
      }
      return await staged.finish()
    } catch (error) {
      await staged.discard()
      throw error
    }
  }

  async stageFile(path: string, options: { datasetOffset?: number } = {}): Promise<StagedFile> {
    try {
      const handle = await open(path, 'r+')
      try {
        return await hashFile(path, handle, options.datasetOffset)
      } finally {
        await handle.close()
      }
    } catch (error) {
      throw storageError(error, 'taking over a file')
    }
  }

  commit(staged: StagedFile): Promise<void> {
    return this.place(staged)
  }

  async place(staged: StagedFile): Promise<void> {
    const hex = staged.fileSha256.toString('hex')
    const target = this.path(staged.fileSha256)
    this.#protect(hex)
    if (this.#sweeps > 0) this.#fresh.add(hex)
    let renamed = false
    try {
      const dir = dirname(target)
      // A blob that a row may name already is only replaced by durable bytes. A new name may come first:
      // nothing refers to it yet, and both syncs then run side by side, which halves the wait.
      const isNew = !existsSync(target)
      if (!isNew) await staged.sync()
      await this.#before('rename', target)
      renameSync(staged.path, target)
      renamed = isNew
      await this.#before('sync-dir', dir)
      await Promise.all([staged.sync(), this.#dirs.sync(dir)])
    } catch (error) {
      if (renamed) rmSync(target, { force: true }) // it may not be whole
      this.release(staged.fileSha256)
      await staged.discard().catch(() => undefined) // the first error tells what is wrong
      throw storageError(error, 'committing a blob')
    }
  }

  async adopt(path: string, sha256: Buffer): Promise<void> {
    const target = this.path(sha256)
    this.#protect(hexOf(sha256))
    if (this.#sweeps > 0) this.#fresh.add(hexOf(sha256))
    let linked = false
    try {
      await this.#before('rename', target)
      linked = linkNew(path, target)
      // A blob that is there is replaced, which heals a damaged one.
      if (!linked) renameSync(twinOf(path), target)
      await this.#before('sync-dir', dirname(target))
      await this.#dirs.sync(dirname(target))
    } catch (error) {
      if (linked) rmSync(target, { force: true }) // nothing refers to it yet
      this.release(sha256)
      throw storageError(error, 'committing a blob')
    }
  }

  async protect(sha256: Uint8Array): Promise<boolean> {
    this.#protect(hexOf(sha256))
    if (await this.has(sha256)) return true
    this.release(sha256)
    return false
  }

  #protect(hex: string): void {
    this.#protected.set(hex, (this.#protected.get(hex) ?? 0) + 1)
  }

  release(sha256: Uint8Array): void {
    const hex = hexOf(sha256)
    const left = (this.#protected.get(hex) ?? 1) - 1
    if (left > 0) this.#protected.set(hex, left)
    else this.#protected.delete(hex)
    if (this.#sweeps > 0) this.#fresh.add(hex)
  }

  async open(sha256: Uint8Array, sizeBytes?: number): Promise<OpenBlob> {
    const path = this.path(sha256)
    try {
      return await openBlob(path, sizeBytes)
    } catch (error) {
      if (errnoOf(error) !== 'ENOENT') throw storageError(error, 'opening a blob')
      throw new GatewayError('STORAGE_CORRUPT', `blob ${hexOf(sha256)} is missing`, { cause: error })
    }
  }

  async has(sha256: Uint8Array): Promise<boolean> {
    try {
      await stat(this.path(sha256))
      return true
    } catch (error) {
      if (errnoOf(error) === 'ENOENT') return false
      throw storageError(error, 'looking for a blob')
    }
  }

  path(sha256: Uint8Array): string {
    const hex = hexOf(sha256)
    if (hex.length !== 64) throw new GatewayError('BAD_REQUEST', `expected a digest of 32 bytes, got ${sha256.length}`)
    return join(this.#root, hex.slice(0, 2), hex)
  }

  async *list(): AsyncIterable<StoredBlob> {
    for await (const leaf of this.#leaves()) {
      for (const name of leaf.names) {
        const found = await stat(join(leaf.dir, name)).catch(() => undefined) // swept meanwhile
        if (!found) continue
        const changedAt = new Date(Math.max(found.mtimeMs, found.ctimeMs))
        yield { sha256: Buffer.from(name, 'hex'), sizeBytes: found.size, changedAt }
      }
    }
  }

  async *#leaves(): AsyncIterable<{ dir: string; names: string[] }> {
    for (const first of (await readdir(this.#root)).sort()) {
      if (!/^[0-9a-f]{2}$/.test(first)) continue
      const dir = join(this.#root, first)
      const names = (await readdir(dir)).filter(name => /^[0-9a-f]{64}$/.test(name)).sort()
      if (names.length > 0) yield { dir, names }
    }
  }

  async sweep(isReferenced: ReferenceCheck, options: SweepOptions = {}): Promise<SweepReport> {
    const graceMs = options.graceMs ?? defaultGraceMs
    let seen = 0
    let removed = 0
    let removedBytes = 0
    this.#sweeps += 1
    try {
      for await (const { dir, names } of options.only ? this.#some(options.only) : this.#leaves()) {
        options.signal?.throwIfAborted()
        seen += names.length
        const referenced = await isReferenced(names.map(name => Buffer.from(name, 'hex')))
        for (const name of names) {
          if (referenced.has(name)) continue
          const bytes = this.#removeOrphan(join(dir, name), name, graceMs)
          if (bytes === undefined) continue
          removed += 1
          removedBytes += bytes
        }
      }
      return { seen, removed, removedBytes }
    } catch (error) {
      throw error instanceof GatewayError ? error : storageError(error, 'sweeping blobs')
    } finally {
      this.#sweeps -= 1
      if (this.#sweeps === 0) this.#fresh.clear()
    }
  }

  /** The given ones as leaves. */
  *#some(digests: readonly Uint8Array[]): Iterable<{ dir: string; names: string[] }> {
    const byDir = Map.groupBy(digests, sha256 => dirname(this.path(sha256)))
    for (const [dir, members] of byDir) yield { dir, names: members.map(hexOf) }
  }

  /**
   * Looks and removes in one synchronous step: nobody can commit the same digest in between. A
   * commit by another process shows as a fresh ctime, which rename sets.
   */
  #removeOrphan(path: string, hex: string, graceMs: number): number | undefined {
    if (this.#protected.has(hex) || this.#fresh.has(hex)) return undefined
    const found = statSync(path, { throwIfNoEntry: false })
    if (!found || Date.now() - Math.max(found.mtimeMs, found.ctimeMs) < graceMs) return undefined
    rmSync(path, { force: true })
    return found.size
  }

  assertRoom(bytesExpected: number): Promise<void> {
    return this.#space.assertRoom(bytesExpected)
  }

  freeSpace(): Promise<FreeSpaceState> {
    return this.#space.state()
  }
}

function hexOf(sha256: Uint8Array): string {
  return Buffer.from(sha256.buffer, sha256.byteOffset, sha256.byteLength).toString('hex')
}

/** Links `path` as `target`; false when that name is taken. */
function linkNew(path: string, target: string): boolean {
  try {
    linkSync(path, target)
    return true
  } catch (error) {
    if (errnoOf(error) === 'EEXIST') return false
    throw error
  }
}

/** A second name beside the first, to be renamed: a link cannot replace what is there. */
function twinOf(path: string): string {
  const twin = `${path}.blob`
  rmSync(twin, { force: true }) // of a run that was killed right here
  linkSync(path, twin)
  return twin
}
