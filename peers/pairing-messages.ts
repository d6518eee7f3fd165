/**
 * What passes between two sites that pair: the invitation file, the messages of `POST /x/1/pair`, and
 * the files for a site that cannot reach the other. All of it is untrusted until an administrator has
 * compared the short authentication string.
 */
import type { Credential } from '../certs/ca.ts'
import { type Decoder, decode, describeExpected, integer, object, oneOf, optional, text } from '../gateway/decode.ts'
import { GatewayError } from '../gateway/errors.ts'
import { maxCardBytes, openCard, originUrl, type SignedCard } from './card.ts'
import {
  encodePayload,
  openEnvelope,
  openSelfSigned,
  type SignatureContext,
  type Signer,
  type SigningKey,
  signEnvelope,
} from './envelope.ts'
import { base64, parseJson, utcTime } from './json.ts'

/** Bound of each message and file of pairing. */
export const maxPairingBytes = 256 * 1024

/** What one site hands the other, out of band; a secret, as it holds a private key. */
export interface Invitation {
  readonly id: string
  readonly card: SignedCard
  /** For an answer by file; an online exchange has its own. */
  readonly nonce: Uint8Array
  /** Unix time in ms. */
  readonly expires: number
  /** Where and with what to redeem it online; absent where the inviting site cannot be reached. */
  readonly online: { readonly url: string; readonly credential: Credential } | undefined
}

const uuid = text({ pattern: /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/, expected: 'a lower-case UUID' })
const sha256 = text({ pattern: /^[0-9a-f]{64}$/, expected: 'a SHA-256 digest in hex' })
const nonce = base64({ bytes: 32 })
const envelope = base64({ max: maxCardBytes })
/** Never shows the value: it may be a key. */
const pem: Decoder<string> = (raw, path, problems) => {
  if (typeof raw === 'string' && raw.length < 20_000 && raw.startsWith('-----BEGIN ')) return raw
  problems.add(path, 'expected PEM')
  return undefined
}

const invitationShape = object(
  {
    hanse: oneOf('invitation'),
    version: integer({ min: 1, max: 1 }),
    id: uuid,
    card: envelope,
    nonce,
    expires: utcTime,
    online: optional(
      object(
        { url: originUrl, credential: object({ certificate: pem, key: pem }, { unknown: 'keep' }) },
        { unknown: 'keep' },
      ),
    ),
  },
  { unknown: 'keep' },
)

/** The invitation as a file: JSON, for a person to hand over. */
export function encodeInvitation({ id, card, nonce, expires, online }: Invitation): Uint8Array {
  const document = {
    hanse: 'invitation',
    version: 1,
    site: card.card.name,
    id,
    expires: iso(expires),
    online,
    card: encode(card.bytes),
    nonce: encode(nonce),
  }
  return Buffer.from(`${JSON.stringify(document, null, 2)}\n`)
}

/** @throws GatewayError PAIRING_INVALID, PEER_CARD_INVALID */
export function decodeInvitation(bytes: Uint8Array, now: number): Invitation {
  const { id, card, nonce, expires, online } = read(invitationShape, bytes, 'invitation')
  return { id, card: openCard(card, now), nonce, expires, online }
}

/** What a site asks of `/x/1/pair`. */
export type PairRequest =
  | { readonly step: 'commit'; readonly invitation: string; readonly commitment: Uint8Array; readonly time: number }
  | { readonly step: 'reveal'; readonly message: Uint8Array; readonly time: number }
  | { readonly step: 'status'; readonly time: number }

const requestShapes = {
  commit: object(
    { step: oneOf('commit'), invitation: uuid, commitment: base64({ bytes: 32 }), time: utcTime },
    { unknown: 'keep' },
  ),
  reveal: object(
    { step: oneOf('reveal'), message: base64({ max: maxPairingBytes }), time: utcTime },
    { unknown: 'keep' },
  ),
  status: object({ step: oneOf('status'), time: utcTime }, { unknown: 'keep' }),
}
const request: Decoder<PairRequest> = (raw, path, problems) => {
  const step = object({ step: oneOf('commit', 'reveal', 'status') }, { unknown: 'keep' })(raw, path, problems)?.step
  return step && requestShapes[step](raw, path, problems)
}

export function encodeRequest(message: PairRequest): Uint8Array {
  const time = iso(message.time)
  if (message.step === 'commit') return encodePayload({ ...message, commitment: encode(message.commitment), time })
  if (message.step === 'reveal') return encodePayload({ ...message, message: encode(message.message), time })
  return encodePayload({ ...message, time })
}

/** @throws GatewayError PAIRING_INVALID */
export function decodeRequest(bytes: Uint8Array): PairRequest {
  return read(request, bytes, 'pairing request')
}

/** Where a pairing stands, as the other site sees it. */
export interface PairStatus {
  readonly state: 'pending' | 'active'
  /** SHA-256 of the payload of the card it holds of the asking site, hex. */
  readonly cardSha256: string
}

/** What `/x/1/pair` answers: the offer to a commitment, else the status. */
export type PairAnswer =
  | { readonly step: 'offer'; readonly message: Uint8Array }
  | ({ readonly step: 'status' } & PairStatus)

const answerShapes = {
  offer: object({ step: oneOf('offer'), message: base64({ max: maxPairingBytes }) }, { unknown: 'keep' }),
  status: object({ step: oneOf('status'), state: oneOf('pending', 'active'), cardSha256: sha256 }, { unknown: 'keep' }),
}
const answer: Decoder<PairAnswer> = (raw, path, problems) => {
  const step = object({ step: oneOf('offer', 'status') }, { unknown: 'keep' })(raw, path, problems)?.step
  return step && answerShapes[step](raw, path, problems)
}

export function encodeAnswer(message: PairAnswer): Uint8Array {
  return encodePayload(message.step === 'offer' ? { ...message, message: encode(message.message) } : message)
}

/** @throws GatewayError PAIRING_INVALID */
export function decodeAnswer(bytes: Uint8Array): PairAnswer {
  return read(answer, bytes, 'pairing answer')
}

/** A signed step: its sender's card and nonce, and what it refers to. */
export interface SignedStep {
  readonly invitation: string
  /** Commitment (offer), SHA-256 of the offer's payload (reveal) or of the invitation's card (answer): hex. */
  readonly refersTo: string
  readonly card: SignedCard
  readonly nonce: Uint8Array
  readonly created: number
}

/** `offer` answers a commitment, `reveal` an offer; `answer` is the file that answers an invitation. */
export type StepKind = 'offer' | 'reveal' | 'answer'

export const stepContexts: Readonly<Record<StepKind, SignatureContext>> = {
  offer: 'application/vnd.hanse.pairing-offer.v1+json',
  reveal: 'application/vnd.hanse.pairing-reveal.v1+json',
  answer: 'application/vnd.hanse.pairing-answer.v1+json',
}

/** Signs a step with the key that its card names. */
export function signStep(kind: StepKind, step: SignedStep, signer: Signer): Uint8Array {
  const payload = encodePayload({
    invitation: step.invitation,
    refersTo: step.refersTo,
    card: encode(step.card.bytes),
    nonce: encode(step.nonce),
    created: iso(step.created),
  })
  return signEnvelope(stepContexts[kind], payload, signer)
}

const stepShape = object(
  { invitation: uuid, refersTo: sha256, card: envelope, nonce, created: utcTime },
  { unknown: 'keep' },
)

/**
 * Opens a step, verified with the key that the card in it names.
 *
 * @throws GatewayError PAIRING_INVALID, PEER_CARD_INVALID
 */
export function openStep(kind: StepKind, bytes: Uint8Array, now: number): SignedStep & { payloadSha256: string } {
  const readStep = (value: unknown) => {
    const result = decode(stepShape, value)
    if (!result.ok) throw new GatewayError('PAIRING_INVALID', `pairing ${kind}: ${describeExpected(result.problems)}`)
    return { ...result.value, card: openCard(result.value.card, now) }
  }
  const opened = openSelfSigned(bytes, {
    context: stepContexts[kind],
    maxBytes: maxPairingBytes,
    malformed: 'PAIRING_INVALID',
    untrusted: 'PAIRING_INVALID',
    keyOf: value => readStep(value).card.card.signingKey,
  })
  return { ...readStep(opened.value), payloadSha256: opened.payloadSha256 }
}

/** Tells the site that answered by file that its answer arrived; informs, and confirms nothing. */
export interface Acknowledgement {
  readonly invitation: string
  /** SHA-256 of the answer's payload, hex. */
  readonly answer: string
  readonly state: PairStatus['state']
  readonly created: number
}

const acknowledgementContext: SignatureContext = 'application/vnd.hanse.pairing-acknowledgement.v1+json'
const acknowledgementShape = object(
  { invitation: uuid, answer: sha256, state: oneOf('pending', 'active'), created: utcTime },
  { unknown: 'keep' },
)

export function signAcknowledgement(message: Acknowledgement, signer: Signer): Uint8Array {
  const payload = encodePayload({ ...message, created: iso(message.created) })
  return signEnvelope(acknowledgementContext, payload, signer)
}

/** @throws GatewayError PAIRING_INVALID unless `key` signed it */
export function openAcknowledgement(bytes: Uint8Array, key: SigningKey): Acknowledgement {
  const { value } = openEnvelope(bytes, {
    context: acknowledgementContext,
    maxBytes: maxPairingBytes,
    malformed: 'PAIRING_INVALID',
    untrusted: 'PAIRING_INVALID',
    keys: [key],
  })
  const result = decode(acknowledgementShape, value)
  if (!result.ok)
    throw new GatewayError('PAIRING_INVALID', `not an acknowledgement: ${describeExpected(result.problems)}`)
  return result.value
}

function read<T>(decoder: Decoder<T>, bytes: Uint8Array, what: string): T {
  const result = decode(decoder, parseJson(bytes, { maxBytes: maxPairingBytes, code: 'PAIRING_INVALID' }))
  if (!result.ok) throw new GatewayError('PAIRING_INVALID', `not a valid ${what}: ${describeExpected(result.problems)}`)
  return result.value
}

const iso = (at: number): string => new Date(at).toISOString()
const encode = (bytes: Uint8Array): string => Buffer.from(bytes).toString('base64')
