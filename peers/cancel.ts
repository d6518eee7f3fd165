/** The sender's signed word that a transfer is not to go on: withdrawn policy, a person, a superseded study. */
import { object, oneOf } from '../gateway/decode.ts'
import { encodePayload, type Signer, signEnvelope } from './envelope.ts'
import {
  type ManifestExpectation,
  type ManifestMessage,
  manifestMessageFields,
  openManifestMessage,
} from './manifest-message.ts'

export const cancelType = 'application/vnd.hanse.cancel.v1+json'
/** Most bytes of a signed cancellation. */
export const maxCancelBytes = 16 * 1024

export const cancelReasons = ['person', 'policy', 'superseded'] as const

export interface Cancellation extends ManifestMessage {
  readonly reason: (typeof cancelReasons)[number]
}

/** Signs a cancellation. */
export function signCancellation(cancellation: Cancellation, signer: Signer): Uint8Array {
  const { manifest, from, to, time, reason } = cancellation
  return signEnvelope(
    cancelType,
    encodePayload({ version: 1, manifest, from, to, time: time.toISOString(), reason }),
    signer,
  )
}

/**
 * Verifies a cancellation by the site that sent the manifest.
 *
 * @throws GatewayError MANIFEST_MALFORMED, MANIFEST_SIGNATURE, MANIFEST_SENDER when it is about something else
 */
export function openCancellation(envelope: Uint8Array, parties: ManifestExpectation): Cancellation {
  return openManifestMessage(envelope, parties, {
    context: cancelType,
    maxBytes: maxCancelBytes,
    shape,
    expected: 'a cancellation of this manifest by its sender',
  })
}

const shape = object({ ...manifestMessageFields, reason: oneOf(...cancelReasons) }, { unknown: 'keep' })
