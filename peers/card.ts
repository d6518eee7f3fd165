/**
 * The site card: a site's signed description of itself, what its peers pin and what it can do.
 *
 * A card proves only that the holder of its signing key wrote it. That the key belongs to the hospital
 * it names is what pairing establishes (`pairing.ts`).
 */
import { X509Certificate } from 'node:crypto'
import { fingerprint, readCaCertificate } from '../certs/ca.ts'
import {
  type Decoder,
  decode,
  describeExpected,
  integer,
  list,
  object,
  oneOf,
  optional,
  text,
} from '../gateway/decode.ts'
import { GatewayError } from '../gateway/errors.ts'
import {
  encodePayload,
  keyId,
  openSelfSigned,
  type SignatureContext,
  type SigningKey,
  signEnvelope,
} from './envelope.ts'
import { base64, utcTime } from './json.ts'
import type { FormerKey, SiteKeys } from './keys.ts'
import { seal } from './seal.ts'

export const cardContext: SignatureContext = 'application/vnd.hanse.site-card.v1+json'

/** Bound of a card's envelope. */
export const maxCardBytes = 64 * 1024

/** Bounds a site announces for what it receives; absent means the protocol's own bound. */
export interface CardLimits {
  /** Most bytes in one PUT of leaves. */
  readonly rangeBytes?: number | undefined
  /** Most bytes of a manifest's envelope. */
  readonly manifestBytes?: number | undefined
  /** Most objects in one manifest. */
  readonly objects?: number | undefined
}

/** A decoded card. Times are Unix ms; unknown fields stay in the stored bytes. */
export interface SiteCard {
  readonly siteId: string
  readonly name: string
  readonly created: number
  readonly protocolVersions: readonly number[]
  readonly capabilities: readonly string[]
  readonly limits: CardLimits
  /** Origins (`https://host:port`) of the federation listener, best first; empty for a site that only dials out. */
  readonly urls: readonly string[]
  /** PEM. */
  readonly caCertificate: string
  /** SHA-256 over the DER, 32 bytes. */
  readonly caFingerprint: Buffer
  readonly signingKey: SigningKey
  readonly sealingKey: Uint8Array
  readonly keysValidFrom: number
  /** Oldest first for each use. */
  readonly keyHistory: readonly FormerKey[]
}

/** A card with the bytes that were signed. */
export interface SignedCard {
  readonly card: SiteCard
  /** The envelope as received: what is stored. */
  readonly bytes: Uint8Array
  /** SHA-256 of the payload, lower-case hex. */
  readonly payloadSha256: string
}

/** What the site says about itself, beside its keys. */
export interface CardContent {
  readonly name: string
  readonly urls: readonly string[]
  readonly capabilities?: readonly string[]
  readonly limits?: CardLimits
  /** Unix time in ms. */
  readonly created: number
}

/**
 * Signs this site's card.
 *
 * @throws GatewayError PEER_CARD_INVALID when peers would refuse it, e.g. a URL that is not an https origin
 */
export function signCard(keys: SiteKeys, content: CardContent): SignedCard {
  const payload = encodePayload({
    version: 1,
    siteId: keys.siteId,
    name: content.name,
    created: iso(content.created),
    protocolVersions: [1],
    capabilities: content.capabilities ?? ['push'],
    limits: content.limits ?? {},
    urls: content.urls,
    caCertificate: new X509Certificate(keys.caCertificate).raw.toString('base64'),
    signingKey: encode(keys.signingKey),
    sealingKey: encode(keys.sealingKey),
    keysValidFrom: iso(keys.validFrom),
    keyHistory: keys.formerKeys.map(({ use, key, validFrom, validUntil }) => ({
      use,
      key: encode(key),
      validFrom: iso(validFrom),
      validUntil: iso(validUntil),
    })),
  })
  return openCard(signEnvelope(cardContext, payload, keys), content.created)
}

/**
 * Reads a card that is signed by the key it names.
 *
 * @param now  Unix time in ms, for the validity of the CA certificate
 * @throws GatewayError PEER_CARD_INVALID
 */
export function openCard(bytes: Uint8Array, now: number): SignedCard {
  const opened = openSelfSigned(bytes, {
    context: cardContext,
    maxBytes: maxCardBytes,
    malformed: 'PEER_CARD_INVALID',
    untrusted: 'PEER_CARD_INVALID',
    keyOf: value => decodeCard(value).signingKey,
  })
  return { card: readCard(opened.value, now), bytes, payloadSha256: opened.payloadSha256 }
}

const invalid = (reason: string): GatewayError => new GatewayError('PEER_CARD_INVALID', `site card: ${reason}`)

/**
 * What a site may be called: visible text that cannot rearrange the line it is shown in. Not a site id:
 * policies name peers by either, so one site could call itself by another's id and get its studies.
 */
export const siteName = text({
  min: 1,
  max: 100,
  // Not 32 hex digits; control characters, surrogates, line and paragraph separators, bidirectional overrides; no space at either end.
  pattern: /^(?! )(?![0-9a-f]{32}$)(?!.*[\p{Cc}\p{Cs}\p{Zl}\p{Zp}\u202a-\u202e\u2066-\u2069]).*(?<! )$/u,
  expected: 'a name of 1 to 100 visible characters',
})

/** @throws GatewayError BAD_REQUEST for a name that no peer may be given; absent is fine */
export function checkName(name: string | undefined): void {
  if (name === undefined || decode(siteName, name).ok) return
  throw new GatewayError('BAD_REQUEST', 'expected a name of 1 to 100 visible characters, not a site id')
}

/** An https origin such as `https://a.example:8443`, in the one spelling that URL parsers give it. */
export const originUrl: Decoder<string> = (raw, path, problems) => {
  if (typeof raw === 'string' && raw.length <= 300 && raw.startsWith('https://') && URL.parse(raw)?.origin === raw) {
    return raw
  }
  problems.add(path, 'expected an origin such as https://gateway.example:8443, without path or credentials')
  return undefined
}

const key = base64({ bytes: 32 })
const word = text({ min: 1, max: 60, pattern: /^[a-z0-9][a-z0-9.-]*$/, expected: 'a word' })
const limit = optional(integer({ min: 1 }))

const cardShape = object(
  {
    version: integer({ min: 1, max: 1 }),
    siteId: text({ pattern: /^[0-9a-f]{32}$/, expected: '32 hex digits' }),
    name: siteName,
    created: utcTime,
    protocolVersions: list(integer({ min: 1, max: 1000 }), { min: 1, max: 16 }),
    capabilities: list(word, { max: 64 }),
    limits: object({ rangeBytes: limit, manifestBytes: limit, objects: limit }, { unknown: 'keep' }),
    urls: list(originUrl, { max: 8 }),
    caCertificate: base64({ max: 8192 }),
    signingKey: key,
    sealingKey: key,
    keysValidFrom: utcTime,
    keyHistory: list(object({ use: oneOf('sign', 'seal'), key, validFrom: utcTime, validUntil: utcTime }), { max: 64 }),
  },
  { unknown: 'keep' },
)

function decodeCard(value: unknown) {
  const result = decode(cardShape, value)
  if (!result.ok) throw invalid(describeExpected(result.problems))
  return result.value
}

function readCard(value: unknown, now: number): SiteCard {
  const { version: _version, caCertificate, ...card } = decodeCard(value)
  const firstSigningKey = card.keyHistory.find(({ use }) => use === 'sign')?.key ?? card.signingKey
  if (keyId(firstSigningKey) !== card.siteId) throw invalid('the site id is not that of its first signing key')
  if (card.keyHistory.some(({ validFrom, validUntil }) => validFrom > validUntil)) {
    throw invalid('a former key ends before it begins')
  }
  seal(new Uint8Array(), card.sealingKey) // refuses a key that everybody can open
  const certificate = readCaCertificate(caCertificate, now)
  return { ...card, caCertificate: certificate.toString(), caFingerprint: fingerprint(certificate) }
}

const iso = (at: number): string => new Date(at).toISOString()
const encode = (bytes: Uint8Array): string => Buffer.from(bytes).toString('base64')
