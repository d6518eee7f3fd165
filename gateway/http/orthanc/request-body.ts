/** The body of a request as a stream, in groups of chunks, that does not take the connection with it. */
import type { IncomingMessage } from 'node:http'
import type { Readable } from 'node:stream'
import { createGunzip, createInflate } from 'node:zlib'
import { GatewayError } from '../../errors.ts'
import { gather } from '../../services/gather.ts'

/** What is written to disk at once, at most about that. */
const groupBytes = 1024 * 1024

/** @throws GatewayError BAD_REQUEST when it breaks off */
export async function* requestBody(request: Readable): AsyncGenerator<readonly Uint8Array[]> {
  try {
    yield* gather(request, groupBytes)
  } catch (cause) {
    throw new GatewayError('BAD_REQUEST', 'the upload broke off', { cause })
  }
}

/**
 * A body without its content coding (RFC 9110 §8.4.1), which grows while it is read: whoever reads it bounds it.
 *
 * @throws GatewayError BAD_REQUEST for a coding that is not known
 */
export function decodedBody(request: IncomingMessage): Readable {
  const coding = request.headers['content-encoding'] ?? 'identity'
  if (coding === 'identity' || coding === '') return request
  const decoder = coding === 'gzip' ? createGunzip() : coding === 'deflate' ? createInflate() : undefined
  if (!decoder) throw new GatewayError('BAD_REQUEST', 'expected a body in gzip or deflate, or as it is')
  request.once('close', () => {
    if (!request.complete) decoder.destroy(new Error('the client went away'))
  })
  return request.pipe(decoder)
}
