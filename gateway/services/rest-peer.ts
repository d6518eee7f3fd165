/** One server that is called by its REST API, as Orthanc registers its peers: in two spellings. */
import { boolean, type Decoder, decode, integer, list, object, oneOf, optional, record, text } from '../decode.ts'
import { GatewayError } from '../errors.ts'

/** A registration as given, secrets in clear. */
export interface RestPeerInput {
  readonly url: string
  readonly username?: string | undefined
  readonly password?: string | undefined
  readonly headers?: Readonly<Record<string, string>> | undefined
  readonly certificateFile?: string | undefined
  readonly keyFile?: string | undefined
  readonly keyPassword?: string | undefined
  readonly timeoutSeconds?: number | undefined
  /** Our name there, for plug-ins of Orthanc; kept and shown, of no use here. */
  readonly remoteSelf?: string | undefined
  /** Whose network it is in. */
  readonly zone?: 'inside' | 'outside' | undefined
}

const url = text({
  min: 8,
  max: 2_000,
  pattern: /^https?:\/\/[^\s@]+$/i,
  expected: 'an http or https URL without password',
})
const token = text({ min: 1, max: 128, pattern: /^[0-9A-Za-z!#$%&'*+.^_`|~-]+$/, expected: 'a header name' })
const headerValue = text({ max: 8_192, pattern: /^[\t\x20-\x7e\x80-\xff]*$/, expected: 'a header value' })
const path = text({ min: 1, max: 4_096, pattern: /^\//, expected: 'an absolute path' })

const objectForm = object(
  {
    Url: optional(url),
    URL: optional(url),
    Username: optional(text({ max: 256, pattern: /^[^:]*$/, expected: 'a user name without colon' })),
    Password: optional(text({ max: 1_024 })),
    HttpHeaders: optional(record(headerValue, { max: 50 })),
    CertificateFile: optional(path),
    CertificateKeyFile: optional(path),
    CertificateKeyPassword: optional(text({ max: 1_024 })),
    Timeout: optional(integer({ min: 0, max: 3_600 })),
    Pkcs11: optional(boolean),
    RemoteSelf: optional(text({ max: 64 })),
    Zone: optional(oneOf('inside', 'outside')),
  },
  { unknown: 'keep' },
)
/** A URL, or that with user name and password. */
const listForm = list(text({ max: 2_000 }), { min: 1, max: 3 })

/** Reads Orthanc's list or object. @throws GatewayError BAD_REQUEST */
export function readRestPeer(raw: unknown): RestPeerInput {
  const given = decode(objectForm, Array.isArray(raw) ? fromList(raw) : raw)
  if (!given.ok)
    throw new GatewayError(
      'BAD_REQUEST',
      given.problems.map(({ expected, message, path: at }) => `${at}: ${expected ?? message}`).join('; '),
    )
  const { value } = given
  const root = value.Url ?? value.URL
  if (root === undefined || !URL.canParse(root)) throw new GatewayError('BAD_REQUEST', 'Url: expected a URL')
  if (value.Pkcs11) throw new GatewayError('BAD_REQUEST', 'Pkcs11: not offered')
  for (const name of Object.keys(value.HttpHeaders ?? {})) {
    if (!decode(token, name).ok) throw new GatewayError('BAD_REQUEST', 'HttpHeaders: expected header names')
  }
  return {
    url: root.endsWith('/') ? root : `${root}/`,
    username: value.Username || undefined,
    password: value.Password,
    headers: value.HttpHeaders,
    certificateFile: value.CertificateFile,
    keyFile: value.CertificateKeyFile,
    keyPassword: value.CertificateKeyPassword,
    timeoutSeconds: value.Timeout || undefined,
    remoteSelf: value.RemoteSelf,
    zone: value.Zone,
  }
}

function fromList(raw: readonly unknown[]): object {
  const given = decode(listForm, raw)
  if (!given.ok || given.value.length === 2)
    throw new GatewayError('BAD_REQUEST', 'expected a URL, a user name and a password')
  const [Url, Username, Password] = given.value
  return { Url, ...(Username !== undefined && { Username }), ...(Password !== undefined && { Password }) }
}

/** A registration as it is stored: what is secret lies in `sealed`. */
export interface StoredRestPeer {
  readonly name: string
  readonly url: string
  readonly username: string | undefined
  readonly headerNames: readonly string[]
  readonly certificateFile: string | undefined
  readonly keyFile: string | undefined
  readonly timeoutSeconds: number | undefined
  readonly remoteSelf?: string | undefined
  readonly zone: 'inside' | 'outside'
  /** Box of `RestSecrets`, base64; only this site's keys open it. */
  readonly sealed: string
}

/** What is sealed. `url` binds it: a secret is sent to nobody else, whatever is written into the row. */
export interface RestSecrets {
  readonly url: string
  readonly password?: string | undefined
  readonly headers?: Readonly<Record<string, string>> | undefined
  readonly keyPassword?: string | undefined
}

/** Names as modalities have them. */
export const restPeerName = text({
  min: 1,
  max: 64,
  pattern: /^(?! )[ -[\]-~]+(?<! )$/,
  expected: 'a name of 1 to 64 ASCII characters without backslash',
})

export const storedRestPeer: Decoder<StoredRestPeer> = (raw, at, problems) => {
  const value = shape(raw, at, problems)
  return (
    value && {
      ...value,
      username: value.username,
      certificateFile: value.certificateFile,
      keyFile: value.keyFile,
      timeoutSeconds: value.timeoutSeconds,
    }
  )
}
const shape = object({
  name: restPeerName,
  url,
  username: optional(text()),
  headerNames: list(token),
  certificateFile: optional(path),
  keyFile: optional(path),
  timeoutSeconds: optional(integer()),
  remoteSelf: optional(text({ max: 64 })),
  zone: oneOf('inside', 'outside'),
  sealed: text(),
})

export const restSecrets: Decoder<RestSecrets> = object({
  url,
  password: optional(text()),
  headers: optional(record(headerValue)),
  keyPassword: optional(text()),
})

/** How Orthanc describes one: names of headers, no secret. */
export function writeRestPeer(peer: StoredRestPeer): Record<string, unknown> {
  return {
    ...(peer.certificateFile !== undefined && { CertificateFile: peer.certificateFile }),
    ...(peer.keyFile !== undefined && { CertificateKeyFile: peer.keyFile, CertificateKeyPassword: null }),
    HttpHeaders: peer.headerNames,
    ...(peer.username !== undefined && { Password: null }),
    Pkcs11: false,
    ...(peer.remoteSelf !== undefined && { RemoteSelf: peer.remoteSelf }),
    Timeout: peer.timeoutSeconds ?? 0,
    Url: peer.url,
    ...(peer.username !== undefined && { Username: peer.username }),
    Zone: peer.zone,
  }
}
