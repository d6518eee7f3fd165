/** Reading a blob: ranges of one open file. */
import fs from 'node:fs'
import { promisify } from 'node:util'
import { GatewayError } from '../errors.ts'
import { storageError } from './io-error.ts'

/** An open blob; also a byte source. Must be closed. */
export interface OpenBlob {
  readonly sizeBytes: number
  /** Reads up to `length` bytes at `offset`; fewer only at the end. A view of `into` when it is given. */
  read(offset: number, length: number, into?: Buffer): Promise<Uint8Array>
  close(): Promise<void>
}

// Descriptors and callbacks, not file handles: a handle costs a second promise for each call, and a trip to a thread to
// close what was only read.
const open = promisify(fs.open)
const fstat = promisify(fs.fstat)

/**
 * Opens a file for reading.
 *
 * @param sizeBytes  what is known of its size: saves a question, and a shorter file is found when it is read
 * @throws the error of the file system
 */
export async function openBlob(path: string, sizeBytes?: number): Promise<OpenBlob> {
  const fd = await open(path, 'r')
  try {
    return blobOf(fd, sizeBytes ?? (await fstat(fd)).size)
  } catch (error) {
    fs.closeSync(fd)
    throw error
  }
}

function blobOf(fd: number, sizeBytes: number): OpenBlob {
  let reading = 0
  const closed = Promise.withResolvers<void>()
  let isOpen = true
  // Never under a running read: the next file to be opened would get the number.
  const closeUnused = (): void => {
    if (isOpen || reading > 0) return
    fs.closeSync(fd)
    closed.resolve()
  }
  return {
    sizeBytes,
    async read(offset, length, into) {
      if (!isOpen) throw new RangeError('the blob is closed')
      reading += 1
      try {
        return await readFully(fd, offset, Math.max(0, Math.min(length, sizeBytes - offset)), into)
      } finally {
        reading -= 1
        closeUnused()
      }
    },
    async close() {
      if (isOpen) {
        isOpen = false
        closeUnused()
      }
      await closed.promise
    },
  }
}

async function readFully(fd: number, offset: number, length: number, into?: Buffer): Promise<Uint8Array> {
  const buffer = into ?? Buffer.allocUnsafe(length)
  let filled = 0
  while (filled < length) {
    const bytesRead = await readOnce(fd, buffer, filled, length - filled, offset + filled)
    if (bytesRead === 0) throw new GatewayError('STORAGE_CORRUPT', 'a stored file is shorter than it was')
    filled += bytesRead
  }
  return buffer.subarray(0, filled)
}

function readOnce(fd: number, buffer: Buffer, at: number, length: number, offset: number): Promise<number> {
  const { promise, resolve, reject } = Promise.withResolvers<number>()
  fs.read(fd, buffer, at, length, offset, (error, bytesRead) => {
    if (error) reject(storageError(error, 'reading a blob'))
    else resolve(bytesRead)
  })
  return promise
}
