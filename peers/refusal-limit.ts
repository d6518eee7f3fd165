/**
 * Bounds what a peer that is refused again and again costs us: each refusal is an audit event and most
 * are signed. An honest sender stops at its first one, so beyond the limit we stop listening for a while.
 */
import { GatewayError } from '../gateway/errors.ts'

export interface RefusalLimit {
  /** @throws GatewayError TOO_MANY_REQUESTS while the peer is over its limit */
  check(peerId: string): void
  count(peerId: string): void
}

const windowMs = 60_000

/** @param perMinute  refusals of one peer in a minute */
export function createRefusalLimit(perMinute: number, clock: () => number = Date.now): RefusalLimit {
  // One entry per peer that was ever refused: peers are few, and known.
  const windows = new Map<string, { since: number; refusals: number }>()
  const windowOf = (peerId: string): { since: number; refusals: number } => {
    const known = windows.get(peerId)
    const now = clock()
    if (known && now >= known.since && now - known.since < windowMs) return known
    const fresh = { since: now, refusals: 0 }
    windows.set(peerId, fresh)
    return fresh
  }
  return {
    check(peerId) {
      if (windowOf(peerId).refusals >= perMinute) {
        throw new GatewayError('TOO_MANY_REQUESTS', `${perMinute} requests were refused within a minute`)
      }
    },
    count(peerId) {
      windowOf(peerId).refusals++
    },
  }
}
