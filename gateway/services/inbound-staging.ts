/**
 * The bytes of inbound transfers before they are instances: `<data>/inbound/<manifest id>/<ordinal>`,
 * one file per object, filled range by range in any order. Names come from a hash and a number, never
 * from what a peer wrote. Not below `<data>/staging`, which is swept at every start: these bytes were
 * acknowledged.
 */
import {
  closeSync,
  constants,
  fdatasync as fdatasyncCallback,
  openSync,
  read as readCallback,
  write as writeCallback,
} from 'node:fs'
import { copyFile, mkdir, open, readdir, rename, rmdir, stat, unlink } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import type { Bitmap, LeafRun } from '../../peers/bitmap.ts'
import { type LeafMap, leafBytes, type Piece } from '../../peers/leaves.ts'
import { GatewayError } from '../errors.ts'
import { errnoOf, storageError } from '../store/io-error.ts'
import { inParallel } from './parallel.ts'

export interface InboundStaging {
  /** Makes a transfer's directory. */
  create(manifestId: string): Promise<void>
  /**
   * Writes a range. When it returns, the range is on stable storage and a row may say so.
   *
   * @param received  leaves that are durable already: they are compared, not written
   * @throws GatewayError CHUNK_CONFLICT when a received leaf has other bytes, STORAGE_IO, STORAGE_FULL
   */
  write(manifestId: string, range: { map: LeafMap; run: LeafRun; bytes: Uint8Array; received: Bitmap }): Promise<void>
  /**
   * Gives these objects files of their own, where they share one with the blob store: bytes that are
   * about to be received again must not change a blob.
   */
  unshare(manifestId: string, ordinals: readonly number[]): Promise<void>
  /** Path of an object's file. */
  path(manifestId: string, ordinal: number): string
  remove(manifestId: string): Promise<void>
  /** Manifest ids whose directory nothing was added to for `quietMs`. */
  findQuiet(quietMs: number): Promise<string[]>
}

const read = promisify(readCallback)
const write = promisify(writeCallback)
const fdatasync = promisify(fdatasyncCallback)

/** Files written and synced at once per range: as many as the gateway has threads for it. */
const parallelFiles = 8

/** Opens the area below `dir`, the gateway's data directory. */
export async function openInboundStaging(dir: string): Promise<InboundStaging> {
  const root = join(dir, 'inbound')
  await mkdir(root, { recursive: true, mode: 0o700 })
  await syncDirectory(dir)
  const path = (manifestId: string, ordinal: number): string => join(root, manifestId, String(ordinal))
  // Entries known to be durable in this process; after a restart the directory is synced once more.
  const known = new Map<string, Set<number>>()

  return {
    path,
    async create(manifestId) {
      await mkdir(join(root, manifestId), { recursive: true, mode: 0o700 })
      await syncDirectory(root)
    },
    async write(manifestId, { map, run, bytes, received }) {
      const pieces = map.pieces(run)
      const parts = splitByKnown(pieces, run, received)
      const entries = known.get(manifestId) ?? new Set()
      known.set(manifestId, entries)
      const isNew = pieces.some(piece => !entries.has(piece.ordinal))
      const writing = inParallel(parts, parallelFiles, part =>
        store(path(manifestId, part.ordinal), part, bytes.subarray(part.at, part.at + part.length)),
      )
      await writing.catch(error => {
        throw storageError(error, 'writing a received range')
      })
      if (isNew) {
        await syncDirectory(join(root, manifestId))
        for (const piece of pieces) entries.add(piece.ordinal)
      }
    },
    async unshare(manifestId, ordinals) {
      for (const ordinal of ordinals) {
        const own = path(manifestId, ordinal)
        const found = await stat(own).catch(() => undefined) // gone: it will be received again
        if (!found || found.nlink === 1) continue
        await copyFile(own, `${own}.copy`)
        const copy = await open(`${own}.copy`, 'r+')
        await copy.datasync().finally(() => copy.close())
        await rename(`${own}.copy`, own)
      }
      await syncDirectory(join(root, manifestId))
    },
    async remove(manifestId) {
      known.delete(manifestId)
      await removeFlat(join(root, manifestId))
    },
    async findQuiet(quietMs) {
      const names = await readdir(root)
      const ages = await Promise.all(names.map(name => stat(join(root, name)).catch(() => undefined)))
      return names.filter((_, index) => Date.now() - (ages[index]?.mtimeMs ?? Date.now()) > quietMs)
    },
  }
}

interface Part extends Piece {
  readonly isReceived: boolean
}

/** Cuts pieces where a leaf that is here meets one that is not. */
function splitByKnown(pieces: readonly Piece[], run: LeafRun, received: Bitmap): Part[] {
  const isFresh = received.nextRun(run.from, 1)?.from ?? run.to + 1
  if (isFresh > run.to) return pieces.map(piece => ({ ...piece, isReceived: false }))
  const parts: Part[] = []
  for (const piece of pieces) {
    for (let done = 0; done < piece.length; ) {
      const at = piece.at + done
      const leaf = run.from + Math.floor(at / leafBytes)
      const length = Math.min(piece.length - done, (leaf - run.from + 1) * leafBytes - at)
      parts.push({ ordinal: piece.ordinal, offset: piece.offset + done, length, at, isReceived: received.has(leaf) })
      done += length
    }
  }
  return parts
}

async function store(path: string, part: Part, slice: Uint8Array): Promise<void> {
  // Opening and closing are cheap, and cheaper than a trip to another thread each; writing and syncing are neither.
  const file = openSync(path, constants.O_RDWR | constants.O_CREAT, 0o600)
  try {
    if (part.isReceived) return await compare(file, part, slice)
    await writeFully(file, slice, part.offset)
    await fdatasync(file)
  } finally {
    closeSync(file)
  }
}

async function compare(file: number, part: Part, slice: Uint8Array): Promise<void> {
  const stored = Buffer.allocUnsafe(slice.length)
  const { bytesRead } = await read(file, stored, 0, stored.length, part.offset)
  if (bytesRead !== slice.length || !stored.equals(slice)) {
    throw new GatewayError('CHUNK_CONFLICT', 'a leaf that was acknowledged is sent again with other bytes')
  }
}

async function writeFully(file: number, bytes: Uint8Array, position: number): Promise<void> {
  for (let done = 0; done < bytes.length; ) {
    const { bytesWritten } = await write(file, bytes, done, bytes.length - done, position + done)
    done += bytesWritten
  }
}

/** Removes a directory of files; unlike `rm` it does not look at each first, and of a study there are hundreds. */
async function removeFlat(path: string): Promise<void> {
  const names = await readdir(path).catch(() => undefined)
  if (!names) return
  const gone = (error: unknown): void => {
    if (errnoOf(error) !== 'ENOENT') throw error
  }
  await inParallel(names, parallelFiles, name => unlink(join(path, name)).catch(gone))
  await rmdir(path).catch(gone)
}

async function syncDirectory(path: string): Promise<void> {
  const directory = await open(path, 'r')
  try {
    await directory.sync()
  } finally {
    await directory.close()
  }
}
