/**
 * Reports refused associations without being flooded: a modality that is not registered tries again
 * every few seconds for days, and somebody hostile far more often.
 */
import type { Log } from '../log.ts'
import type { Denial } from './callers.ts'
import type { AssociationPeer, Refusal } from './scp.ts'

const quietMs = 60_000
const maxRemembered = 1_000

interface Remembered {
  readonly reportedAt: number
  repeats: number
}

/** Reports the first of equal refusals and then one a minute, with the number of those in between. */
export class RefusalReports {
  readonly #log: Log
  readonly #onRefused: ((refusal: Refusal) => void) | undefined
  /** In the order of their reports. */
  readonly #remembered = new Map<string, Remembered>()

  constructor(log: Log, onRefused: ((refusal: Refusal) => void) | undefined) {
    this.#log = log
    this.#onRefused = onRefused
  }

  report(peer: AssociationPeer, denial: Pick<Denial, 'reason' | 'message'>, now = performance.now()): void {
    const key = [denial.reason, peer.remoteAddress, peer.callingAe, peer.calledAe].join('\n')
    const before = this.#remembered.get(key)
    if (before && now - before.reportedAt < quietMs) {
      before.repeats += 1
      return
    }
    const repeats = before?.repeats ?? 0
    this.#remembered.delete(key)
    this.#remembered.set(key, { reportedAt: now, repeats: 0 })
    const [oldest] = this.#remembered.keys()
    if (this.#remembered.size > maxRemembered && oldest !== undefined) this.#remembered.delete(oldest)
    const { callingAe, calledAe, remoteAddress, certificate } = peer
    const caller = { callingAe, calledAe, remoteAddress, reason: denial.reason, repeats }
    this.#log.warn({ ...caller, certificate: certificate?.fingerprint }, denial.message)
    this.#onRefused?.(caller)
  }
}
