/** Ends work for a client that has gone away. */
import { GatewayError } from '../../errors.ts'

/** Aborts when the connection closes before the answer is out. */
export function gone(reply: {
  readonly raw: NodeJS.EventEmitter & { readonly writableFinished: boolean }
}): AbortSignal {
  const controller = new AbortController()
  reply.raw.once('close', () => {
    if (!reply.raw.writableFinished) controller.abort(new GatewayError('TRANSFER_CANCELLED', 'the client has gone'))
  })
  return controller.signal
}
