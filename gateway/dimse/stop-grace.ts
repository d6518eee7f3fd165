/** A cancellation that first asks, and after a while insists. */

/** The signal of last resort; to be disposed when the work has ended. */
export interface StopGrace extends Disposable {
  /** Aborts `graceMs` after the signal that it follows. */
  readonly hard: AbortSignal
}

/** Lets what is under way end by itself for a while after `signal`. */
export function stopGrace(signal: AbortSignal, graceMs: number): StopGrace {
  const hard = new AbortController()
  let timer: NodeJS.Timeout | undefined
  const onAbort = (): void => {
    timer = setTimeout(() => hard.abort(signal.reason), graceMs)
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
