/** Ends work for a client that has gone away. */
import type { FastifyReply } from 'fastify'
import { GatewayError } from '../errors.ts'

/** Aborts when the connection closes before the answer is out. */
export function goneSignal({ raw }: Pick<FastifyReply, 'raw'>): AbortSignal {
  const gone = new AbortController()
  raw.once('close', () => {
    if (!raw.writableFinished) gone.abort(new GatewayError('TRANSFER_CANCELLED', 'the client has gone away'))
  })
  return gone.signal
}
