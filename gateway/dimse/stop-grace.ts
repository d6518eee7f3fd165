/** A cancellation that first asks, and after a while insists. */
import { isGatewayError } from '../errors.ts'

/** The signal of last resort; to be disposed when the work has ended. */
export interface StopGrace extends Disposable {
  /** Aborts after the signal that it follows. */
  readonly hard: AbortSignal
}

/**
 * Lets what is under way end by itself for `graceMs` after it was cancelled; at once where the one who wanted it is
 * gone (PEER_UNREACHABLE).
 */
export function stopGrace(signal: AbortSignal, graceMs: number): StopGrace {
  const hard = new AbortController()
  let timer: NodeJS.Timeout | undefined
  const onAbort = (): void => {
    const waitMs = isGatewayError(signal.reason, 'PEER_UNREACHABLE') ? 0 : graceMs
    timer = setTimeout(() => hard.abort(signal.reason), waitMs)
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
