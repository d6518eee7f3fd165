/**
 * Refused requests for the audit log. Equal ones are reported once a minute with their number, so that
 * a flood of them fills neither log nor database.
 */

/** A refused request; `repeats` equal ones were not reported since the last report. */
export interface HttpRefusal {
  readonly code: 'UNAUTHENTICATED' | 'FORBIDDEN'
  readonly address: string
  /** Pattern of the route; no query. */
  readonly route: string
  readonly repeats: number
}

const windowMs = 60_000
/** Callers remembered; beyond this the oldest is forgotten. */
const maxRemembered = 1000

/** Makes the function that a server calls for each refusal. */
export function limitRefusals<T extends { readonly code: string; readonly address: string; readonly userId?: string }>(
  report: (refusal: T & { readonly repeats: number }) => void,
  clock: () => number = Date.now,
): (refusal: T) => void {
  const seen = new Map<string, { reportedAt: number; repeats: number }>()
  return refusal => {
    const key = JSON.stringify([refusal.code, refusal.address, refusal.userId])
    const known = seen.get(key)
    const now = clock()
    if (known && now - known.reportedAt < windowMs) {
      known.repeats++
      return
    }
    seen.delete(key)
    seen.set(key, { reportedAt: now, repeats: 0 })
    const [oldest] = seen.keys()
    if (seen.size > maxRemembered && oldest !== undefined) seen.delete(oldest)
    report({ ...refusal, repeats: known?.repeats ?? 0 })
  }
}
