/** Refused callers of the listeners, as audit events. */
import { eventTypes, securityAlert, userAuthentication } from '../audit/event.ts'
import { appendAudit } from '../audit/log.ts'
import type { Db } from '../db/db.ts'
import type { Log } from '../log.ts'

/** A refused caller, whatever the protocol. */
export interface RefusedCaller {
  readonly protocol: 'http' | 'dimse' | 'federation' | 'hl7' | 'any'
  /** AE title, principal, or `unknown`. */
  readonly userId: string
  readonly address: string
  /** Stable word: an error code, or why an association or connection was refused. */
  readonly reason: string
  /** What a known caller wanted to do without the role for it. */
  readonly action?: string
  /** Equal ones since the last report. */
  readonly repeats: number
}

/** Opens the recorder. It never throws: a refusal that cannot be recorded is logged. */
export function openRefusals(options: { readonly db: Db; readonly log: Log }): (caller: RefusedCaller) => void {
  const { db, log } = options
  return ({ protocol, userId, address, reason, action, repeats }) => {
    const common = {
      outcome: 'minor-failure' as const,
      reason,
      participants: [{ userId, requestor: true, address }],
      detail: { protocol, repeats, ...(action !== undefined && { action }) },
    }
    // No or a wrong credential is a failed log-in; the rest is a refused node, or a known one that may not do this.
    const event =
      reason === 'UNAUTHENTICATED'
        ? userAuthentication({ ...common, what: 'login' })
        : securityAlert({
            ...common,
            type: action === undefined ? eventTypes.nodeAuthentication : eventTypes.restrictedFunction,
          })
    db.inTransaction(tx => appendAudit(tx, event)).catch((error: unknown) => {
      log.warn({ protocol, reason, error: error instanceof Error ? error.name : 'unknown' }, 'cannot audit a refusal')
    })
  }
}
