/**
 * Which transfer may run now: a bounded number at a time, shared fairly between peers, and none of a
 * peer that cannot be reached but one probe now and then. In memory only: after a restart everything
 * is tried again.
 */

import type { GatewayError } from '../errors.ts'

/** `run`: the caller holds a place and must `leave`. `parked`: `leave` of another will name it. */
export type Admission =
  | { readonly kind: 'run' }
  | { readonly kind: 'parked' }
  /** The peer cannot be reached; not before this instant (ms since the epoch). */
  | { readonly kind: 'closed'; readonly until: number; readonly reason: GatewayError }

export interface PeerLanes {
  enter(transfer: { id: string; peer: string; priority: string }): Admission
  /** Gives the place back; returns parked transfers that should try to enter now. */
  leave(transfer: { id: string; peer: string }): string[]
  /** The peer could not be reached, and why: closed for a growing while; returns until when. */
  fail(peer: string, reason: GatewayError): number
  /** The peer answered. */
  succeed(peer: string): void
}

const ranks: Readonly<Record<string, number>> = { urgent: 0, deadline: 1, normal: 2, bulk: 3 }
const longestClosedMs = 60_000

interface PeerState {
  readonly running: Set<string>
  readonly parked: { readonly id: string; readonly rank: number; readonly order: number }[]
  failures: number
  reason: GatewayError | undefined
  closedUntil: number
  /** When a transfer of this peer was last let in, in turns. */
  served: number
}

/** Lanes for `parallel` transfers at a time, `perPeer` of one peer. */
export function createPeerLanes(options: {
  parallel: number
  perPeer: number
  now: () => number
  random?: () => number
}): PeerLanes {
  const { parallel, perPeer, now, random = Math.random } = options
  const peers = new Map<string, PeerState>()
  let turns = 0
  let running = 0

  const stateOf = (peer: string): PeerState => {
    const known = peers.get(peer) ?? {
      running: new Set(),
      parked: [],
      failures: 0,
      reason: undefined,
      closedUntil: 0,
      served: 0,
    }
    peers.set(peer, known)
    return known
  }
  /** After a failure one transfer at a time finds out whether the peer is back. */
  const placesOf = (state: PeerState): number => (state.failures > 0 ? 1 : perPeer) - state.running.size
  const isOpen = (state: PeerState): boolean => state.closedUntil <= now()

  /** The parked transfers that free places are for: of the peer served longest ago, the most urgent first. */
  const next = (): string[] => {
    const out: string[] = []
    const places = new Map([...peers].map(([peer, state]) => [peer, placesOf(state)]))
    for (let free = parallel - running; free > 0; free--) {
      const [best] = [...peers]
        .filter(([peer, state]) => state.parked.length > 0 && isOpen(state) && (places.get(peer) ?? 0) > 0)
        .sort(([, a], [, b]) => a.served - b.served)
      if (!best) return out
      const [peer, state] = best
      places.set(peer, (places.get(peer) ?? 0) - 1)
      state.served = ++turns
      const first = state.parked.reduce((a, b) => (b.rank < a.rank || (b.rank === a.rank && b.order < a.order) ? b : a))
      state.parked.splice(state.parked.indexOf(first), 1)
      out.push(first.id)
    }
    return out
  }

  return {
    enter({ id, peer, priority }) {
      const state = stateOf(peer)
      if (!isOpen(state) && state.reason) return { kind: 'closed', until: state.closedUntil, reason: state.reason }
      if (running >= parallel || placesOf(state) <= 0) {
        const rank = ranks[priority] ?? 2
        if (!state.parked.some(parked => parked.id === id)) state.parked.push({ id, rank, order: ++turns })
        return { kind: 'parked' }
      }
      state.running.add(id)
      state.served = ++turns
      running++
      return { kind: 'run' }
    },
    leave({ id, peer }) {
      const state = stateOf(peer)
      if (state.running.delete(id)) running--
      // A closed peer's parked transfers hear when it opens, not one by one.
      const closed = isOpen(state) ? [] : state.parked.splice(0).map(parked => parked.id)
      return [...closed, ...next()]
    },
    fail(peer, reason) {
      const state = stateOf(peer)
      state.reason = reason
      state.failures++
      const ms = Math.min(longestClosedMs, 500 * 2 ** state.failures) * (0.5 + random() / 2)
      state.closedUntil = now() + ms
      return state.closedUntil
    },
    succeed(peer) {
      const state = stateOf(peer)
      state.failures = 0
      state.closedUntil = 0
    },
  }
}
