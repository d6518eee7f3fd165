/**
 * The decision: a pure function of facts, the policy document and the time. For each destination the first rule that
 * matches decides; without one nothing is sent there (default deny). An offer of a peer is decided in the same way.
 */
import { asksForConsent, type Obstacle, obstacleOf } from './agreements.ts'
import { attributesOf, evaluate, type Facts } from './conditions.ts'
import { anySite, type Effect, effectOf, type IncomingRule, type PolicyDocument, type Rule } from './document.ts'

/** What the policy wants for one destination. */
export interface Decision {
  readonly destination: string
  /** As the destination names it: a peer's site id or name; undefined where it is a modality. */
  readonly peer: string | undefined
  /** As the destination names it: a registered modality; undefined where it is a peer. */
  readonly modality: string | undefined
  /** As the destination names it: an endpoint of a third party. */
  readonly endpoint?: string | undefined
  /** As the destination says it. */
  readonly zone?: 'inside' | 'outside' | undefined
  readonly rule: string
  readonly effect: Effect
  /** The agreement that the rule names. */
  readonly agreement?: string | undefined
  /** The agreement's legal basis is the patient's consent. */
  readonly needsConsent: boolean
  /** Why it waits although the rule says `send`. */
  readonly obstacle?: Obstacle | undefined
}

/** Why a rule did or did not decide, for a person. */
export interface TraceLine {
  readonly rule: string
  readonly matched: boolean
  readonly why: string
}

export interface Decided {
  readonly decisions: readonly Decision[]
  /** Destinations that no rule decided: nothing is sent there. */
  readonly undecided: readonly string[]
  readonly trace: readonly TraceLine[]
}

/** Decides over all destinations. Total and deterministic. */
export function decide(facts: Facts, document: PolicyDocument, at: Date): Decided {
  const decisions = new Map<string, Decision>()
  const trace: TraceLine[] = []
  for (const rule of document.rules) {
    const verdict = judge(rule, facts)
    trace.push({ rule: rule.id, matched: verdict.holds, why: verdict.why })
    const effect = verdict.holds ? effectOf(rule) : undefined
    for (const destination of effect?.to ?? []) {
      const target = document.destinations[destination]
      if (!effect || !target || decisions.has(destination)) continue
      const { peer, modality, endpoint, zone } = target
      const agreement = effect.kind === 'send' ? effect.agreement : undefined
      const obstacle =
        effect.kind === 'send' && agreement !== undefined
          ? obstacleOf(document, agreement, { direction: 'outgoing', party: destination, ...effect, facts, at })
          : undefined
      const needsConsent = asksForConsent(document, agreement)
      const terms = { effect, agreement, needsConsent, obstacle }
      decisions.set(destination, { destination, peer, modality, endpoint, zone, rule: rule.id, ...terms })
    }
  }
  return {
    decisions: [...decisions.values()],
    undecided: Object.keys(document.destinations).filter(destination => !decisions.has(destination)),
    trace,
  }
}

/** Who offers: a paired site by its id and the name it has here, or an endpoint by its name. */
export type Offeror = { readonly siteId: string; readonly name: string } | { readonly endpoint: string }

/** What is offered, before it is taken. */
export interface OfferFacts {
  readonly site: Offeror
  readonly purpose: string
  /** As the sender names it. */
  readonly profile: string
  readonly facts: Facts
}

/** What is to become of an offer. `hold`: taken, and shown to nobody before a person has released it. */
export interface Reception {
  readonly kind: 'accept' | 'hold' | 'deny'
  /** The rule that decided; undefined when none did. */
  readonly rule: string | undefined
  readonly reason: string
}

/** Decides over an offer. Total and deterministic; without a rule that accepts it, it is refused. */
export function decideIncoming(offer: OfferFacts, document: PolicyDocument, at: Date): Reception {
  for (const rule of document.incoming) {
    const terms = rule.accept ?? rule.hold ?? rule.deny
    const party = terms?.from.find(name => isParty(document, name, offer.site))
    if (terms === undefined || party === undefined || !evaluate(rule.when, offer.facts).holds) continue
    if (rule.deny) return { kind: 'deny', rule: rule.id, reason: rule.deny.reason || `rule ${rule.id} refuses it` }
    if (rule.hold) return { kind: 'hold', rule: rule.id, reason: rule.hold.reason || `rule ${rule.id} holds it` }
    const problem = problemOf(rule, offer, document, at)
    return problem === undefined
      ? { kind: 'accept', rule: rule.id, reason: '' }
      : { kind: 'deny', rule: rule.id, reason: problem }
  }
  return { kind: 'deny', rule: undefined, reason: 'no rule of the policy accepts it' }
}

/** Why a rule that matches does not accept it. */
function problemOf(
  { accept }: IncomingRule,
  offer: OfferFacts,
  document: PolicyDocument,
  at: Date,
): string | undefined {
  const { purpose, profile, facts, site } = offer
  if (accept?.purposes && !accept.purposes.includes(purpose)) return `the purpose ${purpose} is not accepted`
  if (accept?.agreement === undefined) return undefined
  const party = Object.keys(document.destinations).find(name => isSite(document, name, site))
  const exchange = { direction: 'incoming', party, purpose, profile, facts, at } as const
  return obstacleOf(document, accept.agreement, exchange)?.message
}

/** An endpoint is meant by its own name only: `*` is every paired site. */
const isParty = (document: PolicyDocument, name: string, from: Offeror): boolean =>
  (name === anySite && !('endpoint' in from)) || isSite(document, name, from)

const isSite = (document: PolicyDocument, name: string, from: Offeror): boolean => {
  const { peer, endpoint } = (Object.hasOwn(document.destinations, name) && document.destinations[name]) || {}
  if ('endpoint' in from) return endpoint === from.endpoint
  return peer !== undefined && (isSiteId(peer) ? peer === from.siteId : peer === from.name)
}

/** True when an incoming rule might let something of an endpoint in, now or after a person has looked. */
export function mayArrive(document: PolicyDocument, endpoint: string): boolean {
  return document.incoming.some(({ accept, hold }) =>
    (accept ?? hold)?.from.some(name => isSite(document, name, { endpoint })),
  )
}

/** True for what is a site's id and not a name that somebody gave it. */
export function isSiteId(text: string): boolean {
  return /^[0-9a-f]{32}$/.test(text)
}

/** True when a rule speaks of where instances came from. */
export function namesOrigin(rule: Rule): boolean {
  const attributes = attributesOf(rule.when)
  return ['OriginKind', 'OriginPeer', 'OriginEndpoint', 'OriginPurpose'].some(attribute => attributes.has(attribute))
}

/** What came from a peer or an endpoint, or was fetched or moved here by ourselves, triggers nothing unless the rule names that origin. */
function judge(rule: Rule, facts: Facts): { holds: boolean; why: string } {
  if (namesOrigin(rule)) return evaluate(rule.when, facts)
  const foreign = foreignOrigins.find(kind => facts['OriginKind']?.includes(kind))
  if (foreign !== undefined)
    return {
      holds: false,
      why: `came from ${foreign === 'peer' ? 'a peer' : 'an endpoint'}, and the rule does not name an origin`,
    }
  if (facts['OriginPurpose']?.some(purpose => quietPurposes.includes(purpose)))
    return { holds: false, why: 'was fetched or moved here by the gateway, and the rule does not name an origin' }
  return evaluate(rule.when, facts)
}

/** Kinds of origins outside of the site: what came from there is passed on to nobody by itself. */
export const foreignOrigins = ['peer', 'endpoint'] as const

/** Why instances came that nobody sent: they are not what anybody wants passed on. */
export const quietPurposes: readonly string[] = ['prefetch', 'migration', 'restore']
