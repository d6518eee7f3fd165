/** Reading a blob: ranges of one open file. */
import type { FileHandle } from 'node:fs/promises'
import { storageError } from './io-error.ts'

/** An open blob; also a byte source. Must be closed. */
export interface OpenBlob {
  readonly sizeBytes: number
  /** Reads up to `length` bytes at `offset`; fewer only at the end. A view of `into` when it is given. */
  read(offset: number, length: number, into?: Buffer): Promise<Uint8Array>
  close(): Promise<void>
}

/** Wraps the handle of a blob's file, which `close` closes. */
export function openBlob(handle: FileHandle, sizeBytes: number): OpenBlob {
  return {
    sizeBytes,
    read: (offset, length, into) => readFully(handle, offset, Math.max(0, Math.min(length, sizeBytes - offset)), into),
    close: () => handle.close(),
  }
}

async function readFully(handle: FileHandle, offset: number, length: number, into?: Buffer): Promise<Uint8Array> {
  const buffer = into ?? Buffer.allocUnsafe(length)
  let filled = 0
  try {
    while (filled < length) {
      const { bytesRead } = await handle.read(buffer, filled, length - filled, offset + filled)
      if (bytesRead === 0) break
      filled += bytesRead
    }
  } catch (error) {
    throw storageError(error, 'reading a blob')
  }
  return buffer.subarray(0, filled)
}
