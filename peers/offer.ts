/**
 * An offer is a manifest signed for its way, and what a receiver checks before it looks at a byte of
 * an object, in this order: limits, signature, sender, recipient, time.
 */
import { decode, list, object, text } from '../gateway/decode.ts'
import { GatewayError, isGatewayError } from '../gateway/errors.ts'
import { toleratedDriftMs } from './clock.ts'
import { keyId, openEnvelope, type Signer, type SigningKey, signEnvelope } from './envelope.ts'
import { parseJson } from './json.ts'
import {
  encodeManifest,
  joinOffer,
  type Manifest,
  manifestId,
  manifestType,
  maxOfferBytes,
  splitOffer,
} from './manifest.ts'
import { decodeManifest } from './manifest-decoder.ts'

/** A signed manifest with its pages, as stored and sent. */
export interface Offer {
  /** SHA-256 of the envelope, lower-case hex. */
  readonly id: string
  readonly bytes: Uint8Array
}

/** An offer whose signature verified. */
export interface OpenedOffer extends Offer {
  readonly manifest: Manifest
}

/** Signs a manifest. Ed25519 is deterministic: the same manifest and key give the same bytes. */
export function signOffer(manifest: Manifest, signer: Signer): Offer {
  const { payload, pages } = encodeManifest(manifest)
  const envelope = signEnvelope(manifestType, payload, signer)
  const bytes = joinOffer(envelope, pages)
  if (bytes.length > maxOfferBytes) {
    throw new GatewayError('MANIFEST_LIMIT', `expected an offer of at most ${maxOfferBytes} bytes, got ${bytes.length}`)
  }
  return { id: manifestId(envelope), bytes }
}

/**
 * Verifies and decodes an offer by a peer.
 *
 * @throws GatewayError MANIFEST_LIMIT, MANIFEST_MALFORMED, MANIFEST_SIGNATURE, MANIFEST_VERSION, or
 *   MANIFEST_SENDER when another site signed it or it names another sender
 */
export function openOffer(
  bytes: Uint8Array,
  peer: { siteId: string; signingKeys: readonly SigningKey[] },
): OpenedOffer {
  const { envelope, pages } = splitOffer(bytes)
  const { value } = openManifestEnvelope(envelope, peer.signingKeys)
  const manifest = decodeManifest(value, pages)
  if (manifest.from !== peer.siteId) {
    throw new GatewayError('MANIFEST_SENDER', 'expected the sender to be the site that offers it')
  }
  return { id: manifestId(envelope), bytes, manifest }
}

/**
 * Decodes an offer that this site has verified before and stored.
 *
 * @throws GatewayError MANIFEST_MALFORMED when the stored bytes are damaged
 */
export function readStoredOffer(bytes: Uint8Array): Manifest {
  const { envelope, pages } = splitOffer(bytes)
  const limits = { maxBytes: maxOfferBytes, maxDepth: 8, code: 'MANIFEST_MALFORMED' } as const
  const decoded = decode(
    object({ payload: text({ max: maxOfferBytes }) }, { unknown: 'keep' }),
    parseJson(envelope, limits),
  )
  if (!decoded.ok) throw new GatewayError('MANIFEST_MALFORMED', 'expected the stored offer to be an envelope')
  return decodeManifest(parseJson(Buffer.from(decoded.value.payload, 'base64'), limits), pages)
}

/**
 * Whom an offer is for, and when.
 *
 * @throws GatewayError MANIFEST_RECIPIENT, MANIFEST_EXPIRED, PEER_CLOCK_DRIFT (the sender's clock is ahead)
 */
export function checkOffer(manifest: Manifest, at: { siteId: string; now: Date }): void {
  if (manifest.to !== at.siteId) throw new GatewayError('MANIFEST_RECIPIENT', 'expected the recipient to be this site')
  const aheadMs = manifest.created.getTime() - at.now.getTime()
  if (aheadMs > toleratedDriftMs) {
    throw new GatewayError(
      'PEER_CLOCK_DRIFT',
      `the sender's clock is ${Math.round(aheadMs / 1000)} s ahead of the receiver's`,
      { context: { driftMs: aheadMs } },
    )
  }
  if (at.now.getTime() - manifest.expires.getTime() > toleratedDriftMs) {
    throw new GatewayError('MANIFEST_EXPIRED', `expired at ${manifest.expires.toISOString()}`)
  }
}

const rules = {
  context: manifestType,
  maxBytes: maxOfferBytes,
  maxDepth: 8,
  malformed: 'MANIFEST_MALFORMED',
  untrusted: 'MANIFEST_SIGNATURE',
} as const

/**
 * The envelope's bytes are the manifest's name, so there must be one spelling of them: exactly one
 * signature, with the id of the key that made it. (An envelope's `keyid` is not signed.)
 */
function openManifestEnvelope(envelope: Uint8Array, keys: readonly SigningKey[]) {
  try {
    const opened = openEnvelope(envelope, { ...rules, keys })
    const named = keyIds(envelope)
    if (named.length !== 1 || !opened.signedBy.some(key => keyId(key) === named[0])) {
      throw new GatewayError('MANIFEST_MALFORMED', 'expected one signature, with the id of the key that made it')
    }
    return opened
  } catch (error) {
    if (isGatewayError(error, 'MANIFEST_SIGNATURE') && !keyIds(envelope).some(id => keys.some(k => keyId(k) === id))) {
      throw new GatewayError('MANIFEST_SENDER', 'expected a signature by the site that offers it', { cause: error })
    }
    throw error
  }
}

const signatures = object(
  { signatures: list(object({ keyid: text({ max: 200 }) }, { unknown: 'keep' }), { max: 8 }) },
  { unknown: 'keep' },
)

function keyIds(envelope: Uint8Array): string[] {
  const raw = parseJson(envelope, { maxBytes: maxOfferBytes, maxDepth: 8, code: 'MANIFEST_MALFORMED' })
  const decoded = decode(signatures, raw)
  return decoded.ok ? decoded.value.signatures.map(signature => signature.keyid) : []
}
