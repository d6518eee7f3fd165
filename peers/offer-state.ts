/**
 * What a receiver says about an offer, in answer to every verb on it. This is resume: the sender needs
 * nothing else to go on, from whatever moment either side was killed.
 */
import { boolean, decode, describeExpected, integer, list, object, oneOf, text } from '../gateway/decode.ts'
import { GatewayError } from '../gateway/errors.ts'
import { Bitmap } from './bitmap.ts'
import { instant, sha256 } from './fields.ts'
import { parseJson } from './json.ts'

export const offerStates = ['receiving', 'committing', 'imported', 'held', 'refused', 'cancelled', 'expired'] as const
export type OfferStateName = (typeof offerStates)[number]

/** States that no verb of the sender leaves again. */
export const finalOfferStates: readonly OfferStateName[] = ['imported', 'refused', 'cancelled', 'expired']

export interface OfferState {
  /** Manifest id. */
  readonly id: string
  readonly state: OfferStateName
  /** Leaves that the receiver still wants. */
  readonly want: Bitmap
  /** Bytes that may be on their way at once. */
  readonly creditBytes: number
  /** The receiver forgets the offer after this. */
  readonly expires: Date
  /** Envelopes of the receipts so far, oldest first. */
  readonly receipts: readonly Uint8Array[]
  /** True while a person at the receiver must act. */
  readonly needsPerson: boolean
}

/** Most bytes of an encoded state. */
export const maxOfferStateBytes = 16 * 1024 * 1024

/** The JSON answer. Receipts are text, because their exact bytes are what is signed. */
export function encodeOfferState(state: OfferState): object {
  return {
    id: state.id,
    state: state.state,
    leaves: state.want.leaves,
    want: state.want.toBase64(),
    creditBytes: state.creditBytes,
    expires: state.expires.toISOString(),
    needsPerson: state.needsPerson,
    receipts: state.receipts.map(envelope => new TextDecoder().decode(envelope)),
  }
}

/**
 * Reads a peer's answer about our offer.
 *
 * @throws GatewayError PEER_PROTOCOL when it is not about this offer or does not fit it
 */
export function decodeOfferState(bytes: Uint8Array, expected: { id: string; leafCount: number }): OfferState {
  const raw = parseJson(bytes, { maxBytes: maxOfferStateBytes, maxDepth: 8, code: 'PEER_PROTOCOL' })
  const decoded = decode(shape, raw)
  if (!decoded.ok) throw new GatewayError('PEER_PROTOCOL', describeExpected(decoded.problems.slice(0, 5)))
  const { leaves, want, receipts, ...rest } = decoded.value
  if (rest.id !== expected.id || leaves !== expected.leafCount) {
    throw new GatewayError('PEER_PROTOCOL', `expected the state of the offer with ${expected.leafCount} leaves`)
  }
  return {
    ...rest,
    want: Bitmap.fromBase64(want, leaves),
    receipts: receipts.map(receipt => new TextEncoder().encode(receipt)),
  }
}

const shape = object(
  {
    id: sha256,
    state: oneOf(...offerStates),
    leaves: integer({ min: 1 }),
    want: text({ max: 8 * 1024 * 1024 }),
    creditBytes: integer({ min: 0 }),
    expires: instant,
    needsPerson: boolean,
    receipts: list(text({ max: 4 * 1024 * 1024 }), { max: 16 }),
  },
  { unknown: 'keep' },
)
