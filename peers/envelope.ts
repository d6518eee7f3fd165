/**
 * Signed messages: DSSE envelopes with Ed25519 over the exact payload bytes.
 *
 * The payload is never re-serialised: what was signed is stored and hashed as it is. `payloadType` is
 * the signature's context, so that a signature made for one kind of message is worthless for another.
 * @see DSSE protocol v1 and envelope v1.0.2, https://github.com/secure-systems-lab/dsse
 */
import { createHash } from 'node:crypto'
import { decode, describeExpected, list, object, optional, text } from '../gateway/decode.ts'
import { type ErrorCode, GatewayError } from '../gateway/errors.ts'
import { base64, parseJson } from './json.ts'
import { signBytes, verifyBytes } from './sodium.ts'

/** What a signature is for; also the envelope's `payloadType`. */
export type SignatureContext = `application/vnd.hanse.${string}.v${number}+json`

/** An Ed25519 public key, 32 bytes. */
export type SigningKey = Uint8Array

/** Signs messages as this site; made by `openSiteKeys`. */
export interface Signer {
  readonly signingKey: SigningKey
  /** Ed25519 over PAE(context, bytes), 64 bytes. */
  sign(context: SignatureContext, bytes: Uint8Array): Uint8Array
}

/** A message whose signature verified. */
export interface OpenedEnvelope {
  /** The exact signed bytes. */
  readonly payload: Uint8Array
  /** The payload, parsed strictly; still to be decoded. */
  readonly value: unknown
  /** SHA-256 of `payload`, lower-case hex: the message's id. */
  readonly payloadSha256: string
  /** Which of the trusted keys signed it; more than one while a key is being replaced. */
  readonly signedBy: readonly SigningKey[]
}

/** How an envelope is read. Sizes are of the whole envelope. */
export interface EnvelopeRules {
  readonly context: SignatureContext
  readonly maxBytes: number
  /** Nesting bound of the payload; see `parseJson`. */
  readonly maxDepth?: number
  /** Thrown when it is not an envelope of this context, or its payload is not strict JSON. */
  readonly malformed: ErrorCode
  /** Thrown when no trusted key's signature verifies. */
  readonly untrusted: ErrorCode
}

/** DSSE's pre-authentication encoding: `DSSEv1 LEN(type) type LEN(body) body`, lengths in bytes. */
export function preAuthEncoding(context: string, body: Uint8Array): Uint8Array {
  const type = Buffer.from(context, 'utf8')
  return Buffer.concat([Buffer.from(`DSSEv1 ${type.length} `), type, Buffer.from(` ${body.length} `), body])
}

/** Ed25519 over PAE(context, bytes): a signature for one context never verifies in another. */
export function signWith(privateKey: Uint8Array, context: SignatureContext, bytes: Uint8Array): Uint8Array {
  return signBytes(preAuthEncoding(context, bytes), privateKey)
}

/** True when `signature` is `key`'s over these bytes in this context. Never throws. */
export function verify(context: SignatureContext, key: SigningKey, bytes: Uint8Array, signature: Uint8Array): boolean {
  return verifyBytes(signature, preAuthEncoding(context, bytes), key)
}

/** A hint which key signed: the first 16 bytes of SHA-256 of the public key, lower-case hex. */
export function keyId(key: SigningKey): string {
  return createHash('sha256').update(key).digest('hex').slice(0, 32)
}

/** The envelope, as the bytes to store and send. Ed25519 is deterministic: the same input gives the same bytes. */
export function signEnvelope(
  context: SignatureContext,
  payload: Uint8Array,
  ...signers: readonly [Signer, ...Signer[]]
): Uint8Array {
  const envelope = {
    payloadType: context,
    payload: Buffer.from(payload).toString('base64'),
    signatures: signers.map(signer => ({
      keyid: keyId(signer.signingKey),
      sig: Buffer.from(signer.sign(context, payload)).toString('base64'),
    })),
  }
  return Buffer.from(JSON.stringify(envelope))
}

/** A payload for `signEnvelope`: JSON without whitespace, in the order of the object's keys. */
export function encodePayload(value: object): Uint8Array {
  return Buffer.from(JSON.stringify(value))
}

/**
 * Verifies an envelope against the keys trusted for it.
 *
 * @throws GatewayError `rules.malformed` or `rules.untrusted`
 */
export function openEnvelope(
  bytes: Uint8Array,
  rules: EnvelopeRules & { readonly keys: readonly SigningKey[] },
): OpenedEnvelope {
  const { payload, signatures } = readEnvelope(bytes, rules)
  const signedBy = rules.keys.filter(key =>
    signatures.some(signature => verify(rules.context, key, payload, signature)),
  )
  if (signedBy.length === 0) {
    throw new GatewayError(rules.untrusted, 'no signature by a trusted key verifies')
  }
  // Only after the signature: an unsigned payload never reaches the parser.
  return { payload, value: parsePayload(payload, rules), payloadSha256: sha256Hex(payload), signedBy }
}

/**
 * Opens a message that names its own signing key (a site card; a pairing message). `keyOf` reads the
 * key out of the unverified value; the result proves only that the holder of that key wrote it.
 *
 * @throws GatewayError `rules.malformed` or `rules.untrusted`, or what `keyOf` throws
 */
export function openSelfSigned(
  bytes: Uint8Array,
  rules: EnvelopeRules & { readonly keyOf: (value: unknown) => SigningKey },
): OpenedEnvelope {
  const { payload } = readEnvelope(bytes, rules)
  return openEnvelope(bytes, { ...rules, keys: [rules.keyOf(parsePayload(payload, rules))] })
}

const envelopeShape = object(
  {
    payloadType: text({ max: 200 }),
    payload: base64(),
    signatures: list(object({ keyid: optional(text({ max: 200 })), sig: base64({ bytes: 64 }) }, { unknown: 'keep' }), {
      min: 1,
      max: 8,
    }),
  },
  { unknown: 'keep' },
)

/** The parts of an envelope of the expected context; nothing is verified. */
function readEnvelope(
  bytes: Uint8Array,
  rules: EnvelopeRules,
): { payload: Uint8Array; signatures: readonly Uint8Array[] } {
  const raw = parseJson(bytes, { maxBytes: rules.maxBytes, maxDepth: 8, code: rules.malformed })
  const result = decode(envelopeShape, raw)
  if (!result.ok) throw new GatewayError(rules.malformed, `not a signed envelope: ${describeExpected(result.problems)}`)
  if (result.value.payloadType !== rules.context) {
    throw new GatewayError(rules.malformed, `expected a payload of type ${rules.context}`)
  }
  return { payload: result.value.payload, signatures: result.value.signatures.map(({ sig }) => sig) }
}

function parsePayload(payload: Uint8Array, rules: EnvelopeRules): unknown {
  return parseJson(payload, {
    maxBytes: rules.maxBytes,
    ...(rules.maxDepth === undefined ? {} : { maxDepth: rules.maxDepth }),
    code: rules.malformed,
  })
}

/** SHA-256 as lower-case hex. */
export function sha256Hex(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex')
}
