/** Signed messages between the two sites of a transfer about its manifest: what each of them must say, and its check. */
import { type Decoder, decode, describeExpected } from '../gateway/decode.ts'
import { GatewayError } from '../gateway/errors.ts'
import { openEnvelope, type SignatureContext, type SigningKey } from './envelope.ts'
import { instant, sha256, siteId } from './fields.ts'

export interface ManifestMessage {
  /** Id of the manifest. */
  readonly manifest: string
  /** Site ids: who signs, and whom it is for. */
  readonly from: string
  readonly to: string
  readonly time: Date
}

/** What a message must say to be about our transfer. */
export interface ManifestExpectation {
  readonly manifest: string
  readonly from: string
  readonly to: string
  readonly keys: readonly SigningKey[]
}

/** The fields that all of them have. */
export const manifestMessageFields = { manifest: sha256, from: siteId, to: siteId, time: instant }

/**
 * Verifies a message.
 *
 * @param kind.expected  what it should have been, for the error when it is about something else
 * @throws GatewayError MANIFEST_MALFORMED, MANIFEST_SIGNATURE, MANIFEST_SENDER when it is about something else
 */
export function openManifestMessage<T extends ManifestMessage>(
  envelope: Uint8Array,
  parties: ManifestExpectation,
  kind: {
    readonly context: SignatureContext
    readonly maxBytes: number
    readonly shape: Decoder<T>
    readonly expected: string
  },
): T {
  const { value } = openEnvelope(envelope, {
    context: kind.context,
    maxBytes: kind.maxBytes,
    keys: parties.keys,
    malformed: 'MANIFEST_MALFORMED',
    untrusted: 'MANIFEST_SIGNATURE',
  })
  const decoded = decode(kind.shape, value)
  if (!decoded.ok) throw new GatewayError('MANIFEST_MALFORMED', describeExpected(decoded.problems))
  const { manifest, from, to } = decoded.value
  if (manifest !== parties.manifest || from !== parties.from || to !== parties.to)
    throw new GatewayError('MANIFEST_SENDER', `expected ${kind.expected}`)
  return decoded.value
}
