/**
 * What C-STORE takes, where an administrator narrows or widens it while the gateway runs, as scripts for Orthanc do: until
 * the next start, which goes by the configuration again. Each change is in the audit log.
 */
import { authorize } from '../../policy/authorize.ts'
import { eventTypes, requestorOf, securityAlert } from '../audit/event.ts'
import { appendAudit } from '../audit/log.ts'
import type { Db } from '../db/db.ts'
import { encodingNames, readUndeclaredAs, undeclaredEncoding } from '../dicom/charset.ts'
import { transferSyntaxes } from '../dicom/uid.ts'
import { GatewayError } from '../errors.ts'
import type { Principal } from '../principal.ts'

/** Asked for each presentation context that is offered. */
export interface ReceptionTerms {
  takesSyntax(uid: string): boolean
  /** SOP classes that are no storage class of PS3.6 are stored as well. */
  readonly takesUnknownClasses: boolean
}

export interface ChangeableTerms extends ReceptionTerms {
  /** Transfer syntaxes that are taken, in the order of their UIDs. */
  syntaxes(): readonly string[]
  /** @param patterns  UIDs, also with `*` at the end. @throws GatewayError BAD_REQUEST where none is left */
  takeOnly(principal: Principal, patterns: readonly string[]): Promise<void>
  takeUnknownClasses(principal: Principal, isTaken: boolean): Promise<void>
  /** What text without a character set is read as, by Orthanc's name for the encoding. */
  readonly encoding: string
  /** @throws GatewayError BAD_REQUEST for an unknown encoding */
  readAs(principal: Principal, encoding: string): Promise<void>
}

/** Everything is taken. */
export const usualTerms: ReceptionTerms = { takesSyntax: () => true, takesUnknownClasses: false }

/** Opens the service. */
export function openReceptionTerms({ db }: { db: Db }): ChangeableTerms {
  const all = [...transferSyntaxes.keys()].sort()
  let taken: ReadonlySet<string> = new Set(all)
  let takesUnknownClasses = false

  const record = (principal: Principal, name: string, value: string): Promise<void> =>
    db.inTransaction(tx =>
      appendAudit(
        tx,
        securityAlert({
          type: eventTypes.restrictedFunction,
          participants: [requestorOf(principal)],
          objects: [{ kind: 'setting', name }],
          reason: 'reception-changed',
          detail: { value },
        }),
      ),
    )

  return {
    takesSyntax: uid => taken.has(uid),
    get takesUnknownClasses() {
      return takesUnknownClasses
    },
    get encoding() {
      return undeclaredEncoding().name
    },
    syntaxes: () => all.filter(uid => taken.has(uid)),
    async takeOnly(principal, patterns) {
      authorize(principal, 'gateway.administer')
      const chosen = all.filter(uid => patterns.some(pattern => isLike(uid, pattern)))
      if (chosen.length === 0) throw new GatewayError('BAD_REQUEST', 'no known transfer syntax is like that')
      await record(principal, 'accepted-transfer-syntaxes', patterns.join(' ').slice(0, 1_000))
      taken = new Set(chosen)
    },
    async takeUnknownClasses(principal, isTaken) {
      authorize(principal, 'gateway.administer')
      await record(principal, 'unknown-sop-class-accepted', String(isTaken))
      takesUnknownClasses = isTaken
    },
    async readAs(principal, encoding) {
      authorize(principal, 'gateway.administer')
      if (!encodingNames.includes(encoding)) throw new GatewayError('BAD_REQUEST', 'unknown encoding')
      if (encoding === undeclaredEncoding().name) return
      await record(principal, 'default-encoding', encoding)
      readUndeclaredAs(encoding)
    },
  }
}

function isLike(uid: string, pattern: string): boolean {
  return pattern.endsWith('*') ? uid.startsWith(pattern.slice(0, -1)) : uid === pattern
}
