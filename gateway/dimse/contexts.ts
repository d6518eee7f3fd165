/**
 * Presentation contexts: what the storage SCP accepts (PS3.4 §B.3, PS3.7 §D.3.2).
 *
 * Every storage SOP class and every known transfer syntax is taken as proposed, since bytes are
 * stored and forwarded as received. Of several transfer syntaxes the proposer's first known one
 * wins: it put first what it can send without converting.
 */
import { storageSopClasses, transferSyntax } from '../dicom/uid.ts'
import { commandField } from './command.ts'
import type { ContextOffer, RoleSelection } from './pdu.ts'
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

/** SOP classes outside of PS3.6 that are stored as well, from the configuration. */
export type PrivateSopClasses = ReadonlySet<string>

/** Services beside verification and storage, by SOP class. */
export type Services = ReadonlyMap<string, ServiceClass>

/** The services of a listener by SOP class. */
export function servicesByClass(services: readonly ServiceClass[]): Services {
  return new Map(services.flatMap(service => service.sopClassUids.map(uid => [uid, service] as const)))
}

/** Answers each offered context, in the order offered. */
export function negotiate(
  offers: readonly ContextOffer[],
  privateSopClasses: PrivateSopClasses,
  services: Services = new Map(),
): NegotiatedContext[] {
  return offers.map(offer => answer(offer, privateSopClasses, services))
}

/**
 * The SOP classes of which the requester takes instances on this association, for C-GET: it proposes to be
 * their SCP (PS3.7 §D.3.3.4).
 */
export function receivedByPeer(
  answers: readonly NegotiatedContext[],
  roles: readonly RoleSelection[],
): ReadonlySet<string> {
  const accepted = answers.filter(answer => answer.result === contextResult.accepted)
  const isRetrieving = accepted.some(
    ({ service }) => typeof service === 'object' && service.commandFields.includes(commandField.getRequest),
  )
  if (!isRetrieving) return new Set()
  const proposed = new Set(roles.filter(role => role.scp).map(role => role.sopClassUid))
  const stored = accepted.filter(({ service }) => service === 'storage').map(answer => answer.abstractSyntaxUid)
  return new Set(stored.filter(uid => proposed.has(uid)))
}

function answer(offer: ContextOffer, privateSopClasses: PrivateSopClasses, services: Services): NegotiatedContext {
  const { id, abstractSyntaxUid } = offer
  // "Presentation-context-ID values shall be odd integers between 1 and 255" (PS3.8 §9.3.2.2).
  if (id % 2 === 0) return { id, abstractSyntaxUid, result: contextResult.noReason }
  const service = services.get(abstractSyntaxUid) ?? serviceOf(abstractSyntaxUid, privateSopClasses)
  if (!service) return { id, abstractSyntaxUid, result: contextResult.abstractSyntax }
  const isTaken = (uid: string): boolean =>
    typeof service === 'object' ? service.transferSyntaxes.includes(uid) : transferSyntax(uid) !== undefined
  const transferSyntaxUid = offer.transferSyntaxUids.find(isTaken)
  if (transferSyntaxUid === undefined) return { id, abstractSyntaxUid, result: contextResult.transferSyntaxes }
  return { id, abstractSyntaxUid, result: contextResult.accepted, transferSyntaxUid, service }
}

function serviceOf(uid: string, privateSopClasses: PrivateSopClasses): 'verification' | 'storage' | undefined {
  if (uid === verificationSopClass) return 'verification'
  return storageSopClasses.has(uid) || privateSopClasses.has(uid) ? 'storage' : undefined
}
