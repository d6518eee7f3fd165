/** A limit of bytes per second that several streams share. */
import { setTimeout as delay } from 'node:timers/promises'

export interface Throttle {
  /** Resolves when so many bytes may go. @throws the reason of `signal` */
  pass(bytes: number, signal: AbortSignal): Promise<void>
}

/** @param bytesPerSecond  undefined for no limit */
export function openThrottle(bytesPerSecond: number | undefined): Throttle {
  if (bytesPerSecond === undefined) return { pass: async () => {} }
  let free = performance.now()
  return {
    async pass(bytes, signal) {
      const now = performance.now()
      const begin = Math.max(now, free)
      free = begin + (bytes / bytesPerSecond) * 1000
      if (begin > now) await delay(begin - now, undefined, { signal })
    },
  }
}
