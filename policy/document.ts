/**
 * The policy document: who gets what, why, and in which form. `PROFILES.md` is the normative
 * description, `policy.schema.json` the schema for editors.
 */

import {
  boolean,
  decode,
  describe,
  integer,
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

/** Facts beside DICOM keywords: what the gateway itself knows of a study. */
export const factNames = ['CallingAETitle', 'CalledAETitle', 'OriginKind', 'OriginPeer', 'InstanceCount'] as const

const isKnownAttribute = (name: string): boolean =>
  factNames.some(fact => fact === name) || (/^[A-Z][A-Za-z0-9]{1,63}$/.test(name) && tagOf(name) !== undefined)

const name = text({
  min: 1,
  max: 64,
  pattern: /^[\w.-]+( [\w.-]+)*$/,
  expected: 'a name of letters, digits, ._- and inner spaces',
})
const words = text({ max: 1000 })

/** The one profile of this form: the stored bytes, untouched. */
export const profiles = ['as-is'] as const

const purpose = text({
  min: 1,
  max: 64,
  pattern: /^[a-z][a-z0-9-]*$/,
  expected: 'a purpose such as treatment or second-opinion',
})
const targets = list(name, { min: 1, max: 100 })

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
      profile: oneOf(...profiles),
      priority: optional(oneOf('urgent', 'normal', 'bulk'), 'normal'),
      expiresAfterHours: optional(integer({ min: 1, max: 24 * 90 }), 24 * 7),
      archive: optional(archiveTerms),
    }),
  ),
  hold: optional(object({ to: targets, reason: words })),
  deny: optional(object({ to: targets, reason: words })),
}

const shape = object({
  $schema: optional(text({ max: 2048 })),
  format: oneOf('hanse-policy-1'),
  title: optional(words, ''),
  destinations: record(
    object({
      /** Name or site id of a paired site. */
      peer: optional(text({ min: 1, max: 128 })),
      /** Name or AE title of a registered modality inside the hospital: its archive. */
      modality: optional(text({ min: 1, max: 64 })),
      description: optional(words, ''),
    }),
    { max: 1000 },
  ),
  rules: list(
    object({ id: name, description: optional(words, ''), when: conditionDecoder(isKnownAttribute), ...effects }),
    {
      max: 10_000,
    },
  ),
})

type Decoded = ObjectValue<{ shape: typeof shape }>['shape']
export type PolicyDocument = Omit<Decoded, '$schema'>
export type Rule = PolicyDocument['rules'][number] & { readonly when: Condition }

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
  const result = decode(shape, raw)
  if (!result.ok) throw new GatewayError('POLICY_INVALID', describe(result.problems))
  const { $schema: _, ...document } = result.value
  const problems = lint(document)
  if (problems.length > 0) throw new GatewayError('POLICY_INVALID', problems.join('; '))
  return document
}

/** Problems that only show across fields. */
function lint(document: PolicyDocument): string[] {
  const problems: string[] = []
  const seen = new Set<string>()
  for (const [name, { peer, modality }] of Object.entries(document.destinations)) {
    if ((peer === undefined) === (modality === undefined))
      problems.push(`destinations.${name}: expected exactly one of peer, modality`)
  }
  document.rules.forEach((rule, index) => {
    const path = `rules[${index}]`
    if (seen.has(rule.id)) problems.push(`${path}.id: ${rule.id} is used twice`)
    seen.add(rule.id)
    const count = [rule.send, rule.hold, rule.deny].filter(effect => effect !== undefined).length
    if (count !== 1) problems.push(`${path}: expected exactly one of send, hold, deny`)
    for (const destination of effectOf(rule)?.to ?? []) {
      if (!Object.hasOwn(document.destinations, destination))
        problems.push(`${path}: unknown destination ${destination}`)
      else if (rule.send?.archive && document.destinations[destination]?.modality === undefined)
        problems.push(`${path}.send.archive: ${destination} is not a modality`)
    }
    const { linked, prefix, issuer } = rule.send?.archive?.identifiers ?? {}
    if (linked && (prefix !== undefined || issuer !== undefined))
      problems.push(`${path}.send.archive.identifiers: expected either linked, or prefix and issuer`)
  })
  return problems
}

/** The same document as text with sorted keys: what its digest covers. */
export function canonicalJson(value: unknown): string {
  return JSON.stringify(value, (_key, inner: unknown) =>
    typeof inner === 'object' && inner !== null && !Array.isArray(inner)
      ? Object.fromEntries(Object.entries(inner).sort(([a], [b]) => (a < b ? -1 : 1)))
      : inner,
  )
}
