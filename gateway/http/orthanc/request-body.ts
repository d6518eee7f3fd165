/** The body of a request as a stream, in groups of chunks, that does not take the connection with it. */
import type { Readable } from 'node:stream'
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
