/** Wakes long polls of this process when a transfer's state changes. */
export interface StateWatch {
  notify(id: string): void
  /** Resolves at the next `notify(id)`, after `waitMs`, or when the signal aborts, whichever is first. */
  next(id: string, waitMs: number, signal?: AbortSignal): Promise<void>
}

export function createStateWatch(): StateWatch {
  const waiting = new Map<string, Set<() => void>>()
  return {
    notify(id) {
      for (const wake of waiting.get(id) ?? []) wake()
    },
    async next(id, waitMs, signal) {
      if (signal?.aborted) return
      const { promise, resolve } = Promise.withResolvers<void>()
      const wakers = waiting.get(id) ?? new Set()
      waiting.set(id, wakers.add(resolve))
      const timer = setTimeout(resolve, waitMs)
      signal?.addEventListener('abort', () => resolve(), { once: true })
      await promise
      clearTimeout(timer)
      wakers.delete(resolve)
      if (wakers.size === 0) waiting.delete(id)
    },
  }
}
