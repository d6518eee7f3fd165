/** Fetches one file of an endpoint to our disk: by stream, from where an interrupted fetch was cut. */
import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { open, stat } from 'node:fs/promises'
import type { ArrivingFile } from '../../endpoints/arriving.ts'
import type { FileStore } from '../../endpoints/file-store.ts'
import { GatewayError } from '../errors.ts'
import { errnoOf, storageError } from '../store/io-error.ts'

/**
 * Fetches a file; its bytes are durable when it returns.
 *
 * @param to  its beginning may be there from an earlier attempt at the same file
 * @returns its SHA-256
 * @throws GatewayError ENDPOINT_*, STATE_CONFLICT when it is another file now, STORAGE_FULL, STORAGE_IO
 */
export async function fetchFile(
  store: FileStore,
  { path, size, modified }: ArrivingFile,
  to: string,
  signal: AbortSignal,
): Promise<Buffer> {
  const known = (await stat(to).catch(() => undefined))?.size ?? 0
  const offset = store.can.resume && known <= size ? known : 0
  const hash = createHash('sha256')
  if (offset > 0) for await (const chunk of createReadStream(to, { end: offset - 1 })) hash.update(chunk)
  let position = offset
  const file = await open(to, offset > 0 ? 'r+' : 'w', 0o600).catch(error => {
    throw storageError(error, 'fetching a file')
  })
  try {
    if (offset < size || size === 0) {
      for await (const bytes of readable(await store.get(path, offset, signal), signal)) {
        if (position + bytes.length > size) throw changed()
        await file.write(bytes, 0, bytes.length, position).catch(error => {
          throw storageError(error, 'fetching a file')
        })
        hash.update(bytes)
        position += bytes.length
      }
    }
    if (position < size) throw new GatewayError('ENDPOINT_UNREACHABLE', 'the endpoint sent less than the whole file')
    await file.sync()
  } finally {
    await file.close()
  }
  const now = store.can.list ? await store.stat(path, signal) : undefined
  if (now && (now.size !== size || !isSameTime(now.modified, modified))) throw changed()
  return hash.digest()
}

/** Chunks; what breaks without saying more is a connection. */
async function* readable(source: AsyncIterable<Uint8Array>, signal: AbortSignal): AsyncGenerator<Uint8Array> {
  try {
    for await (const chunk of source) {
      signal.throwIfAborted()
      yield chunk
    }
  } catch (error) {
    signal.throwIfAborted()
    if (error instanceof GatewayError) throw error
    const reason = errnoOf(error)
    throw new GatewayError(
      'ENDPOINT_UNREACHABLE',
      `the connection to the endpoint broke${reason ? `: ${reason}` : ''}`,
      {
        cause: error,
      },
    )
  }
}

/** Listings and answers about one file differ in their fractions of a second; some tell no time. */
function isSameTime(now: Date | undefined, before: string): boolean {
  if (now === undefined || before === '') return true
  return Math.abs(now.getTime() - Date.parse(before)) < 1_000
}

/** It went, or is another file now. */
export const changed = (): GatewayError =>
  new GatewayError('STATE_CONFLICT', 'the file was changed while it was being fetched: it is looked at anew')
