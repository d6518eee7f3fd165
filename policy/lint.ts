/**
 * What is wrong or odd about a policy document, in words for the person who writes it. A document that has an `error`
 * cannot be published; a `warning` is for a person to judge. Pure: what is known of the site comes as an argument.
 */
import { isInForce, obstacleOf } from './agreements.ts'
import { attributesOf, type Condition } from './conditions.ts'
import { isSiteId, namesOrigin } from './decide.ts'
import { anySite, asIs, canonicalJson, effectOf, type PolicyDocument, type Rule } from './document.ts'

/** Stable names of what lint finds. */
export const findingCodes = [
  'unreachable-rule',
  'unknown-destination',
  'duplicate-destination',
  'expired-agreement',
  'uncovered-by-agreement',
  'outside-unprotected',
  'wrong-zone',
  'attribute-without-value',
  'empty-range',
  'unused',
  'nothing-accepted',
] as const
export type FindingCode = (typeof findingCodes)[number]

export interface Finding {
  readonly severity: 'error' | 'warning'
  readonly code: FindingCode
  /** Where in the document. */
  readonly path: string
  readonly message: string
}

/** What a site knows beside the document. */
export interface LintContext {
  readonly peers: readonly { readonly siteId: string; readonly name: string }[]
  readonly findModality: (
    nameOrAeTitle: string,
  ) => { readonly name: string; readonly zone: 'inside' | 'outside' } | undefined
  /** Names of the endpoints that are set up. */
  readonly endpoints: ReadonlySet<string>
  readonly now: Date
  /** The document was written in version 1: it has no agreements, and might name sites before they were paired. */
  readonly isVersion1?: boolean
}

/** Every finding, in the order of the document. */
export function lintPolicy(document: PolicyDocument, context: LintContext): readonly Finding[] {
  return [
    ...destinations(document, context),
    ...agreements(document, context),
    ...profiles(document),
    ...rules(document, context),
    ...incoming(document, context),
  ]
}

function* destinations(
  document: PolicyDocument,
  { peers, findModality, endpoints, isVersion1 = false }: LintContext,
): Generator<Finding> {
  const seen = new Map<string, string>()
  const named = new Set([
    ...document.rules.flatMap(rule => effectOf(rule)?.to ?? []),
    ...document.incoming.flatMap(rule => (rule.accept ?? rule.hold ?? rule.deny)?.from ?? []),
    ...Object.values(document.agreements).flatMap(({ parties }) => parties),
  ])
  for (const [name, { peer, modality, endpoint, zone }] of Object.entries(document.destinations)) {
    const path = `destinations.${name}`
    if (peer !== undefined) {
      const known = peers.find(one => (isSiteId(peer) ? one.siteId === peer : one.name === peer))
      if (!known && isSiteId(peer))
        yield warning('unknown-destination', path, 'the site is not paired: what is sent there is held until it is')
      else if (!known) {
        const message = `no paired site is called ${peer}: pair with it first`
        yield { severity: isVersion1 ? 'warning' : 'error', code: 'unknown-destination', path, message }
      }
      const site = known?.siteId ?? peer
      const other = seen.get(site)
      if (other !== undefined) yield warning('duplicate-destination', path, `is the same site as ${other}`)
      seen.set(site, name)
    }
    if (modality !== undefined) {
      const known = findModality(modality)
      if (!known)
        yield warning('unknown-destination', path, `no modality is called ${modality}: what is sent there is held`)
      else if (zone === 'inside' && known.zone === 'outside')
        yield error('wrong-zone', path, `the registry of modalities says that ${modality} is outside`)
    }
    if (endpoint !== undefined && !endpoints.has(endpoint))
      yield warning('unknown-destination', path, `no endpoint is called ${endpoint}: what is sent there is held`)
    if (!named.has(name)) yield warning('unused', path, 'no rule and no agreement names it')
  }
}

function* agreements(document: PolicyDocument, { now }: LintContext): Generator<Finding> {
  const used = new Set([
    ...document.rules.map(rule => rule.send?.agreement),
    ...document.incoming.map(rule => rule.accept?.agreement),
  ])
  const today = now.toISOString().slice(0, 10)
  for (const [name, agreement] of Object.entries(document.agreements)) {
    const path = `agreements.${name}`
    const isUsed = used.has(name)
    if (!isUsed) yield warning('unused', path, 'no rule names it')
    if (isInForce(agreement, now)) continue
    if (agreement.from > today) yield warning('expired-agreement', path, `begins on ${agreement.from} only`)
    else
      yield {
        severity: isUsed ? 'error' : 'warning',
        code: 'expired-agreement',
        path,
        message: `ended on ${agreement.until}`,
      }
  }
}

function* profiles(document: PolicyDocument): Generator<Finding> {
  const used = new Set(document.rules.map(rule => rule.send?.profile))
  for (const { name } of document.profiles)
    if (!used.has(name)) yield warning('unused', `profiles.${name}`, 'no rule names it')
}

function* rules(document: PolicyDocument, context: LintContext): Generator<Finding> {
  for (const [index, rule] of document.rules.entries()) {
    const path = `rules.${rule.id}`
    const earlier = document.rules.slice(0, index)
    const blockers = (effectOf(rule)?.to ?? []).map(to => earlier.find(one => decidesBefore(one, rule, to)))
    if (blockers.length > 0 && blockers.every(one => one !== undefined)) {
      const names = [...new Set(blockers.map(one => one?.id))].join(', ')
      yield error(
        'unreachable-rule',
        path,
        `it never decides: ${names} comes before it and matches whatever it matches`,
      )
    }
    yield* conditions(path, rule.when, 'study')
    if (rule.send) yield* sending(document, path, rule.send, context)
  }
}

/** What a rule that sends needs beside itself. */
function* sending(
  document: PolicyDocument,
  path: string,
  send: NonNullable<Rule['send']>,
  { findModality, now, isVersion1 = false }: LintContext,
): Generator<Finding> {
  for (const to of send.to) {
    const { peer, modality, endpoint, zone } = document.destinations[to] ?? {}
    const registered = modality === undefined ? undefined : findModality(modality)?.zone
    const isOutside =
      (zone ?? registered ?? (peer === undefined && endpoint === undefined ? 'inside' : 'outside')) === 'outside'
    if (isOutside && send.profile === asIs && send.agreement === undefined) {
      const message = `${to} is outside: what goes there is de-identified, or an agreement covers it`
      yield { severity: isVersion1 ? 'warning' : 'error', code: 'outside-unprotected', path, message }
    }
    const agreement = send.agreement === undefined ? undefined : document.agreements[send.agreement]
    if (send.agreement === undefined || agreement === undefined) continue
    // On a day of the agreement: that it is over, or has not begun, is said of the agreement itself.
    const at = isInForce(agreement, now) ? now : new Date(`${agreement.from}T12:00:00Z`)
    const { purpose, profile } = send
    const exchange = { direction: 'outgoing', party: to, purpose, profile, facts: {}, at } as const
    const gap = obstacleOf(document, send.agreement, exchange)
    if (gap) yield error('uncovered-by-agreement', path, gap.message)
  }
}

function* incoming(document: PolicyDocument, { peers }: LintContext): Generator<Finding> {
  for (const [index, rule] of document.incoming.entries()) {
    const path = `incoming.${rule.id}`
    const isSite = (party: string): boolean => party === anySite || document.destinations[party]?.peer !== undefined
    const from = (one: typeof rule): readonly string[] => (one.accept ?? one.hold ?? one.deny)?.from ?? []
    const blocker = document.incoming
      .slice(0, index)
      .find(
        one =>
          implies(rule.when, one.when) &&
          from(rule).every(party => from(one).some(p => p === party || (p === anySite && isSite(party)))),
      )
    if (blocker)
      yield error(
        'unreachable-rule',
        path,
        `it never decides: ${blocker.id} comes before it and matches whatever it matches`,
      )
    yield* conditions(path, rule.when, 'offer')
  }
  if (peers.length > 0 && !document.incoming.some(rule => rule.accept ?? rule.hold))
    yield warning('nothing-accepted', 'incoming', 'sites are paired, and nothing that they offer is accepted')
}

/** Facts that studies do not have, and the few that offers have. */
const offerOnly = ['OfferPurpose', 'OfferProfile', 'OfferPriority', 'OfferBytes']
const ofOffers = [
  ...offerOnly,
  ...['OriginKind', 'OriginPeer', 'OriginEndpoint', 'InstanceCount', 'SOPClassUID', 'StudyInstanceUID'],
  ...['EvaluationDate', 'EvaluationTime', 'EvaluationWeekday'],
]

function* conditions(path: string, when: Condition, of: 'study' | 'offer'): Generator<Finding> {
  for (const attribute of attributesOf(when)) {
    const isKnown = of === 'study' ? !offerOnly.includes(attribute) : ofOffers.includes(attribute)
    if (!isKnown)
      yield warning(
        'attribute-without-value',
        path,
        `${attribute} has no value when ${of === 'study' ? 'a study is' : 'an offer is'} decided`,
      )
  }
  for (const { attribute, between } of rangesOf(when)) {
    const [from, to] = between
    const isNumeric = ![Number(from), Number(to)].some(Number.isNaN)
    if (isNumeric ? Number(from) > Number(to) : from > to)
      yield warning('empty-range', path, `no ${attribute} is between ${from} and ${to}`)
  }
}

type Range = Extract<Condition, { readonly between: unknown }>

function rangesOf(condition: Condition): readonly Range[] {
  if ('between' in condition) return [condition]
  if ('not' in condition) return rangesOf(condition.not)
  if ('all' in condition) return condition.all.flatMap(rangesOf)
  return 'any' in condition ? condition.any.flatMap(rangesOf) : []
}

/** True when `one`, which stands before `rule`, decides for the destination whenever `rule` matches. */
function decidesBefore(one: Rule, rule: Rule, to: string): boolean {
  if (!effectOf(one)?.to.includes(to)) return false
  // What came from a peer passes over rules that do not name an origin.
  if (namesOrigin(rule) && !namesOrigin(one)) return false
  return implies(rule.when, one.when)
}

/** True when `narrow` holding means that `wide` holds; false when that is not plain to see. */
function implies(narrow: Condition, wide: Condition): boolean {
  if ('always' in wide || canonicalJson(narrow) === canonicalJson(wide)) return true
  if ('all' in wide) return wide.all.every(part => implies(narrow, part))
  if ('any' in wide && wide.any.some(part => implies(narrow, part))) return true
  if ('all' in narrow) return narrow.all.some(part => implies(part, wide))
  if ('any' in narrow) return narrow.any.every(part => implies(part, wide))
  if ('in' in narrow && 'in' in wide && narrow.attribute === wide.attribute)
    return narrow.in.every(value => wide.in.some(other => other.toLowerCase() === value.toLowerCase()))
  return false
}

const error = (code: FindingCode, path: string, message: string): Finding => ({
  severity: 'error',
  code,
  path,
  message,
})
const warning = (code: FindingCode, path: string, message: string): Finding => ({
  severity: 'warning',
  code,
  path,
  message,
})
