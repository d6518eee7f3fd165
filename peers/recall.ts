/**
 * Asking back what was sent: the sender's signed request, and the receiver's signed answer (`PROTOCOL.md` §Recall). The
 * receiver decides; the answer `pending` says that a person there has not yet.
 */
import { type Decoder, decode, describeExpected, integer, object, oneOf } from '../gateway/decode.ts'
import { GatewayError } from '../gateway/errors.ts'
import {
  encodePayload,
  openEnvelope,
  type SignatureContext,
  type Signer,
  type SigningKey,
  sha256Hex,
  signEnvelope,
} from './envelope.ts'
import { instant, sha256, siteId } from './fields.ts'

const requestType = 'application/vnd.hanse.recall.v1+json'
const answerType = 'application/vnd.hanse.recall-answer.v1+json'
/** Most bytes of a signed recall, or of the answer to it. */
export const maxRecallBytes = 16 * 1024

export const recallReasons = ['consent', 'person'] as const
/** Why something is asked back: a consent was withdrawn, or a person wants it. */
export type RecallReason = (typeof recallReasons)[number]

export const recallOutcomes = ['pending', 'recalled', 'refused'] as const
/** What has become of it. */
export type RecallOutcome = (typeof recallOutcomes)[number]

interface Parties {
  /** Id of the manifest by which it was sent. */
  readonly manifest: string
  /** Site ids: who signs, and whom it is for. */
  readonly from: string
  readonly to: string
  readonly time: Date
}

export interface Recall extends Parties {
  readonly reason: RecallReason
}

export interface RecallAnswer extends Parties {
  /** SHA-256 of the envelope that is answered, hex. */
  readonly recall: string
  readonly outcome: RecallOutcome
  /** Instances that are gone. */
  readonly instances: number
}

/** What a message must say to be about our transfer. */
export interface RecallExpectation {
  readonly manifest: string
  readonly from: string
  readonly to: string
  readonly keys: readonly SigningKey[]
}

/** Signs a recall. The same recall gives the same bytes. */
export function signRecall(recall: Recall, signer: Signer): Uint8Array {
  const { manifest, from, to, time, reason } = recall
  return signEnvelope(
    requestType,
    encodePayload({ version: 1, manifest, from, to, time: time.toISOString(), reason }),
    signer,
  )
}

/** @throws GatewayError MANIFEST_MALFORMED, MANIFEST_SIGNATURE, MANIFEST_SENDER when it is about something else */
export function openRecall(envelope: Uint8Array, expected: RecallExpectation): Recall {
  return open(envelope, expected, requestType, requestShape)
}

/** Signs the answer to a recall. */
export function signRecallAnswer(answer: RecallAnswer, signer: Signer): Uint8Array {
  const { manifest, from, to, time, recall, outcome, instances } = answer
  const payload = { version: 1, manifest, from, to, time: time.toISOString(), recall, outcome, instances }
  return signEnvelope(answerType, encodePayload(payload), signer)
}

/** @throws GatewayError MANIFEST_MALFORMED, MANIFEST_SIGNATURE, MANIFEST_SENDER when it answers something else */
export function openRecallAnswer(
  envelope: Uint8Array,
  expected: RecallExpectation & { readonly recall: Uint8Array },
): RecallAnswer {
  const answer = open(envelope, expected, answerType, answerShape)
  if (answer.recall !== sha256Hex(expected.recall))
    throw new GatewayError('MANIFEST_SENDER', 'expected an answer to the recall that was sent')
  return answer
}

function open<T extends Parties>(
  envelope: Uint8Array,
  expected: RecallExpectation,
  context: SignatureContext,
  shape: Decoder<T>,
): T {
  const { value } = openEnvelope(envelope, {
    context,
    maxBytes: maxRecallBytes,
    keys: expected.keys,
    malformed: 'MANIFEST_MALFORMED',
    untrusted: 'MANIFEST_SIGNATURE',
  })
  const decoded = decode(shape, value)
  if (!decoded.ok) throw new GatewayError('MANIFEST_MALFORMED', describeExpected(decoded.problems))
  const { manifest, from, to } = decoded.value
  if (manifest !== expected.manifest || from !== expected.from || to !== expected.to)
    throw new GatewayError('MANIFEST_SENDER', 'expected a message about this manifest between its two sites')
  return decoded.value
}

const parties = { manifest: sha256, from: siteId, to: siteId, time: instant }
const requestShape = object({ ...parties, reason: oneOf(...recallReasons) }, { unknown: 'keep' })
const answerShape = object(
  { ...parties, recall: sha256, outcome: oneOf(...recallOutcomes), instances: integer({ min: 0, max: 1_000_000 }) },
  { unknown: 'keep' },
)
