/**
 * How a transfer reaches its destination. The outbound service knows states and rows; a carrier knows
 * one protocol, and keeps nothing: everything it needs after a crash, the other side tells it.
 */
import type { LeafMap } from './leaves.ts'
import type { Offer } from './offer.ts'
import type { OfferState } from './offer-state.ts'
import type { SignedReceipt } from './receipt.ts'

/** Bytes of one object, for sending. */
export interface ObjectReader {
  /** Fills `target` from `position` on. @throws GatewayError STORAGE_CORRUPT when there are fewer bytes */
  readInto(target: Uint8Array, position: number): Promise<void>
  close(): Promise<void>
}

/** One transfer to be carried, from wherever it is. */
export interface Delivery {
  readonly offer: Offer
  readonly map: LeafMap
  /** True when the receiver has accepted the offer before: its state is asked for first. */
  readonly isKnown: boolean
  openObject(ordinal: number): Promise<ObjectReader>
  /** SHA-256 of an object as the manifest signs it. */
  objectSha256(ordinal: number): Uint8Array
  /** Asked before each range; false ends the delivery as `stopped`. An answer may be a moment old. */
  mayContinue(): Promise<boolean>
  /** The same, asked anew before commit: after it nothing can be taken back. */
  mayCommit(): Promise<boolean>
  /** The receiver's state and its verified receipts, each time they were heard. */
  onState(state: OfferState, receipts: readonly SignedReceipt[]): Promise<void>
  /** So many more bytes were put on the line, repeats included. */
  onSent(bytes: number): void
  /** So many bytes of the transfer are durable at the receiver. */
  onAcknowledged(bytes: number): void
}

/** The receiver's word, in its last receipt or a signed refusal; `held` may still become another. */
export interface Decided {
  readonly kind: 'imported' | 'held' | 'refused' | 'cancelled' | 'expired'
  readonly code: string | undefined
  /** What proves it, oldest first. */
  readonly receipts: readonly SignedReceipt[]
}

export type DeliveryEnd =
  | Decided
  /** `mayContinue` or `mayCommit` said no. */
  | { readonly kind: 'stopped' }

export interface Carrier {
  /**
   * Carries a transfer on until the receiver has decided it.
   *
   * @throws GatewayError with `retry: 'yes'` for what may pass by itself, `'no'` for what needs a person
   */
  deliver(delivery: Delivery, signal: AbortSignal): Promise<DeliveryEnd>
  /** Tells the receiver that a transfer will not go on. */
  cancel(offer: Pick<Offer, 'id'> & { leafCount: number }, envelope: Uint8Array, signal: AbortSignal): Promise<Decided>
  /** What the receiver has signed about a transfer so far, verified; empty when it does not know it any more. */
  receipts(offer: Pick<Offer, 'id'> & { leafCount: number }, signal: AbortSignal): Promise<readonly SignedReceipt[]>
  /**
   * Asks the receiver to give back what it has imported; gives its signed answer, unverified.
   *
   * @throws GatewayError NOT_FOUND also where the receiver's release knows no recalls
   */
  recall(manifestId: string, envelope: Uint8Array, signal: AbortSignal): Promise<Uint8Array>
  close(): Promise<void>
}
