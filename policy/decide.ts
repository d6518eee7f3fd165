/**
 * The decision: a pure function of a study's facts and a policy document. For each destination the
 * first rule that matches decides; without one nothing is sent there (default deny).
 */
import { attributesOf, evaluate, type Facts } from './conditions.ts'
import { type Effect, effectOf, type PolicyDocument, type Rule } from './document.ts'

/** What the policy wants for one destination. */
export interface Decision {
  readonly destination: string
  /** As the destination names it: a peer's name or site id; undefined where it is a modality. */
  readonly peer: string | undefined
  /** As the destination names it: a registered modality; undefined where it is a peer. */
  readonly modality: string | undefined
  readonly rule: string
  readonly effect: Effect
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
export function decide(facts: Facts, document: PolicyDocument): Decided {
  const decisions = new Map<string, Decision>()
  const trace: TraceLine[] = []
  for (const rule of document.rules) {
    const verdict = judge(rule, facts)
    trace.push({ rule: rule.id, matched: verdict.holds, why: verdict.why })
    const effect = verdict.holds ? effectOf(rule) : undefined
    for (const destination of effect?.to ?? []) {
      const target = document.destinations[destination]
      if (!effect || !target || decisions.has(destination)) continue
      const { peer, modality } = target
      decisions.set(destination, { destination, peer, modality, rule: rule.id, effect })
    }
  }
  return {
    decisions: [...decisions.values()],
    undecided: Object.keys(document.destinations).filter(destination => !decisions.has(destination)),
    trace,
  }
}

/** True when a rule speaks of where instances came from. */
export function namesOrigin(rule: Rule): boolean {
  const attributes = attributesOf(rule.when)
  return attributes.has('OriginKind') || attributes.has('OriginPeer')
}

/** What came from a peer triggers nothing, unless the rule names that origin. */
function judge(rule: Rule, facts: Facts): { holds: boolean; why: string } {
  const isImported = facts['OriginKind']?.includes('peer') ?? false
  if (isImported && !namesOrigin(rule))
    return { holds: false, why: 'came from a peer, and the rule does not name an origin' }
  return evaluate(rule.when, facts)
}
