/**
 * Asking back what was sent: the sender's signed request, and the receiver's signed answer (`PROTOCOL.md` §Recall). The
 * receiver decides; the answer `pending` says that a person there has not yet.
 */
import { type Decoder, integer, object, oneOf } from '../gateway/decode.ts'
import { GatewayError } from '../gateway/errors.ts'
import { encodePayload, type SignatureContext, type Signer, sha256Hex, signEnvelope } from './envelope.ts'
import { sha256 } from './fields.ts'
import {
  type ManifestExpectation,
  type ManifestMessage,
  manifestMessageFields,
  openManifestMessage,
} from './manifest-message.ts'

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

export interface Recall extends ManifestMessage {
  readonly reason: RecallReason
}

export interface RecallAnswer extends ManifestMessage {
  /** SHA-256 of the envelope that is answered, hex. */
  readonly recall: string
  readonly outcome: RecallOutcome
  /** Instances that are gone. */
  readonly instances: number
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
export function openRecall(envelope: Uint8Array, expected: ManifestExpectation): Recall {
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
  expected: ManifestExpectation & { readonly recall: Uint8Array },
): RecallAnswer {
  const answer = open(envelope, expected, answerType, answerShape)
  if (answer.recall !== sha256Hex(expected.recall))
    throw new GatewayError('MANIFEST_SENDER', 'expected an answer to the recall that was sent')
  return answer
}

const open = <T extends ManifestMessage>(
  envelope: Uint8Array,
  expected: ManifestExpectation,
  context: SignatureContext,
  shape: Decoder<T>,
): T =>
  openManifestMessage(envelope, expected, {
    context,
    maxBytes: maxRecallBytes,
    shape,
    expected: 'a message about this manifest between its two sites',
  })

const requestShape = object({ ...manifestMessageFields, reason: oneOf(...recallReasons) }, { unknown: 'keep' })
const answerShape = object(
  {
    ...manifestMessageFields,
    recall: sha256,
    outcome: oneOf(...recallOutcomes),
    instances: integer({ min: 0, max: 1_000_000 }),
  },
  { unknown: 'keep' },
)
