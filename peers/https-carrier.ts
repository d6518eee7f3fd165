/**
 * Carries transfers to a peer gateway: offer, ranges, commit, receipt, from whatever point an earlier
 * run, here or at the peer, was cut off. The peer's answers are verified before they count.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { GatewayError, isGatewayError } from '../gateway/errors.ts'
import type { Carrier, Decided, Delivery, DeliveryEnd } from './carrier.ts'
import type { SigningKey } from './envelope.ts'
import {
  type Answer,
  cancelRequest,
  commitRequest,
  nextStateRequest,
  offerRequest,
  type PeerConnection,
  processRecall,
  processState,
  type Refusal,
  recallRequest,
  stateRequest,
} from './https-client.ts'
import { finalOfferStates, type OfferState } from './offer-state.ts'
import { isFinal, type RangeBuffers, sendRound, unknownPace } from './range-sender.ts'
import { openReceipt, type ReceiptExpectation, type SignedReceipt, verifyChain } from './receipt.ts'

const longPollSeconds = 30
/** Failed rounds in a row after which the delivery gives up, to be tried again later. */
const mostStumbles = 4
const longestPauseMs = 15_000

/** A carrier to one peer over an open connection pool, which it closes. */
export function openHttpsCarrier(options: {
  connection: PeerConnection
  /** Our site id, the peer's, and the keys its receipts may be signed with. */
  self: string
  peer: { siteId: string; signingKeys: readonly SigningKey[] }
  buffers: RangeBuffers
  /** Ranges on their way at once. */
  connections: number
}): Carrier {
  const { connection, self, peer, buffers, connections } = options
  const pace = unknownPace()
  const expectation = (manifest: string): ReceiptExpectation => ({
    manifest,
    from: peer.siteId,
    to: self,
    keys: peer.signingKeys,
  })

  /** A verified state, or the end that a refusal is. */
  const hear = async (delivery: Delivery, answer: Answer): Promise<OfferState | DeliveryEnd> => {
    const { offer, map } = delivery
    const result = processState(answer, { id: offer.id, leafCount: map.leafCount })
    if (result.kind === 'refused') return refusedForGood(result.refusal, expectation(offer.id))
    await delivery.onState(result.state, verifyChain(result.state.receipts, expectation(offer.id)))
    return result.state
  }

  const enter = async (delivery: Delivery, signal: AbortSignal): Promise<OfferState | DeliveryEnd> => {
    const { offer } = delivery
    if (delivery.isKnown) {
      const answer = await stateRequest(connection, offer.id, signal)
      if (answer.status !== 404) return await hear(delivery, answer)
    }
    const answer = await offerRequest(connection, offer.bytes, signal)
    if (answer.status === 404) {
      throw new GatewayError(
        'UNAVAILABLE',
        'the peer does not serve this site: it may not have confirmed the pairing yet',
      )
    }
    return await hear(delivery, answer)
  }

  return {
    async deliver(delivery, signal) {
      const { offer } = delivery
      let stumbles = 0
      let current = await enter(delivery, signal)
      for (;;) {
        if (!isState(current)) return current
        if (current.state === 'committing') {
          current = await hear(
            delivery,
            await nextStateRequest(connection, offer.id, { from: current.state, waitSeconds: longPollSeconds }, signal),
          )
          continue
        }
        if (current.state !== 'receiving') return ended(current, verifyChain(current.receipts, expectation(offer.id)))
        if (!(await delivery.mayContinue())) return { kind: 'stopped' }

        const before = current.want.count()
        const round = {
          connection,
          delivery,
          want: current.want,
          creditBytes: current.creditBytes,
          connections,
          buffers,
          pace,
        }
        const end = before === 0 ? { kind: 'complete' as const } : await sendRound(round, signal)
        if (end.kind === 'stopped') return end
        if (end.kind === 'failed') {
          if (isFinal(end.error) && !isOvertaken(end.error)) throw end.error
          stumbles = current.want.count() < before ? 1 : stumbles + 1
          if (stumbles > mostStumbles) throw end.error
          await pause(end.retryAfterMs ?? 100 * 2 ** stumbles, end.error, signal)
          current = await hear(delivery, await stateRequest(connection, offer.id, signal))
          continue
        }
        if (!(await delivery.mayCommit())) return { kind: 'stopped' }
        const answer = await commitRequest(connection, offer.id, signal)
        if (answer.status === 409 && ++stumbles <= mostStumbles) {
          // It misses something after all: its state says what.
          current = await hear(delivery, await stateRequest(connection, offer.id, signal))
          continue
        }
        current = await hear(delivery, answer)
      }
    },
    async cancel(offer, envelope, signal) {
      const answer = await cancelRequest(connection, offer.id, envelope, signal)
      const result = processState(answer, { id: offer.id, leafCount: offer.leafCount })
      if (result.kind === 'state') {
        return ended(result.state, verifyChain(result.state.receipts, expectation(offer.id)))
      }
      const { error } = result.refusal
      // Never arrived there, so there is nothing to end.
      if (isGatewayError(error, 'NOT_FOUND')) return { kind: 'cancelled', code: undefined, receipts: [] }
      throw error
    },
    async receipts(offer, signal) {
      const answer = await stateRequest(connection, offer.id, signal)
      if (answer.status === 404) return []
      const result = processState(answer, { id: offer.id, leafCount: offer.leafCount })
      if (result.kind === 'refused') throw result.refusal.error
      return verifyChain(result.state.receipts, expectation(offer.id))
    },
    async recall(manifestId, envelope, signal) {
      return processRecall(await recallRequest(connection, manifestId, envelope, signal))
    },
    close: () => connection.pool.destroy(),
  }
}

const isState = (value: OfferState | DeliveryEnd): value is OfferState => 'want' in value

/** A state that is not the sender's turn, with the receipt that proves it. */
function ended(state: OfferState, chain: readonly SignedReceipt[]): Decided {
  const { state: kind } = state
  if (kind === 'receiving' || kind === 'committing') {
    throw new GatewayError('PEER_PROTOCOL', `expected a transfer that has ended, it is ${kind}`)
  }
  const proof = chain.findLast(({ receipt }) => receipt.kind === kind)
  if (!proof || (finalOfferStates.includes(kind) && proof !== chain.findLast(link => finals.has(link.receipt.kind)))) {
    throw new GatewayError('RECEIPT_INVALID', `the peer says ${kind} and has signed no receipt for it`)
  }
  return { kind, code: proof.receipt.code, receipts: chain }
}

const finals = new Set<string>(finalOfferStates)

/** A refusal with a signature is the end; without one, it is an error that may pass. */
function refusedForGood(refusal: Refusal, expected: ReceiptExpectation): Decided {
  const { error, receipt } = refusal
  if (!receipt || error.meaning.retry === 'yes') throw error
  const signed = openReceipt(receipt, expected)
  const { kind, code } = signed.receipt
  if (kind !== 'refused') throw new GatewayError('RECEIPT_INVALID', `expected a refusal, got ${kind}`)
  return { kind, code, receipts: [signed] }
}

/** The transfer left `receiving` while a range was on its way: its state tells. */
const isOvertaken = (error: GatewayError): boolean =>
  error.code === 'STATE_CONFLICT' || error.code === 'TRANSFER_CANCELLED' || error.code === 'NOT_FOUND'

async function pause(ms: number, error: unknown, signal: AbortSignal): Promise<void> {
  // A longer pause than this does not hold a worker: the delivery is tried again later.
  if (ms > longestPauseMs) throw error
  await delay(ms * (0.5 + Math.random() / 2), undefined, { signal })
}
