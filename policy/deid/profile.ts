/**
 * The profile document: how instances are de-identified for a purpose. `policy/PROFILES.md` is the normative
 * description, `profile.schema.json` the schema for editors.
 */
import { createHash } from 'node:crypto'
import {
  boolean,
  type Decoder,
  decode,
  integer,
  isObject,
  list,
  type ObjectValue,
  object,
  oneOf,
  optional,
  text,
} from '../../gateway/decode.ts'
import { formatTag, isPrivateTag, parseTag, type Tag, tagOf } from '../../gateway/dicom/tag.ts'
import { isUid } from '../../gateway/dicom/uid.ts'
import { isVr } from '../../gateway/dicom/vr.ts'
import { GatewayError } from '../../gateway/errors.ts'
import { type OptionName, optionNames, safePrivateVrs } from './tables.ts'

/** What an override makes of an attribute. */
export const overrideActions = ['keep', 'remove', 'empty', 'replace', 'clean', 'uid', 'shift'] as const
export type OverrideAction = (typeof overrideActions)[number]

const name = text({
  min: 1,
  max: 64,
  pattern: /^[\w.-]+( [\w.-]+)*$/,
  expected: 'a name of letters, digits, ._- and inner spaces',
})
const words = text({ max: 1000 })
const justification = text({ min: 10, max: 1000, expected: 'a justification of 10 to 1000 characters' })
/** Written into objects of any character set, so printable ASCII without the value delimiter. */
const ascii = text({
  min: 1,
  max: 64,
  pattern: /^(?! )[ -[\]-~]*(?<! )$/,
  expected: 'printable ASCII without backslash, not beginning or ending with a space',
})
const prefix = text({
  min: 1,
  max: 16,
  pattern: /^(?! )[ -[\]-~]*(?<! )$/,
  expected: 'at most 16 printable ASCII characters',
})
const pixels = integer({ min: 0, max: 1_000_000 })

const attribute: Decoder<Tag> = (raw, path, problems) => {
  const tag = typeof raw === 'string' ? (tagOf(raw) ?? parseTag(raw)) : undefined
  if (tag === undefined || isPrivateTag(tag)) {
    problems.add(path, 'expected a keyword of PS3.6 or a standard tag as eight hex digits', raw)
    return undefined
  }
  return tag
}

const uid: Decoder<string> = (raw, path, problems) => {
  if (typeof raw === 'string' && isUid(raw)) return raw
  problems.add(path, 'expected a UID', raw)
  return undefined
}

const region: Decoder<readonly [number, number, number, number]> = (raw, path, problems) => {
  const numbers = list(pixels, { min: 4, max: 4 })(raw, path, problems)
  const [x = 0, y = 0, width = 0, height = 0] = numbers ?? []
  if (numbers === undefined) return undefined
  if (width === 0 || height === 0) {
    problems.add(path, 'expected [x, y, width, height] with a width and a height above 0')
    return undefined
  }
  return [x, y, width, height]
}

const privateElement: Decoder<Tag> = (raw, path, problems) => {
  const match = typeof raw === 'string' ? /^([0-9a-f]{4}),xx([0-9a-f]{2})$/i.exec(raw) : null
  const group = Number.parseInt(match?.[1] ?? '0', 16)
  if (match === null || group % 2 === 0 || group < 9) {
    problems.add(path, 'expected a private element such as 0019,xx1E', raw)
    return undefined
  }
  return ((group << 16) | Number.parseInt(match[2] ?? '0', 16)) >>> 0
}

const vr: Decoder<string> = (raw, path, problems) => {
  if (typeof raw === 'string' && isVr(raw) && raw !== 'UN') return raw
  problems.add(path, 'expected a VR', raw)
  return undefined
}

const shape = object({
  $schema: optional(text({ max: 2048 })),
  format: oneOf('hanse-deid-1'),
  name,
  title: optional(words, ''),
  basis: oneOf('treatment', 'consent', 'safe-harbor', 'limited-data-set', 'expert-determination'),
  options: optional(list(oneOf(...optionNames), { max: optionNames.length }), []),
  overrides: optional(
    list(
      object({
        attribute,
        action: oneOf(...overrideActions),
        value: optional(ascii),
        justification,
      }),
      { max: 1000 },
    ),
    [],
  ),
  privateAttributes: optional(
    list(object({ creator: text({ min: 1, max: 64 }), element: privateElement, vr, justification }), { max: 1000 }),
    [],
  ),
  scopes: optional(
    object({
      uids: optional(name, 'project'),
      dates: optional(name, 'project'),
      pseudonyms: optional(name, 'project'),
    }),
    { uids: 'project', dates: 'project', pseudonyms: 'project' },
  ),
  dates: optional(
    object({ minDays: optional(integer({ min: 1, max: 36_500 }), 1), maxDays: integer({ min: 1, max: 36_500 }) }),
    { minDays: 1, maxDays: 3650 },
  ),
  pseudonym: optional(
    object({ kind: oneOf('keyed', 'lookup', 'sequential', 'none'), prefix: optional(prefix, 'P-') }),
    {
      kind: 'keyed',
      prefix: 'P-',
    },
  ),
  pixels: optional(
    object({
      trustDeclaredNo: optional(boolean, false),
      release: optional(list(object({ sopClassUid: uid, justification }), { max: 100 }), []),
      regions: optional(
        list(
          object({
            modality: optional(text({ min: 1, max: 16 })),
            manufacturer: optional(text({ min: 1, max: 64 })),
            model: optional(text({ min: 1, max: 64 })),
            rows: optional(pixels),
            columns: optional(pixels),
            blank: list(region, { min: 1, max: 32 }),
          }),
          { max: 1000 },
        ),
        [],
      ),
    }),
    { trustDeclaredNo: false, release: [], regions: [] },
  ),
  sopClasses: optional(
    object({ only: optional(list(uid, { min: 1, max: 1000 })), refuse: optional(list(uid, { max: 1000 }), []) }),
    { only: undefined, refuse: [] },
  ),
  trial: optional(
    object({
      sponsor: optional(ascii),
      protocolId: optional(ascii),
      protocolName: optional(ascii),
      siteId: optional(ascii),
      siteName: optional(ascii),
      timePointId: optional(ascii),
      coordinatingCenter: optional(ascii),
      subject: optional(oneOf('id', 'reading-id'), 'id'),
    }),
  ),
})

type Decoded = ObjectValue<{ shape: typeof shape }>['shape']

/** A profile as decoded; attributes are tags. */
export type Profile = Omit<Decoded, '$schema'>

/**
 * Decodes a profile document.
 *
 * @throws GatewayError POLICY_INVALID naming every problem with its path
 */
export function decodeProfile(raw: unknown): Profile {
  const result = decode(shape, raw)
  const problems = result.ok ? lint(result.value) : result.problems.map(at => `${at.path}: ${at.message}`)
  if (!result.ok || problems.length > 0) throw new GatewayError('POLICY_INVALID', problems.join('; '))
  const { $schema: _, ...profile } = result.value
  return profile
}

/** True when the profile has chosen the option. */
export function hasOption(profile: Profile, option: OptionName): boolean {
  return profile.options.includes(option)
}

/** What becomes of dates under the profile: (0028,0303) in the engine's words. */
export function datesOf(profile: Profile): 'removed' | 'shifted' | 'kept' {
  if (hasOption(profile, 'retainLongitudinalFullDates')) return 'kept'
  return hasOption(profile, 'retainLongitudinalModifiedDates') ? 'shifted' : 'removed'
}

/** SHA-256 over the canonical JSON of the decoded profile, hex: equal profiles have equal digests. */
export function profileDigest(profile: Profile): string {
  return createHash('sha256').update(canonical(profile)).digest('hex')
}

function canonical(value: unknown): string {
  return JSON.stringify(value, (_key, inner: unknown) =>
    isObject(inner) ? Object.fromEntries(Object.entries(inner).sort(([a], [b]) => (a < b ? -1 : 1))) : inner,
  )
}

/** Attributes that the engine alone decides about: an override would make objects unreadable or their marks untrue. */
const reserved: ReadonlySet<Tag> = new Set(
  [
    'SpecificCharacterSet',
    'SOPClassUID',
    'SOPInstanceUID',
    'PixelData',
    'PatientIdentityRemoved',
    'DeidentificationMethod',
    'DeidentificationMethodCodeSequence',
    'LongitudinalTemporalInformationModified',
    'BurnedInAnnotation',
    'ContentSequence',
  ].map(keyword => tagOf(keyword) ?? 0),
)

/** Contradictions that only show across fields. */
function lint(profile: Decoded): string[] {
  const problems: string[] = []
  const has = (option: OptionName): boolean => profile.options.includes(option)
  if (new Set(profile.options).size !== profile.options.length) problems.push('options: an option is named twice')
  if (has('retainLongitudinalFullDates') && has('retainLongitudinalModifiedDates'))
    problems.push('options: full and modified dates exclude each other')
  if (profile.basis === 'safe-harbor') {
    if (has('retainLongitudinalFullDates')) problems.push('options: safe harbor allows no full dates')
    for (const option of ['retainUIDs', 'retainInstitutionIdentity', 'retainDeviceIdentity'] as const)
      if (has(option)) problems.push(`options: safe harbor does not allow ${option}`)
  }
  if (has('retainSafePrivate') && profile.privateAttributes.length > 0) {
    const unvetted = profile.privateAttributes.findIndex(
      ({ creator, element }) => safePrivateVrs(creator, element) === undefined,
    )
    if (unvetted >= 0)
      problems.push(
        `privateAttributes[${unvetted}]: an attribute outside Table E.3.10-1 cannot be kept as a safe private one`,
      )
  }
  if (!has('cleanPixelData') && profile.pixels.regions.length > 0)
    problems.push('pixels.regions: regions are blanked under the option cleanPixelData only')
  if (has('cleanPixelData') && profile.pixels.release.length > 0)
    problems.push('pixels.release: pixels that were released unseen cannot be called cleaned')
  if (profile.dates.minDays > profile.dates.maxDays) problems.push('dates: minDays is above maxDays')
  const seen = new Set<Tag>()
  profile.overrides.forEach((override, index) => {
    const path = `overrides[${index}]`
    if (seen.has(override.attribute))
      problems.push(`${path}.attribute: ${formatTag(override.attribute)} is named twice`)
    seen.add(override.attribute)
    if (reserved.has(override.attribute)) problems.push(`${path}.attribute: the engine itself decides about it`)
    if ((override.action === 'replace') !== (override.value !== undefined))
      problems.push(`${path}.value: expected with the action replace, and only with it`)
    if (override.action === 'keep' && override.attribute === tagOf('PatientName'))
      problems.push(`${path}: a name that is kept is no de-identification`)
  })
  return problems
}
