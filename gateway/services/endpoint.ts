/** One endpoint of a third party, as it is set up: where it is, how it wants its deliveries, and how it answers. */

import { type PackOptions, packOptions } from '../../endpoints/pack/options.ts'
import { decodePlace, type Place } from '../../endpoints/place.ts'
import { type EndpointProxy, endpointProxy } from '../../endpoints/proxy.ts'
import { boolean, type Decoder, decode, describe, integer, list, object, oneOf, optional, text } from '../decode.ts'
import { GatewayError } from '../errors.ts'
import { type InboundTerms, inboundTerms } from './arrival-terms.ts'

/** Kinds that are given files. */
export const placeKinds = ['sftp', 'ftp', 'folder', 's3'] as const
/** All: also those that are given objects by their protocol, and what a person carries. */
export const endpointKinds = [...placeKinds, 'dimse', 'stow', 'orthanc', 'hand'] as const

export type EndpointKind = (typeof endpointKinds)[number]

/** A system that takes objects by C-STORE. */
export interface DimseSettings {
  readonly kind: 'dimse'
  readonly host: string
  readonly port: number
  readonly aeTitle: string
  /** Ours; the gateway's when absent. */
  readonly callingAe: string | undefined
  readonly tls:
    | {
        readonly verify: boolean
        readonly servername: string | undefined
        readonly ca: string | undefined
        readonly fingerprint: string | undefined
      }
    | undefined
  /** It is asked to commit to what it has taken; only then is a delivery acknowledged. */
  readonly commitment: boolean
}

/** A DICOMweb server, or an Orthanc by its REST API. */
export interface WebSettings {
  readonly kind: 'stow' | 'orthanc'
  readonly url: string
  readonly username: string | undefined
  /** Authorities that its certificate may be of, PEM, in the place of the public ones. */
  readonly ca: string | undefined
  readonly proxy: EndpointProxy | undefined
  readonly timeoutSeconds: number
}

/** A portal that a person uploads to. */
export interface HandSettings {
  readonly kind: 'hand'
}

export type EndpointSettings = Place | DimseSettings | WebSettings | HandSettings

/** When and how fast. */
export interface EndpointRules {
  /** Connections at a time. */
  readonly parallel: number
  readonly bytesPerSecond: number | undefined
  /** Times of day of this machine, `HH:MM`; over midnight where `until` is earlier. */
  readonly window: { readonly from: string; readonly until: string } | undefined
}

/** Receipt files that the recipient puts at the endpoint. */
export interface AcknowledgementPattern {
  /** Path below the root, with `{transfer}` or `{subject}`; its last name may have one `*`. */
  readonly path: string
  /** Words at the beginning of a line, of which one says what became of it. */
  readonly accepted: readonly string[]
  readonly rejected: readonly string[]
  /** So long it is looked for. */
  readonly forDays: number
}

/** Secrets by name; each kind takes its own. */
export const secretNames = [
  'password',
  'privateKey',
  'passphrase',
  'secretAccessKey',
  'jumpPassword',
  'jumpPrivateKey',
  'token',
  'clientCertificate',
  'clientKey',
  'ageIdentity',
  'proxyPassword',
] as const
export type SecretName = (typeof secretNames)[number]
export type EndpointSecrets = { readonly [K in SecretName]?: string }

/** An endpoint without its secrets. */
export interface Endpoint {
  readonly name: string
  readonly kind: EndpointKind
  readonly description: string
  readonly settings: EndpointSettings
  readonly secretNames: readonly string[]
  /** Host key (`SHA256:…`) or certificate (hex) that a person has confirmed. */
  readonly pin: string | undefined
  /** What the server showed instead, or has shown at first. */
  readonly shownPin: string | undefined
  readonly packaging: PackOptions
  readonly rules: EndpointRules
  readonly acknowledgement: AcknowledgementPattern | undefined
  /** How arriving files are looked for; undefined where nobody looks. */
  readonly inbound: InboundTerms | undefined
  /** When it was last looked at, and what went wrong then. */
  readonly polledAt: Date | undefined
  readonly pollErrorCode: string | undefined
  readonly pollError: string | undefined
  /** De-identification profile of sends that name none. */
  readonly profile: string | undefined
  readonly state: 'unconfirmed' | 'active' | 'stopped'
  readonly reasonCode: string | undefined
  readonly reason: string | undefined
  readonly createdAt: Date
  readonly updatedAt: Date
}

/** An endpoint as given; what is absent takes its default. */
export interface EndpointInput {
  readonly kind: EndpointKind
  readonly description?: string | undefined
  readonly settings?: object | undefined
  readonly secrets?: EndpointSecrets | undefined
  readonly packaging?: object | undefined
  readonly rules?: object | undefined
  readonly acknowledgement?: object | undefined
  readonly inbound?: object | undefined
  readonly profile?: string | undefined
}

/** Names of endpoints, as destinations of the policy have them. */
export const endpointName = text({
  min: 1,
  max: 64,
  pattern: /^[\w.-]+( [\w.-]+)*$/,
  expected: 'a name of letters, digits, ._- and inner spaces',
})

const host = text({ min: 1, max: 253, pattern: /^[0-9A-Za-z.:_-]+$/, expected: 'a host name or IP address' })
const aeTitle = text({ min: 1, max: 16, pattern: /^(?=.*[^ ])[ -[\]-~]+$/, expected: 'an AE title' })
const pem = text({ max: 100_000, pattern: /-----BEGIN CERTIFICATE-----/, expected: 'PEM certificates' })
const dimse = object({
  kind: oneOf('dimse'),
  host,
  port: integer({ min: 1, max: 65_535 }),
  aeTitle,
  callingAe: optional(aeTitle),
  tls: optional(
    object({
      verify: optional(boolean, true),
      servername: optional(host),
      ca: optional(pem),
      /** SHA-256 of the only certificate that it may have. */
      fingerprint: optional(text({ pattern: /^[0-9a-f]{64}$/, expected: '64 lower-case hex digits' })),
    }),
  ),
  commitment: optional(boolean, false),
})
const web = object({
  kind: oneOf('stow', 'orthanc'),
  url: text({
    min: 8,
    max: 2_000,
    pattern: /^https?:\/\/[^\s@]+$/i,
    expected: 'an http or https URL without password',
  }),
  username: optional(text({ max: 256, pattern: /^[^:]*$/, expected: 'a user name without colon' })),
  ca: optional(pem),
  proxy: optional(endpointProxy),
  timeoutSeconds: optional(integer({ min: 1, max: 3_600 }), 60),
})
const time = text({ pattern: /^([01]\d|2[0-3]):[0-5]\d$/, expected: 'a time such as 20:30' })
const rules = object({
  parallel: optional(integer({ min: 1, max: 16 }), 2),
  bytesPerSecond: optional(integer({ min: 1_000 })),
  window: optional(object({ from: time, until: time })),
})
const words = list(text({ min: 1, max: 64 }), { min: 1, max: 20 })
const acknowledgement = object({
  path: text({
    min: 1,
    max: 500,
    pattern: /^(?!\/)(?!.*(?:^|\/)\.\.?(?:\/|$))(?=.*\{(?:transfer|subject)\})(?:[^\p{Cc}\\*]*)\*?[^\p{Cc}\\*/]*$/u,
    expected: 'a relative path with {transfer} or {subject}, and at most one * in its last name',
  }),
  accepted: optional(words, ['accepted', 'ok']),
  rejected: optional(words, ['rejected', 'failed', 'error']),
  forDays: optional(integer({ min: 1, max: 365 }), 30),
})
const shapes = { packaging: packOptions, rules, acknowledgement, inbound: inboundTerms } as const

/** Reads the settings of a kind. @throws GatewayError BAD_REQUEST with everything that is wrong */
export function readSettings(kind: EndpointKind, raw: object, pin: string | undefined): EndpointSettings {
  switch (kind) {
    case 'sftp':
      return decodePlace({ ...raw, kind, ...(pin !== undefined && { hostKey: pin }) })
    case 'ftp':
      return decodePlace({ ...raw, kind, ...(pin !== undefined && { certificate: pin }) })
    case 'folder':
    case 's3':
      return decodePlace({ ...raw, kind })
    case 'dimse':
      return read(dimse, { ...raw, kind })
    case 'stow':
    case 'orthanc':
      return read(web, { ...raw, kind })
    case 'hand':
      return read(object({ kind: oneOf('hand') }), { ...raw, kind })
  }
}

/** Reads packaging, rules, the pattern of acknowledgements, and how arriving files are looked for. @throws GatewayError BAD_REQUEST */
export function readTerms(raw: {
  readonly packaging?: unknown
  readonly rules?: unknown
  readonly acknowledgement?: unknown
  readonly inbound?: unknown
}): Pick<Endpoint, 'packaging' | 'rules' | 'acknowledgement' | 'inbound'> {
  const given = (value: unknown): boolean => value !== undefined && value !== null
  return {
    packaging: read(shapes.packaging, raw.packaging ?? {}, 'packaging'),
    rules: read(shapes.rules, raw.rules ?? {}, 'rules'),
    acknowledgement: given(raw.acknowledgement)
      ? read(shapes.acknowledgement, raw.acknowledgement, 'acknowledgement')
      : undefined,
    inbound: given(raw.inbound) ? read(shapes.inbound, raw.inbound, 'inbound') : undefined,
  }
}

function read<T>(decoder: Decoder<T>, raw: unknown, at = 'settings'): T {
  const result = decode(decoder, raw)
  if (!result.ok) throw new GatewayError('BAD_REQUEST', `${at}: ${describe(result.problems)}`)
  return result.value
}

/** Whom secrets are for: they are given to nobody else, whatever is written into the row. */
export function targetOf(settings: EndpointSettings): string {
  const proxy = 'proxy' in settings ? settings.proxy : undefined
  const own = ownTarget(settings)
  return proxy ? JSON.stringify([own, proxy.url, proxy.user]) : own
}

function ownTarget(settings: EndpointSettings): string {
  switch (settings.kind) {
    case 'sftp': {
      const { host, port, user, jump } = settings
      return JSON.stringify(['sftp', host, port, user, jump && [jump.host, jump.port, jump.user, jump.hostKey]])
    }
    case 'ftp':
      return JSON.stringify(['ftp', settings.host, settings.port, settings.user, settings.tls])
    case 's3':
      return JSON.stringify(['s3', settings.endpoint, settings.bucket, settings.accessKeyId])
    case 'stow':
    case 'orthanc':
      return JSON.stringify([settings.kind, settings.url, settings.username])
    case 'dimse':
      return JSON.stringify(['dimse', settings.host, settings.port, settings.aeTitle])
    default:
      return settings.kind
  }
}

/** Whether a person has to confirm whom it is before anything is sent: no authority vouches for an SSH host key. */
export const needsPin = (settings: EndpointSettings): boolean => settings.kind === 'sftp'

/** True for kinds that are given files. */
export const isPlace = (settings: EndpointSettings): settings is Place =>
  placeKinds.some(kind => kind === settings.kind)
