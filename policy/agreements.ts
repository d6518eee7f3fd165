/** What an agreement covers, decided from the document alone: pure, and in words that a person can act on. */
import type { Facts } from './conditions.ts'
import { type Agreement, anySite, asIs, type PolicyDocument } from './document.ts'

/** Why something does not go although a rule wants it. */
export interface Obstacle {
  readonly code: 'AGREEMENT_MISSING'
  readonly message: string
}

/** What is to be exchanged. */
export interface Exchange {
  readonly direction: 'outgoing' | 'incoming'
  /** Name of the destination that stands for the other side; undefined for a site that the document does not name. */
  readonly party: string | undefined
  readonly purpose: string
  /** Name of the de-identification profile, or `as-is`. */
  readonly profile: string
  readonly facts: Facts
  readonly at: Date
}

/** Why the agreement does not cover an exchange; undefined when it does. */
export function obstacleOf(document: PolicyDocument, name: string, exchange: Exchange): Obstacle | undefined {
  const agreement = Object.hasOwn(document.agreements, name) ? document.agreements[name] : undefined
  const why = agreement ? gapOf(agreement, exchange) : 'is not in the policy'
  return why === undefined ? undefined : { code: 'AGREEMENT_MISSING', message: `agreement ${name} ${why}` }
}

/** The agreement that covers an exchange, by name; the first one of several. */
export function findAgreement(document: PolicyDocument, exchange: Exchange): string | undefined {
  return Object.keys(document.agreements).find(name => obstacleOf(document, name, exchange) === undefined)
}

/** True when the agreement is in force on that day (UTC). */
export function isInForce(agreement: Pick<Agreement, 'from' | 'until'>, at: Date): boolean {
  const day = at.toISOString().slice(0, 10)
  return agreement.from <= day && (agreement.until === undefined || day <= agreement.until)
}

/** True when the patient's consent is what makes an exchange under it lawful. */
export function asksForConsent(document: PolicyDocument, name: string | undefined): boolean {
  return (
    name !== undefined && Object.hasOwn(document.agreements, name) && document.agreements[name]?.basis === 'consent'
  )
}

function gapOf(agreement: Agreement, exchange: Exchange): string | undefined {
  const { from, until, parties, purposes, direction, data } = agreement
  const day = exchange.at.toISOString().slice(0, 10)
  if (day < from) return `begins on ${from}`
  if (until !== undefined && day > until) return `ended on ${until}`
  if (direction !== 'both' && direction !== exchange.direction) return `is for the ${direction} direction only`
  if (!parties.includes(anySite) && (exchange.party === undefined || !parties.includes(exchange.party)))
    return `does not name ${exchange.party ?? 'this site'}`
  if (!purposes.includes(exchange.purpose)) return `is not for the purpose ${exchange.purpose}`
  if (data?.deidentified && exchange.profile === asIs) return 'is for de-identified data only'
  const modality = outside(data?.modalities, exchange.facts['Modality'])
  if (modality !== undefined) return `does not cover the modality ${modality}`
  const sopClass = outside(data?.sopClasses, exchange.facts['SOPClassUID'])
  if (sopClass !== undefined) return `does not cover the SOP class ${sopClass}`
  return undefined
}

/** The first value that is not among those allowed. */
function outside(allowed: readonly string[] | undefined, values: readonly string[] | undefined): string | undefined {
  if (allowed === undefined) return undefined
  return values?.find(value => !allowed.includes(value.trim()))
}
