/** A cancellation that first asks, and after a while insists. */
import { isGatewayError } from '../errors.ts'

/** The signal of last resort; to be disposed when the work has ended. */
export interface StopGrace extends Disposable {
  /** Aborts after the signal that it follows. */
  readonly hard: AbortSignal
}

/**
 * Lets what is under way end by itself for `graceMs` after somebody has cancelled it. Where the signal has another
 * reason, such as the end of the gateway, nobody waits for an orderly end.
 */
export function stopGrace(signal: AbortSignal, graceMs: number): StopGrace {
  const hard = new AbortController()
  let timer: NodeJS.Timeout | undefined
  const onAbort = (): void => {
    if (isGatewayError(signal.reason, 'TRANSFER_CANCELLED')) {
      timer = setTimeout(() => hard.abort(signal.reason), graceMs)
    } else hard.abort(signal.reason)
  }
  if (signal.aborted) onAbort()
  else signal.addEventListener('abort', onAbort, { once: true })
  return {
    hard: hard.signal,
    [Symbol.dispose]() {
      signal.removeEventListener('abort', onAbort)
      clearTimeout(timer)
    },
  }
}
