/**
 * Whether two sites agree on the time. Five minutes of drift are nobody's fault and are tolerated
 * everywhere; beyond that the error names the drift, and the side that seems wrong where something
 * tells: our own certificates were made later than our clock says it is now, or third sites agree
 * with one of the two.
 */
import { GatewayError } from '../gateway/errors.ts'

/** Drift between two sites' clocks that is tolerated. */
export const toleratedDriftMs = 5 * 60_000

/** How long another peer's clock counts as a witness. */
const witnessMs = 24 * 3_600_000

/** Whose clock seems wrong. */
export type WrongSide = 'ours' | 'theirs' | 'unknown'

/** Compares clocks and remembers what they said. Times are Unix ms; an offset is theirs minus ours. */
export interface ClockWatch {
  /**
   * Compares a peer's clock, read just now (HTTP `Date`), with ours.
   *
   * @throws GatewayError PEER_CLOCK_DRIFT beyond the tolerance
   */
  check(peer: { id: string; name: string }, theirs: number): void
  /**
   * Checks the `created` of a signed message. It may be old, as messages wait; but one from the future
   * tells of drift.
   *
   * @throws GatewayError PEER_CLOCK_DRIFT
   */
  checkCreated(peer: { id: string; name: string }, created: number): void
  /** Last offset seen, in ms. */
  offset(peerId: string): number | undefined
}

/**
 * @param options.notBefore  an instant that has certainly passed: when our own keys were made
 */
export function openClockWatch(options: { notBefore: number; clock?: () => number }): ClockWatch {
  const { notBefore, clock = Date.now } = options
  const seen = new Map<string, { offset: number; at: number }>()

  const judge = (peerId: string, offset: number, now: number): Verdict => {
    if (now < notBefore - toleratedDriftMs) {
      return { side: 'ours', reason: 'it shows a time before this site’s own keys were made' }
    }
    const others = [...seen].filter(([id, other]) => id !== peerId && Math.abs(now - other.at) < witnessMs)
    const withUs = others.filter(([, other]) => Math.abs(other.offset) <= toleratedDriftMs).length
    const withThem = others.filter(([, other]) => Math.abs(other.offset - offset) <= toleratedDriftMs).length
    if (withUs > withThem) return { side: 'theirs', reason: `${count(withUs)} with this site` }
    if (withThem > withUs) return { side: 'ours', reason: `${count(withThem)} with that one` }
    return { side: 'unknown', reason: '' }
  }

  const refuse = (peer: { id: string; name: string }, offset: number, now: number): never => {
    throw driftError(peer, offset, judge(peer.id, offset, now))
  }

  return {
    check(peer, theirs) {
      const now = clock()
      const offset = theirs - now
      seen.set(peer.id, { offset, at: now })
      if (Math.abs(offset) > toleratedDriftMs) refuse(peer, offset, now)
    },
    checkCreated(peer, created) {
      const now = clock()
      if (created - now > toleratedDriftMs) refuse(peer, created - now, now)
    },
    offset: peerId => seen.get(peerId)?.offset,
  }
}

interface Verdict {
  readonly side: WrongSide
  readonly reason: string
}

const count = (peers: number): string =>
  peers === 1 ? 'the clock of another peer agrees' : `the clocks of ${peers} other peers agree`

/** The error that names drift and side. `offset` is theirs minus ours, in ms; it may be a lower bound. */
export function driftError(
  peer: { id: string; name: string },
  offset: number,
  verdict: Verdict = { side: 'unknown', reason: '' },
): GatewayError {
  const relation = `the clock of ${peer.name} is ${duration(Math.abs(offset))} ${offset > 0 ? 'ahead of' : 'behind'} this site’s`
  const advice = {
    ours: `this site’s seems wrong, as ${verdict.reason}: check its time synchronisation (NTP)`,
    theirs: `${peer.name}’s seems wrong, as ${verdict.reason}: ask its administrator to check time synchronisation (NTP)`,
    unknown: 'check time synchronisation (NTP) at both sites',
  }[verdict.side]
  return new GatewayError('PEER_CLOCK_DRIFT', `${relation}; ${advice}`, {
    context: { peer: peer.id, driftMs: Math.round(offset), wrongSide: verdict.side },
  })
}

/** An HTTP `Date` as Unix ms; undefined for anything but the preferred form (RFC 9110 §5.6.7). */
export function parseHttpDate(header: string | undefined): number | undefined {
  if (header === undefined || !/^[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT$/.test(header))
    return undefined
  const at = Date.parse(header)
  return Number.isNaN(at) ? undefined : at
}

function duration(ms: number): string {
  const minutes = Math.round(ms / 60_000)
  if (minutes < 120) return `${minutes} minutes`
  const hours = Math.round(minutes / 60)
  return hours < 48 ? `${hours} hours` : `${Math.round(hours / 24)} days`
}
