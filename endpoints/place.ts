/** The places that files can be put into, as settings: what is no secret. Secrets come beside them. */
import { boolean, type Decoder, decode, describe, integer, object, oneOf, optional, text } from '../gateway/decode.ts'
import { GatewayError } from '../gateway/errors.ts'
import type { FileAbilities } from './file-store.ts'
import { type EndpointProxy, endpointProxy } from './proxy.ts'

/** What an endpoint cannot do although its protocol could: a drop box that nobody may list. */
export type Limits = { readonly [K in keyof FileAbilities]?: boolean | undefined }

/** A server that is logged in to on the way. */
export interface JumpHost {
  readonly host: string
  readonly port: number
  readonly user: string
  readonly hostKey: string
}

export interface SftpPlace {
  readonly kind: 'sftp'
  readonly host: string
  readonly port: number
  readonly user: string
  /** Folder below which everything is written. */
  readonly root: string
  /** `SHA256:` and base64, as `ssh-keygen -lf` shows it. Without one nobody logs in. */
  readonly hostKey: string | undefined
  readonly jump: JumpHost | undefined
  readonly proxy: EndpointProxy | undefined
  readonly can: Limits | undefined
}

export interface FtpPlace {
  readonly kind: 'ftp'
  readonly host: string
  readonly port: number
  readonly user: string
  readonly root: string
  /** `explicit` is AUTH TLS (RFC 4217), `implicit` is TLS from the first byte. */
  readonly tls: 'explicit' | 'implicit' | 'none'
  /** SHA-256 of the server's certificate, hex; instead of a certificate authority. */
  readonly certificate: string | undefined
  readonly proxy: EndpointProxy | undefined
  /** Certificate authorities, PEM; default: those of the system. */
  readonly ca: string | undefined
  readonly can: Limits | undefined
}

export interface FolderPlace {
  readonly kind: 'folder'
  /** Absolute; it must be there, because an absent one may be a share that is not mounted. */
  readonly root: string
  readonly can: Limits | undefined
}

export interface S3Place {
  readonly kind: 's3'
  readonly endpoint: string
  readonly region: string
  readonly bucket: string
  /** What all keys begin with. */
  readonly root: string
  readonly accessKeyId: string
  /** The bucket is in the path, not in the host name. */
  readonly isPathStyle: boolean
  readonly proxy: EndpointProxy | undefined
  readonly ca: string | undefined
  readonly can: Limits | undefined
}

export type Place = SftpPlace | FtpPlace | FolderPlace | S3Place

/** What a login needs; each place takes its own. */
export interface PlaceSecrets {
  readonly password?: string
  /** PEM or OpenSSH format. */
  readonly privateKey?: string
  readonly passphrase?: string
  readonly secretAccessKey?: string
  readonly jumpPassword?: string
  readonly jumpPrivateKey?: string
  readonly proxyPassword?: string
}

const name = (what: string): Decoder<string> => text({ min: 1, max: 255, pattern: /^[^\s\p{Cc}]+$/u, expected: what })
const root = text({ max: 1024, pattern: /^(?!.*(?:^|\/)\.\.(?:\/|$))[^\p{Cc}\\]*$/u, expected: 'a folder, without ..' })
const pem = text({ max: 100_000, pattern: /-----BEGIN CERTIFICATE-----/, expected: 'PEM certificates' })
const hostKey = text({ pattern: /^SHA256:[A-Za-z0-9+/]{43}$/, expected: 'SHA256: and 43 base64 characters' })
const port = (usual: number) => optional(integer({ min: 1, max: 65_535 }), usual)
const limits = optional(
  object({
    resume: optional(boolean),
    rename: optional(boolean),
    list: optional(boolean),
    remove: optional(boolean),
  }),
)

const shapes = {
  sftp: object({
    kind: oneOf('sftp'),
    host: name('a host name'),
    port: port(22),
    user: name('a user'),
    root: optional(root, ''),
    hostKey: optional(hostKey),
    proxy: optional(endpointProxy),
    jump: optional(object({ host: name('a host name'), port: port(22), user: name('a user'), hostKey })),
    can: limits,
  }),
  ftp: object({
    kind: oneOf('ftp'),
    host: name('a host name'),
    port: port(21),
    user: name('a user'),
    root: optional(root, ''),
    tls: optional(oneOf('explicit', 'implicit', 'none'), 'explicit'),
    proxy: optional(endpointProxy),
    certificate: optional(text({ pattern: /^[0-9a-f]{64}$/, expected: '64 lower-case hex digits' })),
    ca: optional(pem),
    can: limits,
  }),
  folder: object({
    kind: oneOf('folder'),
    root: text({
      min: 2,
      max: 1024,
      pattern: /^\/(?!.*(?:^|\/)\.\.(?:\/|$))[^\p{Cc}]+$/u,
      expected: 'an absolute folder',
    }),
    can: limits,
  }),
  s3: object({
    kind: oneOf('s3'),
    endpoint: text({ max: 512, pattern: /^https?:\/\/[^\s@]+$/, expected: 'an http or https URL without credentials' }),
    region: optional(name('a region'), 'us-east-1'),
    bucket: text({ min: 3, max: 63, pattern: /^[a-z0-9][a-z0-9.-]+$/, expected: 'a bucket name' }),
    root: optional(root, ''),
    accessKeyId: name('an access key id'),
    isPathStyle: optional(boolean, true),
    proxy: optional(endpointProxy),
    ca: optional(pem),
    can: limits,
  }),
} as const

/** Reads settings. @throws GatewayError BAD_REQUEST with everything that is wrong */
export function decodePlace(raw: unknown): Place {
  const kind = decode(object({ kind: oneOf('sftp', 'ftp', 'folder', 's3') }, { unknown: 'keep' }), raw)
  if (!kind.ok) throw new GatewayError('BAD_REQUEST', describe(kind.problems))
  const place = decode<Place>(placeDecoder(kind.value.kind), raw)
  if (!place.ok) throw new GatewayError('BAD_REQUEST', describe(place.problems))
  return place.value
}

function placeDecoder(kind: Place['kind']): Decoder<Place> {
  return (raw, path, problems) => shapes[kind](raw, path, problems)
}
