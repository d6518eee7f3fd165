/**
 * The names under which a delivery appears at an endpoint (`endpoints/PACKAGES.md` §Names): a template with fields, and
 * the case, digits, length and characters that the recipient asks for. Fields hold pseudonyms and numbers of a trial,
 * never what a patient is called.
 */
import { type Decoder, integer, object, oneOf, optional, text } from '../../gateway/decode.ts'
import { GatewayError } from '../../gateway/errors.ts'

/** What the recipient's names look like. */
export interface NameRules {
  /**
   * Path with `{field}`s, such as `{protocol}/{site}/{subject}/{visit}/`. What follows the last `/` names each package,
   * without its extension; where nothing does, packages are called after what they hold and their number.
   */
  readonly template: string
  readonly case: 'keep' | 'upper' | 'lower'
  /** Least digits of numbers. */
  readonly padding: number
  /** Most characters of one name, extension included. */
  readonly maxLength: number
  /** `portable` are letters, digits and `._-`; `words` letters, digits and `_`. */
  readonly charset: 'portable' | 'words' | 'alphanumeric'
}

/** Fields of the folder and of packages; those that a delivery does not have are undefined. */
export interface DeliveryFields {
  readonly sponsor?: string | undefined
  readonly protocol?: string | undefined
  readonly site?: string | undefined
  /** The subject's pseudonym or number. */
  readonly subject?: string | undefined
  readonly visit?: string | undefined
  /** Our id of the delivery. */
  readonly transfer?: string | undefined
  /** Day on which the delivery was made, `YYYYMMDD`. */
  readonly date?: string | undefined
}

/** Fields of packages only. */
export interface PackageFields {
  readonly unit: 'file' | 'series' | 'study'
  /** From 1: place of the package in the delivery, of its study, and of its series within the study. */
  readonly number: number
  readonly study: number
  readonly series: number
  readonly modality: string
  /** De-identified UID of what the package holds. */
  readonly uid: string
}

/** Fields that whoever sends may give. */
export const givenFields = ['sponsor', 'protocol', 'site', 'subject', 'visit'] as const
const deliveryFields = [...givenFields, 'transfer', 'date'] as const
const packageFields = ['unit', 'number', 'study', 'series', 'modality', 'uid'] as const
const defaultPackage = '{unit}{number}'
const mostSegments = 16
/** Room for our own names, `certificate.json` and the extensions. */
const leastLength = 24
/** Names that Windows keeps for devices, with any extension. */
const reserved = /^(con|prn|aux|nul|com[0-9]|lpt[0-9])(\.|$)/i

const shape = object({
  template: optional(text({ max: 500, expected: 'a path template' }), ''),
  case: optional(oneOf('keep', 'upper', 'lower'), 'keep'),
  padding: optional(integer({ min: 1, max: 9 }), 3),
  maxLength: optional(integer({ min: leastLength, max: 255 }), 120),
  charset: optional(oneOf('portable', 'words', 'alphanumeric'), 'portable'),
})

/** Reads the rules; a template that names an unknown field or could never be a path is a problem. */
export const nameRules: Decoder<NameRules> = (raw, path, problems) => {
  const rules = shape(raw, path, problems)
  const fault = rules && findFault(rules)
  if (fault === undefined) return rules
  problems.add(`${path}.template`, fault)
  return undefined
}

/** Fields of the template that only whoever sends can give, and has not; subjects have a pseudonym. */
export function missingFields({ template }: Pick<NameRules, 'template'>, given: DeliveryFields): readonly string[] {
  return givenFields.filter(
    field => field !== 'subject' && template.includes(`{${field}}`) && (given[field] ?? '') === '',
  )
}

/** True when packages of one delivery cannot get the same name: the template numbers them. */
export function tellsPackagesApart({ template }: Pick<NameRules, 'template'>): boolean {
  const own = template.slice(template.lastIndexOf('/') + 1)
  return own === '' || /\{(number|uid)\}/.test(own)
}

/**
 * The delivery's folder, below the endpoint's root; empty where the template has none.
 *
 * @throws GatewayError BAD_REQUEST when the delivery lacks a field of the template, or a name becomes too long
 */
export function deliveryFolder(rules: NameRules, fields: DeliveryFields): string {
  return rules.template
    .split('/')
    .slice(0, -1)
    .map(segment => nameOf(segment, fields, rules))
    .join('/')
}

/**
 * The name of a package without extension.
 *
 * @param extension  what will follow the name, for its length
 * @throws GatewayError BAD_REQUEST as `deliveryFolder`
 */
export function packageName(rules: NameRules, fields: DeliveryFields & PackageFields, extension: string): string {
  const own = rules.template.slice(rules.template.lastIndexOf('/') + 1)
  return nameOf(own === '' ? defaultPackage : own, fields, rules, extension)
}

/** One of our own names, such as `manifest.json`, as the recipient wants names. */
export function ownName(rules: NameRules, name: string): string {
  return inCase(name, rules)
}

/**
 * Refuses names that are the same where case does not count, as on Windows.
 *
 * @throws GatewayError BAD_REQUEST
 */
export function refuseCollisions(names: Iterable<string>): void {
  const seen = new Set<string>()
  for (const name of names) {
    const folded = name.toLowerCase()
    if (seen.has(folded))
      throw new GatewayError(
        'BAD_REQUEST',
        'two packages of the delivery would have the same name: add {number} or {uid} to the end of the path template',
      )
    seen.add(folded)
  }
}

/** What is wrong with a template, or undefined. */
function findFault(rules: NameRules): string | undefined {
  const segments = rules.template.split('/')
  if (segments.length > mostSegments) return `expected at most ${mostSegments - 1} folders`
  for (const [index, segment] of segments.entries()) {
    const isPackage = index === segments.length - 1
    if (segment === '' && !isPackage) return 'expected a relative path without empty names'
    const known: readonly string[] = isPackage ? [...deliveryFields, ...packageFields] : deliveryFields
    const unknown = [...segment.matchAll(/\{([^{}]*)\}/g)].map(([, field = '']) => field).find(f => !known.includes(f))
    if (unknown !== undefined) return `expected the fields ${known.map(field => `{${field}}`).join(' ')} only`
    const literal = segment.replaceAll(/\{[^{}]*\}/g, '')
    if (clean(literal, { ...rules, case: 'keep' }) !== literal)
      return `expected only characters that the set "${rules.charset}" has, beside fields in { }`
    if (/^\.+$/.test(segment)) return 'expected names, not . or ..'
  }
  return undefined
}

const replacements = { portable: '_', words: '_', alphanumeric: '' } as const
const others = { portable: /[^A-Za-z0-9._-]/g, words: /[^A-Za-z0-9_]/g, alphanumeric: /[^A-Za-z0-9]/g } as const

/** A value in the characters of the set, letters without their accents. */
function clean(value: string, rules: NameRules): string {
  const plain = value.normalize('NFKD').replaceAll(/\p{M}/gu, '')
  return inCase(plain.replaceAll(others[rules.charset], replacements[rules.charset]), rules)
}

const inCase = (name: string, { case: wanted }: NameRules): string =>
  wanted === 'upper' ? name.toUpperCase() : wanted === 'lower' ? name.toLowerCase() : name

function nameOf(
  segment: string,
  fields: DeliveryFields & Partial<PackageFields>,
  rules: NameRules,
  extension = '',
): string {
  const filled = segment.replaceAll(/\{([a-z]+)\}/g, (_, field: string) =>
    clean(fieldText(field, fields, rules), rules),
  )
  const name = inCase(harmless(filled, rules), rules)
  if (name === '') throw refused(segment, 'has no character that the endpoint allows')
  if (name.length + extension.length > rules.maxLength)
    throw refused(segment, `becomes longer than the ${rules.maxLength} characters that the endpoint allows`)
  return name
}

function fieldText(field: string, fields: DeliveryFields & Partial<PackageFields>, rules: NameRules): string {
  const value = new Map<string, unknown>(Object.entries(fields)).get(field)
  if (typeof value === 'number') return String(value).padStart(rules.padding, '0')
  if (typeof value === 'string' && value !== '') return value
  throw new GatewayError('BAD_REQUEST', `the path template asks for {${field}}, which this delivery does not have`)
}

/** No name that hides, leads elsewhere, is taken for an option, a formula or a device, or that Windows would change. */
function harmless(name: string, { charset }: NameRules): string {
  const plain = name
    .replaceAll(/\.{2,}/g, '.')
    .replace(/^[.-]+/, '')
    .replace(/\.+$/, '')
  return reserved.test(plain) ? `${charset === 'alphanumeric' ? 'x' : '_'}${plain}` : plain
}

/** Never shortened: two subjects whose names begin alike must not become one. */
function refused(segment: string, what: string): GatewayError {
  return new GatewayError('BAD_REQUEST', `the name "${segment}" of the path template ${what}`)
}
