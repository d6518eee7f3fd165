/**
 * Presentation contexts: what our SCP accepts (PS3.4 §B.3, PS3.7 §D.3.2).
 *
 * Every storage SOP class and every known transfer syntax is taken as proposed, since bytes are
 * stored and forwarded as received. Of several transfer syntaxes the proposer's first known one
 * wins: it put first what it can send without converting.
 */
import { storageSopClasses, transferSyntax } from '../dicom/uid.ts'
import type { ReceptionTerms } from '../services/reception-terms.ts'
import type { ContextOffer } from './pdu.ts'
import type { ServiceClass } from './service.ts'

/** Verification SOP class, PS3.4 Annex A. */
export const verificationSopClass = '1.2.840.10008.1.1'

/** Result of a presentation context, PS3.8 Table 9-18. */
export const contextResult = {
  accepted: 0,
  userRejection: 1,
  noReason: 2,
  abstractSyntax: 3,
  transferSyntaxes: 4,
} as const

/** A context as it is answered; `transferSyntaxUid` is set when it is accepted. */
export type NegotiatedContext = {
  readonly id: number
  readonly abstractSyntaxUid: string
} & (
  | {
      readonly result: typeof contextResult.accepted
      readonly transferSyntaxUid: string
      readonly service: 'verification' | 'storage' | ServiceClass
    }
  | { readonly result: Exclude<(typeof contextResult)[keyof typeof contextResult], typeof contextResult.accepted> }
)

/** An accepted context. */
export type AcceptedContext = Extract<NegotiatedContext, { readonly result: 0 }>

/** What our SCP offers beside verification and the storage SOP classes of PS3.6. */
export interface OfferedServices {
  /** SOP classes outside of PS3.6 that are stored as well, from the configuration. */
  readonly privateSopClasses: ReadonlySet<string>
  /** What of all that is taken now. */
  readonly terms: ReceptionTerms
  /** By SOP class UID. */
  readonly services: ReadonlyMap<string, ServiceClass>
}

/** Answers each offered context, in the order offered. */
export function negotiate(offers: readonly ContextOffer[], offered: OfferedServices): NegotiatedContext[] {
  return offers.map(offer => answer(offer, offered))
}

function answer(offer: ContextOffer, offered: OfferedServices): NegotiatedContext {
  const { id, abstractSyntaxUid } = offer
  // "Presentation-context-ID values shall be odd integers between 1 and 255" (PS3.8 §9.3.2.2).
  if (id % 2 === 0) return { id, abstractSyntaxUid, result: contextResult.noReason }
  const service = serviceOf(abstractSyntaxUid, offered)
  if (!service) return { id, abstractSyntaxUid, result: contextResult.abstractSyntax }
  const takes = (uid: string): boolean =>
    service === 'storage'
      ? transferSyntax(uid) !== undefined && offered.terms.takesSyntax(uid)
      : service === 'verification'
        ? transferSyntax(uid) !== undefined
        : service.transferSyntaxes.includes(uid)
  const transferSyntaxUid = offer.transferSyntaxUids.find(takes)
  if (transferSyntaxUid === undefined) return { id, abstractSyntaxUid, result: contextResult.transferSyntaxes }
  return { id, abstractSyntaxUid, result: contextResult.accepted, transferSyntaxUid, service }
}

function serviceOf(
  uid: string,
  { privateSopClasses, services, terms }: OfferedServices,
): 'verification' | 'storage' | ServiceClass | undefined {
  if (uid === verificationSopClass) return 'verification'
  if (storageSopClasses.has(uid) || privateSopClasses.has(uid)) return 'storage'
  return services.get(uid) ?? (terms.takesUnknownClasses ? 'storage' : undefined)
}
