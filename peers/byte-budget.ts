/**
 * Memory for request bodies of all peers together, handed out fairly: whoever waits longest among the
 * peers that hold least is next, so that one busy peer cannot starve another. Waiting is back-pressure:
 * the body stays in the peer's socket.
 */
import { GatewayError } from '../gateway/errors.ts'

export interface ByteBudget {
  /**
   * Takes `bytes`; the returned function gives them back.
   *
   * @throws GatewayError UNAVAILABLE when none were free within `waitMs`
   */
  take(peer: string, bytes: number, signal: AbortSignal): Promise<() => void>
  /** Bytes that a peer may have on its way at once. */
  credit(peer: string): number
}

interface Waiter {
  readonly peer: string
  readonly bytes: number
  readonly grant: () => void
}

/** A budget of `totalBytes`, of which one peer holds at most `perPeerBytes`. */
export function createByteBudget(options: { totalBytes: number; perPeerBytes: number; waitMs: number }): ByteBudget {
  const { totalBytes, perPeerBytes, waitMs } = options
  const held = new Map<string, number>()
  const waiting: Waiter[] = []
  let used = 0

  const heldBy = (peer: string): number => held.get(peer) ?? 0
  const fits = ({ peer, bytes }: { peer: string; bytes: number }): boolean =>
    used + bytes <= totalBytes && heldBy(peer) + bytes <= perPeerBytes
  const hold = (peer: string, bytes: number): void => {
    used += bytes
    const now = heldBy(peer) + bytes
    if (now > 0) held.set(peer, now)
    else held.delete(peer)
  }
  const serve = (): void => {
    for (;;) {
      const next = waiting
        .filter(fits)
        .reduce<Waiter | undefined>(
          (best, waiter) => (best && heldBy(best.peer) <= heldBy(waiter.peer) ? best : waiter),
          undefined,
        )
      if (!next) return
      waiting.splice(waiting.indexOf(next), 1)
      hold(next.peer, next.bytes)
      next.grant()
    }
  }
  const release = (peer: string, bytes: number): (() => void) => {
    let isHeld = true
    return () => {
      if (!isHeld) return
      isHeld = false
      hold(peer, -bytes)
      serve()
    }
  }

  return {
    async take(peer, bytes, signal) {
      if (fits({ peer, bytes }) && !waiting.some(waiter => heldBy(waiter.peer) <= heldBy(peer))) {
        hold(peer, bytes)
        return release(peer, bytes)
      }
      const { promise, resolve, reject } = Promise.withResolvers<void>()
      const waiter: Waiter = { peer, bytes, grant: resolve }
      const giveUp = (): void => {
        const place = waiting.indexOf(waiter)
        if (place < 0) return // granted already
        waiting.splice(place, 1)
        reject(new GatewayError('UNAVAILABLE', 'too much is on its way already'))
      }
      waiting.push(waiter)
      const timer = setTimeout(giveUp, waitMs)
      signal.addEventListener('abort', giveUp, { once: true })
      try {
        if (signal.aborted) giveUp()
        await promise
        return release(peer, bytes)
      } finally {
        clearTimeout(timer)
        signal.removeEventListener('abort', giveUp)
      }
    },
    credit(peer) {
      const peers = held.size + (held.has(peer) ? 0 : 1)
      return Math.min(perPeerBytes, Math.floor(totalBytes / peers))
    },
  }
}
