/** Reading a blob: ranges and streams over one open file. */
import type { FileHandle } from 'node:fs/promises'
import { GatewayError } from '../errors.ts'
import { storageError } from './io-error.ts'

/** An open blob; also a byte source. Must be closed. */
export interface OpenBlob {
  readonly sizeBytes: number
  /** Reads up to `length` bytes at `offset`; fewer only at the end. */
  read(offset: number, length: number): Promise<Uint8Array>
  /** The bytes from `start` up to, not including, `end`, in chunks. */
  stream(range?: { start?: number; end?: number }): AsyncIterable<Uint8Array>
  close(): Promise<void>
}

const streamChunkBytes = 256 * 1024

/** Wraps the handle of a blob's file, which `close` closes. */
export function openBlob(handle: FileHandle, sizeBytes: number): OpenBlob {
  return {
    sizeBytes,
    read: (offset, length) => readFully(handle, offset, Math.max(0, Math.min(length, sizeBytes - offset))),
    stream: ({ start = 0, end = sizeBytes } = {}) => streamRange(handle, start, Math.min(end, sizeBytes)),
    close: () => handle.close(),
  }
}

async function readFully(handle: FileHandle, offset: number, length: number): Promise<Uint8Array> {
  const buffer = Buffer.allocUnsafe(length)
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

/** Reads one chunk ahead of the consumer. */
async function* streamRange(handle: FileHandle, start: number, end: number): AsyncIterable<Uint8Array> {
  const readAt = (at: number): Promise<Uint8Array> | undefined => {
    if (at >= end) return undefined
    const reading = readFully(handle, at, Math.min(streamChunkBytes, end - at))
    reading.catch(() => undefined) // a consumer that stops early never awaits it
    return reading
  }
  let next = readAt(start)
  for (let at = start; next; ) {
    const chunk = await next
    if (chunk.length === 0) throw new GatewayError('STORAGE_CORRUPT', 'a blob became shorter while it was read')
    at += chunk.length
    next = readAt(at)
    yield chunk
  }
}
