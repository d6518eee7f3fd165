/**
 * The bytes of inbound transfers before they are instances: `<data>/inbound/<manifest id>/<ordinal>`,
 * one file per object, filled range by range in any order. Names come from a hash and a number, never
 * from what a peer wrote. Not below `<data>/staging`, which is swept at every start: these bytes were
 * acknowledged.
 */
import { createHash } from 'node:crypto'
import { constants } from 'node:fs'
import { type FileHandle, mkdir, open, readdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import type { Bitmap, LeafRun } from '../../peers/bitmap.ts'
import { type LeafMap, leafBytes, type Piece } from '../../peers/leaves.ts'
import { GatewayError } from '../errors.ts'
import { storageError } from '../store/io-error.ts'
import { inParallel } from './parallel.ts'

/** Digests of one object's bytes, taken as they arrived. */
export interface ArrivalDigests {
  readonly fileSha256: Buffer
  /** Present when the bytes begin as a Part 10 file does (DICOM PS3.10 §7.1). */
  readonly dataset?: { readonly offset: number; readonly sha256: Buffer }
}

export interface InboundStaging {
  /** Makes a transfer's directory. */
  create(manifestId: string): Promise<void>
  /**
   * Writes a range. When it returns, the range is on stable storage and a row may say so.
   *
   * @param received  leaves that are durable already: they are compared, not written
   * @returns digests of the objects that lie wholly in the range
   * @throws GatewayError CHUNK_CONFLICT when a received leaf has other bytes, STORAGE_IO, STORAGE_FULL
   */
  write(
    manifestId: string,
    range: { map: LeafMap; run: LeafRun; bytes: Uint8Array; received: Bitmap },
  ): Promise<Map<number, ArrivalDigests>>
  /** Path of an object's file. */
  path(manifestId: string, ordinal: number): string
  remove(manifestId: string): Promise<void>
  /** Manifest ids that have a directory. */
  list(): Promise<string[]>
}

/** Files written and synced at once per range: as many as libuv has threads by default. */
const parallelFiles = 4

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
      const digests = new Map<number, ArrivalDigests>()
      const entries = known.get(manifestId) ?? new Set()
      known.set(manifestId, entries)
      const isNew = pieces.some(piece => !entries.has(piece.ordinal))
      const writing = inParallel(parts, parallelFiles, async part => {
        const slice = bytes.subarray(part.at, part.at + part.length)
        const stored = store(path(manifestId, part.ordinal), part, slice)
        // Hashed while the thread pool writes.
        if (part.length === map.sizeOf(part.ordinal)) digests.set(part.ordinal, digest(slice))
        await stored
      })
      await writing.catch(error => {
        throw storageError(error, 'writing a received range')
      })
      if (isNew) {
        await syncDirectory(join(root, manifestId))
        for (const piece of pieces) entries.add(piece.ordinal)
      }
      return digests
    },
    async remove(manifestId) {
      known.delete(manifestId)
      await rm(join(root, manifestId), { recursive: true, force: true })
    },
    list: async () => await readdir(root),
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
  const file = await open(path, constants.O_RDWR | constants.O_CREAT, 0o600)
  try {
    if (part.isReceived) return await compare(file, part, slice)
    await writeFully(file, slice, part.offset)
    await file.datasync()
  } finally {
    await file.close()
  }
}

async function compare(file: FileHandle, part: Part, slice: Uint8Array): Promise<void> {
  const stored = Buffer.allocUnsafe(slice.length)
  const { bytesRead } = await file.read(stored, 0, stored.length, part.offset)
  if (bytesRead !== slice.length || !stored.equals(slice)) {
    throw new GatewayError('CHUNK_CONFLICT', 'a leaf that was acknowledged is sent again with other bytes')
  }
}

async function writeFully(file: FileHandle, bytes: Uint8Array, position: number): Promise<void> {
  for (let done = 0; done < bytes.length; ) {
    const { bytesWritten } = await file.write(bytes, done, bytes.length - done, position + done)
    done += bytesWritten
  }
}

function digest(bytes: Uint8Array): ArrivalDigests {
  const fileSha256 = createHash('sha256').update(bytes).digest()
  const offset = datasetOffset(bytes)
  if (offset === undefined) return { fileSha256 }
  return { fileSha256, dataset: { offset, sha256: createHash('sha256').update(bytes.subarray(offset)).digest() } }
}

/** End of the file meta information by its own group length, (0002,0000) UL; undefined for other beginnings. */
function datasetOffset(bytes: Uint8Array): number | undefined {
  if (bytes.length < 144) return undefined
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const hasMeta =
    view.getUint32(128) === 0x4449434d && view.getUint32(132) === 0x02000000 && view.getUint32(136) === 0x554c0400
  const offset = 144 + view.getUint32(140, true)
  return hasMeta && offset <= bytes.length ? offset : undefined
}

async function syncDirectory(path: string): Promise<void> {
  const directory = await open(path, 'r')
  try {
    await directory.sync()
  } finally {
    await directory.close()
  }
}
