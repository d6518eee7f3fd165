/** A file that is complete but not yet a blob. */
import { createHash } from 'node:crypto'
import { type FileHandle, open, rm } from 'node:fs/promises'
import { storageError } from './io-error.ts'

/** A complete staging file; also a byte source for reading its header. It must be committed or discarded. */
export interface StagedFile {
  readonly path: string
  readonly sizeBytes: number
  /** SHA-256 of the whole file, the blob's name. */
  readonly fileSha256: Buffer
  /** SHA-256 of the data set; undefined when `markDataset` was not called. */
  readonly datasetSha256: Buffer | undefined
  /** Where the data set begins, in bytes; 0 when `markDataset` was not called. */
  readonly datasetOffset: number
  /** Reads up to `length` bytes; fewer only at the end. The first ones come from memory. */
  read(offset: number, length: number): Promise<Uint8Array>
  /** Makes its bytes durable, under whatever name the file has by now. @throws the system's error */
  sync(): Promise<void>
  /** Removes the file; harmless after `commit`. */
  discard(): Promise<void>
}

/**
 * Describes a file in the staging area, or one that a caller hands over. `sync` and `close` are given
 * for a file that is still open and not durable; without them it is both closed and durable.
 */
export function stagedFile(
  file: Omit<StagedFile, 'read' | 'discard' | 'sync'> & {
    readonly head: readonly Uint8Array[]
    readonly sync?: () => Promise<void>
    readonly close?: () => void
  },
): StagedFile {
  const { head, path, sizeBytes, fileSha256, datasetSha256, datasetOffset, close } = file
  const headSize = head.reduce((sum, chunk) => sum + chunk.length, 0)
  return {
    path,
    sizeBytes,
    fileSha256,
    datasetSha256,
    datasetOffset,
    read: async (offset, length) => {
      const end = Math.min(offset + length, sizeBytes)
      if (offset >= end) return new Uint8Array()
      return end <= headSize ? readMemory(head, offset, end) : await readFileRange(path, offset, end - offset)
    },
    sync: file.sync ?? (() => Promise.resolve()),
    discard: async () => {
      close?.()
      await rm(path, { force: true })
    },
  }
}

function readMemory(chunks: readonly Uint8Array[], start: number, end: number): Uint8Array {
  const parts: Uint8Array[] = []
  let at = 0
  for (const chunk of chunks) {
    if (at >= end) break
    if (at + chunk.length > start) parts.push(chunk.subarray(Math.max(0, start - at), end - at))
    at += chunk.length
  }
  return parts.length === 1 && parts[0] ? parts[0] : Buffer.concat(parts)
}

async function readFileRange(path: string, offset: number, length: number): Promise<Uint8Array> {
  const handle = await open(path, 'r').catch(error => {
    throw storageError(error, 'reading a staging file')
  })
  try {
    const buffer = Buffer.allocUnsafe(length)
    const { bytesRead } = await handle.read(buffer, 0, length, offset)
    return buffer.subarray(0, bytesRead)
  } finally {
    await handle.close()
  }
}

const hashChunkBytes = 256 * 1024

/** Makes a file that lies there durable and hashes it. */
export async function hashFile(
  path: string,
  handle: FileHandle,
  datasetOffset: number | undefined,
): Promise<StagedFile> {
  const fileHash = createHash('sha256')
  const datasetHash = datasetOffset === undefined ? undefined : createHash('sha256')
  const head: Uint8Array[] = []
  let at = 0
  await handle.datasync()
  for await (const chunk of handle.createReadStream({ start: 0, autoClose: false, highWaterMark: hashChunkBytes })) {
    fileHash.update(chunk)
    if (datasetOffset !== undefined && at + chunk.length > datasetOffset) {
      datasetHash?.update(chunk.subarray(Math.max(0, datasetOffset - at)))
    }
    if (head.length === 0) head.push(chunk)
    at += chunk.length
  }
  return stagedFile({
    path,
    sizeBytes: at,
    fileSha256: fileHash.digest(),
    datasetSha256: datasetHash?.digest(),
    datasetOffset: datasetOffset ?? 0,
    head,
  })
}
