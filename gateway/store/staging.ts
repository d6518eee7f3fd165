/**
 * Receptions in progress: files under `<data>/staging/<process>/`, hashed while they are written.
 * Each process has a directory of its own, so that what dead processes left can be swept while a
 * living one receives.
 */
import { createHash, type Hash, randomBytes } from 'node:crypto'
import {
  closeSync,
  fdatasync as fdatasyncCallback,
  open as openCallback,
  openSync,
  readFileSync,
  writev as writevCallback,
  writevSync,
} from 'node:fs'
import { mkdir, readdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import type { FreeSpace } from './free-space.ts'
import { storageError } from './io-error.ts'
import { type StagedFile, stagedFile } from './staged-file.ts'

/** A reception that is being written. One writer: `append` calls must not overlap. */
export interface Staged {
  /**
   * Takes the chunks; their bytes must not change until this resolves, and those of chunks that
   * begin within the first `headBytes` not before the file is committed or discarded.
   */
  append(chunks: readonly Uint8Array[]): Promise<void>
  /** The data set begins with the next byte: `datasetSha256` covers everything from here. */
  markDataset(): void
  /** Ends the writing; the bytes become durable by `Blobs.commit`. */
  finish(): Promise<StagedFile>
  /** Ends the reception and removes what was written; harmless after the end. */
  discard(): Promise<void>
}

/** The moments at which a test may let the storage fail or the process die. */
export type StorageStep = 'create' | 'write' | 'sync' | 'rename' | 'sync-dir'
/** Called before each step; what it throws counts as the error of the operation. */
export type BeforeStep = (step: StorageStep, path: string) => void | Promise<void>

/** What of a file's start stays in memory, so that reading a header costs no I/O. */
export const headBytes = 256 * 1024
/** A long reception looks at the free space again after so many bytes. */
const roomCheckBytes = 16 * 1024 * 1024

/** Makes staging files. */
export class Staging {
  readonly #root: string
  readonly #dir: string
  readonly #space: FreeSpace
  readonly #before: BeforeStep
  readonly #mostSpares: number
  readonly #spares: EmptyFile[] = []
  readonly #prefix = randomBytes(6).toString('hex')
  #files = 0
  #isFilling = false
  #made: Promise<unknown> | undefined

  /** @param mostSpares  empty files that are made ahead, so that no reception waits for the directory */
  constructor(root: string, space: FreeSpace, before: BeforeStep, mostSpares: number) {
    this.#root = root
    this.#dir = join(root, ownName())
    this.#space = space
    this.#before = before
    this.#mostSpares = mostSpares
  }

  /** Removes what processes that no longer run have left. */
  async sweep(): Promise<void> {
    for (const name of await readdir(this.#root).catch(() => [])) {
      if (!isRunning(name)) await rm(join(this.#root, name), { recursive: true, force: true })
    }
  }

  /** Opens a reception of about `expectedBytes`. */
  async stage(expectedBytes: number): Promise<Staged> {
    await this.#space.reserve(expectedBytes)
    try {
      const { path, fd } = this.#spares.shift() ?? (await this.#create())
      if (!this.#isFilling) void this.#fill()
      return new StagedWriter(path, fd, expectedBytes, this.#space, this.#before)
    } catch (error) {
      this.#made = undefined
      this.#space.unreserve(expectedBytes)
      throw storageError(error, 'opening a staging file')
    }
  }

  async #create(): Promise<EmptyFile> {
    const path = this.#newPath()
    this.#made ??= mkdir(this.#dir, { recursive: true, mode: 0o700 })
    await this.#made
    await this.#before('create', path)
    return { path, fd: openSync(path, 'wx', 0o600) }
  }

  /**
   * Makes spare files, one after the other, off the event loop: ext4 takes up to a millisecond for
   * each new file while it steps over the inodes of thousands that were removed a short while ago.
   */
  async #fill(): Promise<void> {
    this.#isFilling = true
    try {
      while (this.#spares.length < this.#mostSpares) {
        const path = this.#newPath()
        this.#spares.push({ path, fd: await open(path, 'wx', 0o600) })
      }
    } catch {
      // Whatever stands in the way now, the next reception makes its file itself and hears of it.
    } finally {
      this.#isFilling = false
    }
  }

  #newPath(): string {
    this.#files += 1
    return join(this.#dir, `${this.#prefix}-${this.#files}`)
  }
}

interface EmptyFile {
  readonly path: string
  readonly fd: number
}

class StagedWriter implements Staged {
  readonly #path: string
  readonly #fd: number
  readonly #space: FreeSpace
  readonly #before: BeforeStep
  readonly #fileHash: Hash = createHash('sha256')
  readonly #head: Uint8Array[] = []
  #datasetHash: Hash | undefined
  #datasetOffset = 0
  #sizeBytes = 0
  /** A short beginning, such as the file meta information, is written with what follows it. */
  #beginning: readonly Uint8Array[] = []
  #headSize = 0
  #reserved: number
  #nextRoomCheck = roomCheckBytes
  #open = true
  #isClosed = false

  constructor(path: string, fd: number, expectedBytes: number, space: FreeSpace, before: BeforeStep) {
    this.#path = path
    this.#fd = fd
    this.#space = space
    this.#before = before
    this.#reserved = expectedBytes
  }

  markDataset(): void {
    this.#datasetHash = createHash('sha256')
    this.#datasetOffset = this.#sizeBytes
  }

  async append(chunks: readonly Uint8Array[]): Promise<void> {
    if (!this.#open) throw storageError(new Error('closed'), 'appending to a finished staging file')
    try {
      const bytes = lengthOf(chunks)
      if (bytes === 0) return
      if (this.#sizeBytes === 0 && bytes <= shortBytes) {
        this.#beginning = chunks
        this.#take(chunks)
        this.#sizeBytes += bytes
      } else await this.#write(chunks, bytes)
    } catch (error) {
      await this.discard()
      throw storageError(error, 'writing a staging file')
    }
  }

  async #write(chunks: readonly Uint8Array[], bytes: number): Promise<void> {
    await this.#before('write', this.#path)
    const writing = this.#writeAll(chunks, bytes)
    this.#take(chunks) // hashed while the kernel copies
    await writing
    this.#sizeBytes += bytes
    this.#unreserve(Math.min(bytes, this.#reserved))
    this.#space.wrote(bytes)
    if (this.#sizeBytes >= this.#nextRoomCheck) {
      this.#nextRoomCheck = this.#sizeBytes + roomCheckBytes
      await this.#space.assertRoom(0)
    }
  }

  #writeAll(chunks: readonly Uint8Array[], bytes: number): Promise<void> {
    const beginning = this.#beginning
    this.#beginning = []
    return writeAll(this.#fd, [...beginning, ...chunks], lengthOf(beginning) + bytes)
  }

  #take(chunks: readonly Uint8Array[]): void {
    for (const chunk of chunks) {
      this.#fileHash.update(chunk)
      this.#datasetHash?.update(chunk)
      if (this.#headSize < headBytes) {
        this.#head.push(chunk)
        this.#headSize += chunk.length
      }
    }
  }

  async finish(): Promise<StagedFile> {
    if (!this.#open) throw storageError(new Error('closed'), 'finishing a staging file twice')
    if (this.#beginning.length > 0) await this.#writeBeginning()
    this.#open = false
    this.#unreserve(this.#reserved)
    return stagedFile({
      path: this.#path,
      sizeBytes: this.#sizeBytes,
      fileSha256: this.#fileHash.digest(),
      datasetSha256: this.#datasetHash?.digest(),
      datasetOffset: this.#datasetOffset,
      head: this.#head,
      sync: () => this.#sync(),
      close: () => this.#close(),
    })
  }

  /** Nothing followed it. */
  async #writeBeginning(): Promise<void> {
    try {
      await this.#before('write', this.#path)
      await this.#writeAll([], 0)
    } catch (error) {
      await this.discard()
      throw storageError(error, 'writing a staging file')
    }
  }

  async discard(): Promise<void> {
    if (!this.#open) return
    this.#open = false
    this.#unreserve(this.#reserved)
    this.#close()
    await rm(this.#path, { force: true })
  }

  async #sync(): Promise<void> {
    if (this.#isClosed) return
    try {
      await this.#before('sync', this.#path)
      await fdatasync(this.#fd)
    } finally {
      this.#close()
    }
  }

  #close(): void {
    if (this.#isClosed) return
    this.#isClosed = true
    closeSync(this.#fd)
  }

  #unreserve(bytes: number): void {
    this.#reserved -= bytes
    this.#space.unreserve(bytes)
  }
}

/**
 * A small write into the page cache takes less than the trip to another thread and back, which costs
 * about 0.2 ms on two busy cores; larger ones, and every sync, must not hold up the event loop.
 */
const smallWriteBytes = 64 * 1024
const fdatasync = promisify(fdatasyncCallback)
const open = promisify(openCallback)
const writev = promisify(writevCallback)

/** A first write up to this long waits for the next one. */
const shortBytes = 4096

function lengthOf(chunks: readonly Uint8Array[]): number {
  return chunks.reduce((sum, chunk) => sum + chunk.length, 0)
}

/** `writev` may write less than it was given (a signal, a nearly full disk). */
async function writeAll(fd: number, chunks: readonly Uint8Array[], bytes: number): Promise<void> {
  let left = bytes
  let rest = [...chunks]
  while (left > 0) {
    const part = rest.slice(0, longestWritev)
    const bytesWritten = left <= smallWriteBytes ? writevSync(fd, part) : (await writev(fd, part)).bytesWritten
    left -= bytesWritten
    if (left > 0) rest = dropBytes(rest, bytesWritten)
  }
}

/** IOV_MAX on Linux and macOS. */
const longestWritev = 1024

function dropBytes(chunks: readonly Uint8Array[], bytes: number): Uint8Array[] {
  let skip = bytes
  const rest: Uint8Array[] = []
  for (const chunk of chunks) {
    if (skip >= chunk.length) skip -= chunk.length
    else {
      rest.push(skip > 0 ? chunk.subarray(skip) : chunk)
      skip = 0
    }
  }
  return rest
}

/** `<pid>-<start time>`: the start time tells a reused pid apart where the system says it. */
function ownName(): string {
  return `${process.pid}-${startTime(process.pid) ?? 0}`
}

function isRunning(name: string): boolean {
  const [pid = 0, started = 0] = name.split('-').map(Number)
  if (process.platform === 'linux') return startTime(pid) === started
  try {
    process.kill(pid, 0)
    return true
  } catch {
    return false
  }
}

/** Field 22 of proc(5) stat, ticks since boot. */
function startTime(pid: number): number | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
    return Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19])
  } catch {
    return undefined
  }
}
