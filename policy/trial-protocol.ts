/** What a trial's protocol asks of its imaging, as a coordinator writes it down; see deploy/TRIALS.md. */
import {
  boolean,
  type Decoder,
  decode,
  describe,
  integer,
  list,
  object,
  optional,
  type Problems,
  text,
} from '../gateway/decode.ts'
import { GatewayError } from '../gateway/errors.ts'

/** A range of numbers, both ends included; a missing end is open. */
export interface Range {
  readonly min?: number | undefined
  readonly max?: number | undefined
}

/** Series that a visit asks for. What is not named may be anything. */
export interface SeriesRequirement {
  /** As the protocol calls it. */
  readonly name: string
  /** Modality (0008,0060). */
  readonly modality: string
  /** Body Part Examined (0018,0015). */
  readonly bodyPart?: string | undefined
  /** Words that Series Description (0008,103E) must hold, in any case. */
  readonly description?: string | undefined
  /** Slice Thickness (0018,0050) of every image, mm. */
  readonly sliceThickness?: Range | undefined
  /** Images in each such series. */
  readonly images?: Range | undefined
  /** So many such series, at least. */
  readonly count: number
}

export interface Visit {
  readonly name: string
  /** Days from the subject's day 0; undefined for a visit at any time. */
  readonly day?: number | undefined
  /** Days that it may be earlier or later. */
  readonly before: number
  readonly after: number
  readonly series: readonly SeriesRequirement[]
}

export interface Contact {
  /** What the person is in the trial. */
  readonly role: string
  readonly name: string
  readonly email?: string | undefined
  readonly phone?: string | undefined
}

export interface TrialProtocol {
  readonly sponsor: string
  /** The sponsor's number of it. With the endpoint it decides on keys: trials have nothing in common to join on. */
  readonly protocol: string
  /** The sponsor's number of this hospital. */
  readonly site: string
  readonly title: string
  /** Where its studies go. */
  readonly endpoint: string
  /** De-identification profile of the policy. */
  readonly profile: string
  readonly purpose: string
  /** Nothing goes without a consent in force. */
  readonly consent: boolean
  /** Who approves is not who chose. */
  readonly twoPeople: boolean
  readonly contacts: readonly Contact[]
  readonly visits: readonly Visit[]
}

/** What names may be at the sponsor and in paths: subjects, visits, numbers of protocols and sites. */
export const trialNamePattern = /^[A-Za-z0-9](?:[A-Za-z0-9 ._-]{0,62}[A-Za-z0-9])?$/
const called = (what: string): Decoder<string> =>
  text({ max: 64, pattern: trialNamePattern, expected: `${what}: letters, digits, space, dot, dash, underscore` })
const line = (max: number): Decoder<string> =>
  text({ max, pattern: /^[^\p{Cc}]*$/u, expected: 'text without control characters' })
const days = integer({ min: 0, max: 3_650 })
const number: Decoder<number> = (raw, path, problems) => {
  if (typeof raw === 'number' && raw >= 0 && raw <= 1e6) return raw
  problems.add(path, 'expected a number from 0 to 1000000', raw)
  return undefined
}
const range = ordered(object({ min: optional(number), max: optional(number) }))
const code = text({ min: 1, max: 16, pattern: /^[A-Z0-9 _]+$/, expected: 'a coded value, such as CT or CHEST' })

const series: Decoder<SeriesRequirement> = object({
  name: called('a name'),
  modality: code,
  bodyPart: optional(code),
  description: optional(line(64)),
  sliceThickness: optional(range),
  images: optional(range),
  count: optional(integer({ min: 1, max: 100 }), 1),
})

const visit: Decoder<Visit> = object({
  name: called('a visit'),
  day: optional(integer({ min: -3_650, max: 36_500 })),
  before: optional(days, 0),
  after: optional(days, 0),
  series: list(series, { min: 1, max: 50 }),
})

const contact = object({
  role: line(64),
  name: line(128),
  email: optional(line(254)),
  phone: optional(line(64)),
})

const protocol: Decoder<TrialProtocol> = object({
  sponsor: called('a sponsor'),
  protocol: called('a protocol'),
  site: called('a site'),
  title: optional(line(500), ''),
  endpoint: text({ min: 1, max: 64, expected: 'the name of an endpoint' }),
  profile: text({ min: 1, max: 64, expected: 'the name of a profile' }),
  purpose: optional(
    text({ pattern: /^[a-z][a-z0-9-]{0,63}$/, expected: 'a purpose in lower case, such as trial' }),
    'trial',
  ),
  consent: optional(boolean, true),
  twoPeople: optional(boolean, false),
  contacts: optional(list(contact, { max: 50 }), []),
  visits: unique(list(visit, { min: 1, max: 200 })),
})

/** Reads a protocol. @throws GatewayError BAD_REQUEST with everything that is wrong */
export function decodeTrialProtocol(raw: unknown): TrialProtocol {
  const decoded = decode(protocol, raw)
  if (!decoded.ok) throw new GatewayError('BAD_REQUEST', describe(decoded.problems))
  return decoded.value
}

function ordered(decoder: Decoder<Range>): Decoder<Range> {
  return (raw, path, problems: Problems) => {
    const value = decoder(raw, path, problems)
    if (value?.min !== undefined && value.max !== undefined && value.min > value.max)
      problems.add(path, 'expected a minimum that is not above the maximum')
    return value
  }
}

function unique(decoder: Decoder<Visit[]>): Decoder<Visit[]> {
  return (raw, path, problems) => {
    const visits = decoder(raw, path, problems)
    const names = visits?.map(each => each.name) ?? []
    for (const name of new Set(names.filter((each, index) => names.indexOf(each) !== index)))
      problems.add(path, `two visits are called ${name}`)
    return visits
  }
}
