/**
 * The policy document: who gets what, why, and in which form. `PROFILES.md` is the normative
 * description, `policy.schema.json` the schema for editors.
 */

import {
  boolean,
  type Decoder,
  decode,
  describe,
  integer,
  isObject,
  list,
  type ObjectValue,
  object,
  oneOf,
  optional,
  record,
  text,
} from '../gateway/decode.ts'
import { tagOf } from '../gateway/dicom/tag.ts'
import { GatewayError } from '../gateway/errors.ts'
import { type Condition, conditionDecoder } from './conditions.ts'
import { presetSource } from './deid/presets.ts'
import { decodeProfile, type Profile } from './deid/profile.ts'

/** Facts beside DICOM keywords: what the gateway itself knows of a study, or of an offer. */
export const factNames = [
  'CallingAETitle',
  'CalledAETitle',
  'OriginKind',
  'OriginPeer',
  'OriginEndpoint',
  'OriginPurpose',
  'InstanceCount',
  'Label',
  'ConsentPurpose',
  'ObjectionPurpose',
  'EvaluationDate',
  'EvaluationTime',
  'EvaluationWeekday',
  'OfferPurpose',
  'OfferProfile',
  'OfferPriority',
  'OfferBytes',
] as const

const isKnownAttribute = (name: string): boolean =>
  factNames.some(fact => fact === name) || (/^[A-Z][A-Za-z0-9]{1,63}$/.test(name) && tagOf(name) !== undefined)

const name = text({
  min: 1,
  max: 64,
  pattern: /^[\w.-]+( [\w.-]+)*$/,
  expected: 'a name of letters, digits, ._- and inner spaces',
})
const words = text({ max: 1000 })

/** The profile that changes nothing: the stored bytes leave untouched. */
export const asIs = 'as-is'

/** Stands for every paired site where an incoming rule or an agreement names sites. */
export const anySite = '*'

const purpose = text({
  min: 1,
  max: 64,
  pattern: /^[a-z][a-z0-9-]*$/,
  expected: 'a purpose such as treatment or second-opinion',
})
const targets = list(name, { min: 1, max: 100 })
const parties = list(text({ min: 1, max: 64, pattern: /^(\*|[\w.-]+( [\w.-]+)*)$/, expected: 'a destination or *' }), {
  min: 1,
  max: 100,
})
/** Without a year zero or a thirteenth month: what `Date` reads as the same day. */
const day: Decoder<string> = (raw, path, problems) => {
  const isDay = typeof raw === 'string' && /^\d{4}-\d{2}-\d{2}$/.test(raw)
  const at = isDay ? new Date(`${raw}T00:00:00Z`) : undefined
  if (isDay && at && !Number.isNaN(at.getTime()) && at.toISOString().startsWith(raw)) return raw
  problems.add(path, 'expected a day such as 2026-01-31', raw)
  return undefined
}

/** What makes an exchange lawful; only `consent` asks for the patient's. */
export const legalBases = [
  'treatment',
  'consent',
  'contract',
  'legal-obligation',
  'public-interest',
  'research',
] as const

const agreement = object({
  title: optional(words, ''),
  /** Destinations of the document, or `*`. */
  parties,
  purposes: list(purpose, { min: 1, max: 100 }),
  basis: oneOf(...legalBases),
  /** First and last day, UTC, both included; without a last one until it is taken out. */
  from: day,
  until: optional(day),
  direction: optional(oneOf('both', 'outgoing', 'incoming'), 'both'),
  /** What may be exchanged; absent: everything. */
  data: optional(
    object({
      modalities: optional(list(text({ min: 1, max: 16 }), { min: 1, max: 100 })),
      sopClasses: optional(
        list(text({ min: 1, max: 64, pattern: /^[0-9.]+$/, expected: 'a UID' }), { min: 1, max: 1000 }),
      ),
      /** Nothing goes under it as it is. */
      deidentified: optional(boolean, false),
    }),
  ),
})

/** A de-identification profile, kept as it was written: its own decoder says what is wrong with it. */
const profile: Decoder<Readonly<Record<string, unknown>> & { readonly name: string }> = (raw, path, problems) => {
  try {
    const { name } = decodeProfile(raw)
    const { $schema: _, ...rest } = isObject(raw) ? raw : {}
    return { ...rest, name }
  } catch (error) {
    problems.add(path, error instanceof GatewayError ? error.message : 'expected a profile')
    return undefined
  }
}

/** LO of PS3.5 §6.2 without what would need a character set, or end the value. */
const shortText = (max: number) =>
  text({ min: 1, max, pattern: /^[ -[\]-~]+$/, expected: 'ASCII text without backslash' })

/** How identifiers of patients of other sites are made the archive's. */
const identifiers = object({
  /** Patients are those that a person has linked; the others wait. */
  linked: optional(boolean, false),
  /** Put before each Patient ID. */
  prefix: optional(shortText(32)),
  /** Becomes Issuer of Patient ID. */
  issuer: optional(shortText(64)),
})

/** What a rule asks of a delivery to a modality. */
export const archiveTerms = object({
  /** The archive is asked to commit to what it was sent. */
  commitment: optional(boolean, false),
  /** The archive must find as many instances of the study as were sent. */
  count: optional(boolean, false),
  identifiers: optional(identifiers),
})
export type ArchiveTerms = ObjectValue<{ terms: typeof archiveTerms }>['terms']

const effects = {
  send: optional(
    object({
      to: targets,
      purpose,
      /** `as-is`, a profile of the document, or one that comes with the gateway. */
      profile: name,
      /** The agreement under which it goes: it must be valid then, and cover recipient, purpose and data. */
      agreement: optional(name),
      priority: optional(oneOf('urgent', 'normal', 'bulk'), 'normal'),
      expiresAfterHours: optional(integer({ min: 1, max: 24 * 90 }), 24 * 7),
      archive: optional(archiveTerms),
    }),
  ),
  hold: optional(object({ to: targets, reason: words })),
  deny: optional(object({ to: targets, reason: words })),
}

/** What is done with an offer of a paired site, and with what arrives at an endpoint. */
const reception = {
  accept: optional(
    object({ from: parties, purposes: optional(list(purpose, { min: 1, max: 100 })), agreement: optional(name) }),
  ),
  hold: optional(object({ from: parties, reason: words })),
  deny: optional(object({ from: parties, reason: words })),
}

const condition = conditionDecoder(isKnownAttribute)

const shape = object({
  $schema: optional(text({ max: 2048 })),
  format: oneOf('hanse-policy-2'),
  title: optional(words, ''),
  /** Sites and endpoints. */
  destinations: record(
    object({
      /** Site id of a paired site; in a draft also its name, which publishing turns into the id. */
      peer: optional(text({ min: 1, max: 128 })),
      /** Name or AE title of a registered modality. */
      modality: optional(text({ min: 1, max: 64 })),
      /** Name of an endpoint of a third party: always outside. */
      endpoint: optional(text({ min: 1, max: 64 })),
      /** Absent: a paired site is outside, a modality what the registry says of it. */
      zone: optional(oneOf('inside', 'outside')),
      description: optional(words, ''),
    }),
    { max: 1000 },
  ),
  agreements: optional(record(agreement, { max: 1000 }), {}),
  profiles: optional(list(profile, { max: 200 }), []),
  rules: list(object({ id: name, description: optional(words, ''), when: condition, ...effects }), { max: 10_000 }),
  /** Without a rule that accepts it nothing of a peer or an endpoint is taken. */
  incoming: optional(
    list(object({ id: name, description: optional(words, ''), when: condition, ...reception }), { max: 10_000 }),
    [],
  ),
})

type Decoded = ObjectValue<{ shape: typeof shape }>['shape']
export type PolicyDocument = Omit<Decoded, '$schema'>
export type Rule = PolicyDocument['rules'][number] & { readonly when: Condition }
export type IncomingRule = PolicyDocument['incoming'][number]
export type Agreement = PolicyDocument['agreements'][string]

/** What a rule does, as one value. */
export type Effect =
  | ({ readonly kind: 'send' } & Omit<NonNullable<Rule['send']>, 'to' | 'priority'> &
      Targets & { readonly priority: string })
  | ({ readonly kind: 'hold'; readonly reason: string } & Targets)
  | ({ readonly kind: 'deny'; readonly reason: string } & Targets)

interface Targets {
  readonly to: readonly string[]
}

/** The rule's only effect. */
export function effectOf(rule: Rule): Effect | undefined {
  if (rule.send) return { kind: 'send', ...rule.send }
  if (rule.hold) return { kind: 'hold', ...rule.hold }
  if (rule.deny) return { kind: 'deny', ...rule.deny }
  return undefined
}

/**
 * Decodes a policy document.
 *
 * @throws GatewayError POLICY_INVALID naming every problem with its path
 */
export function decodePolicy(raw: unknown): PolicyDocument {
  const result = decode(shape, upgrade(raw))
  if (!result.ok) throw new GatewayError('POLICY_INVALID', describe(result.problems))
  const { $schema: _, ...document } = result.value
  const problems = lint(document)
  if (problems.length > 0) throw new GatewayError('POLICY_INVALID', problems.join('; '))
  return document
}

/**
 * A document of version 1 as one of version 2. Version 1 said nothing of what comes in: whoever was paired could send, so
 * that is what its successor says in words.
 */
function upgrade(raw: unknown): unknown {
  if (!isObject(raw) || raw['format'] !== 'hanse-policy-1') return raw
  const { destinations, rules, title, $schema } = raw
  const unknown = Object.keys(raw).filter(key => !['$schema', 'format', 'title', 'destinations', 'rules'].includes(key))
  return {
    ...($schema !== undefined && { $schema }),
    ...(title !== undefined && { title }),
    ...Object.fromEntries(unknown.map(key => [`unknown ${key}`, raw[key]])),
    format: 'hanse-policy-2',
    destinations,
    rules,
    incoming: [
      {
        id: 'paired-sites',
        description: 'as version 1 of the format had it',
        when: { always: true },
        accept: { from: [anySite] },
      },
    ],
  }
}

/** Problems that only show across fields. */
function lint(document: PolicyDocument): string[] {
  const problems: string[] = []
  const seen = new Set<string>()
  for (const [name, { peer, modality, endpoint, zone }] of Object.entries(document.destinations)) {
    if ([peer, modality, endpoint].filter(target => target !== undefined).length !== 1)
      problems.push(`destinations.${name}: expected exactly one of peer, modality, endpoint`)
    if (endpoint !== undefined && zone === 'inside') problems.push(`destinations.${name}: an endpoint is outside`)
  }
  const isDestination = (destination: string): boolean => Object.hasOwn(document.destinations, destination)
  const isAgreement = (agreement: string | undefined): boolean =>
    agreement === undefined || Object.hasOwn(document.agreements, agreement)
  const names = document.profiles.map(({ name }) => name)
  for (const [index, name] of names.entries()) {
    if (names.indexOf(name) < index) problems.push(`profiles[${index}].name: ${name} is used twice`)
    if (name === asIs) problems.push(`profiles[${index}].name: ${asIs} is the profile that changes nothing`)
  }
  for (const [name, { parties, from, until }] of Object.entries(document.agreements)) {
    for (const party of parties) {
      if (party !== anySite && !isDestination(party))
        problems.push(`agreements.${name}.parties: unknown destination ${party}`)
    }
    if (until !== undefined && until < from) problems.push(`agreements.${name}.until: it ends before it begins`)
  }
  document.rules.forEach((rule, index) => {
    const path = `rules[${index}]`
    if (seen.has(rule.id)) problems.push(`${path}.id: ${rule.id} is used twice`)
    seen.add(rule.id)
    const count = [rule.send, rule.hold, rule.deny].filter(effect => effect !== undefined).length
    if (count !== 1) problems.push(`${path}: expected exactly one of send, hold, deny`)
    for (const destination of effectOf(rule)?.to ?? []) {
      if (!isDestination(destination)) problems.push(`${path}: unknown destination ${destination}`)
      else if (rule.send?.archive && document.destinations[destination]?.modality === undefined)
        problems.push(`${path}.send.archive: ${destination} is not a modality`)
    }
    for (const to of rule.send?.profile === asIs ? rule.send.to : []) {
      if (isDestination(to) && document.destinations[to]?.endpoint !== undefined)
        problems.push(`${path}.send.profile: what goes to the endpoint ${to} is de-identified`)
    }
    const { linked, prefix, issuer } = rule.send?.archive?.identifiers ?? {}
    if (linked && (prefix !== undefined || issuer !== undefined))
      problems.push(`${path}.send.archive.identifiers: expected either linked, or prefix and issuer`)
    if (rule.send && profileSource(document, rule.send.profile) === undefined)
      problems.push(`${path}.send.profile: unknown profile ${rule.send.profile}`)
    if (!isAgreement(rule.send?.agreement))
      problems.push(`${path}.send.agreement: unknown agreement ${rule.send?.agreement}`)
  })
  const seenIncoming = new Set<string>()
  document.incoming.forEach((rule, index) => {
    const path = `incoming[${index}]`
    if (seenIncoming.has(rule.id)) problems.push(`${path}.id: ${rule.id} is used twice`)
    seenIncoming.add(rule.id)
    const count = [rule.accept, rule.hold, rule.deny].filter(effect => effect !== undefined).length
    if (count !== 1) problems.push(`${path}: expected exactly one of accept, hold, deny`)
    for (const party of (rule.accept ?? rule.hold ?? rule.deny)?.from ?? []) {
      if (party === anySite) continue
      if (!isDestination(party)) problems.push(`${path}: unknown destination ${party}`)
      else if (document.destinations[party]?.modality !== undefined)
        problems.push(`${path}: ${party} is neither a site nor an endpoint`)
    }
    if (!isAgreement(rule.accept?.agreement))
      problems.push(`${path}.accept.agreement: unknown agreement ${rule.accept?.agreement}`)
  })
  return problems
}

/** A profile as the document, or else the gateway, writes it; undefined when neither knows it. `as-is` is an empty one. */
export function profileSource(document: Pick<PolicyDocument, 'profiles'>, name: string): unknown {
  if (name === asIs) return {}
  return document.profiles.find(profile => profile.name === name) ?? presetSource(name)
}

/**
 * The de-identification profile that a document means by a name; undefined for `as-is`, and for a name that it does not
 * know.
 */
export function profileOfDocument(document: Pick<PolicyDocument, 'profiles'>, name: string): Profile | undefined {
  if (name === asIs) return undefined
  const source = profileSource(document, name)
  return source === undefined ? undefined : decodeProfile(source)
}

/** The same document as text with sorted keys: what its digest covers. */
export function canonicalJson(value: unknown): string {
  return JSON.stringify(value, (_key, inner: unknown) =>
    typeof inner === 'object' && inner !== null && !Array.isArray(inner)
      ? Object.fromEntries(Object.entries(inner).sort(([a], [b]) => (a < b ? -1 : 1)))
      : inner,
  )
}
