/** Reading prepared objects from our disk: what is not what was prepared is never packed. */
import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import type { Readable } from 'node:stream'
import { type OpenBlob, openBlob } from '../../gateway/store/blob-reader.ts'
import { storageError } from '../../gateway/store/io-error.ts'
import { damagedFile } from '../../gateway/zip/zip-content.ts'
import type { PreparedObject } from '../package.ts'

const partBytes = 1_048_576

/** Opens a prepared object, which the caller closes. @throws GatewayError STORAGE_CORRUPT for another size, STORAGE_IO */
export async function openObject({ path, size }: PreparedObject): Promise<OpenBlob> {
  try {
    const blob = await openBlob(path)
    if (blob.sizeBytes === size) return blob
    await blob.close()
  } catch (error) {
    throw storageError(error, 'opening a prepared object')
  }
  throw damagedFile()
}

/** A finished file from `start` on, in parts that are worth a call each. */
export function readFrom(path: string, start: number): Readable {
  return createReadStream(path, { start, highWaterMark: 262_144 })
}

/**
 * The bytes of a prepared object; each chunk is valid until the next one is asked for.
 *
 * @throws GatewayError STORAGE_CORRUPT after the last one when they have another digest, STORAGE_IO; the reason of `signal`
 */
export async function* readObject(object: PreparedObject, signal: AbortSignal): AsyncGenerator<Uint8Array> {
  await using opened = new AsyncDisposableStack()
  const blob = opened.adopt(await openObject(object), held => held.close())
  const hash = createHash('sha256')
  const buffer = Buffer.allocUnsafe(Math.min(partBytes, object.size))
  for (let at = 0; at < object.size; ) {
    signal.throwIfAborted()
    const chunk = await blob.read(at, partBytes, buffer)
    if (chunk.length === 0) throw damagedFile()
    hash.update(chunk)
    yield chunk
    at += chunk.length
  }
  if (hash.digest('hex') !== object.sha256) throw damagedFile()
}

/** Reads a prepared object that will be delivered as it is. @throws GatewayError as `readObject` */
export async function verifyObject(object: PreparedObject, signal: AbortSignal): Promise<void> {
  for await (const _ of readObject(object, signal)) {
    // its digest is what matters
  }
}
