/** The sender's signed word that a transfer is not to go on: withdrawn policy, a person, a superseded study. */
import { decode, describeExpected, object, oneOf } from '../gateway/decode.ts'
import { GatewayError } from '../gateway/errors.ts'
import { encodePayload, openEnvelope, type Signer, type SigningKey, signEnvelope } from './envelope.ts'
import { instant, sha256, siteId } from './fields.ts'

export const cancelType = 'application/vnd.hanse.cancel.v1+json'
/** Most bytes of a signed cancellation. */
export const maxCancelBytes = 16 * 1024

export const cancelReasons = ['person', 'policy', 'superseded'] as const

export interface Cancellation {
  /** Id of the manifest. */
  readonly manifest: string
  readonly from: string
  readonly to: string
  readonly time: Date
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
export function openCancellation(
  envelope: Uint8Array,
  expected: { manifest: string; from: string; to: string; keys: readonly SigningKey[] },
): Cancellation {
  const { value } = openEnvelope(envelope, {
    context: cancelType,
    maxBytes: maxCancelBytes,
    keys: expected.keys,
    malformed: 'MANIFEST_MALFORMED',
    untrusted: 'MANIFEST_SIGNATURE',
  })
  const decoded = decode(shape, value)
  if (!decoded.ok) throw new GatewayError('MANIFEST_MALFORMED', describeExpected(decoded.problems))
  const { manifest, from, to } = decoded.value
  if (manifest !== expected.manifest || from !== expected.from || to !== expected.to) {
    throw new GatewayError('MANIFEST_SENDER', 'expected a cancellation of this manifest by its sender')
  }
  return decoded.value
}

const shape = object(
  { manifest: sha256, from: siteId, to: siteId, time: instant, reason: oneOf(...cancelReasons) },
  { unknown: 'keep' },
)
