/**
 * Requests of ours on an association that a peer opened: what a service has to tell after its response, such as the
 * N-EVENT-REPORT of storage commitment (PS3.4 §J.3.3).
 */
import type { Socket } from 'node:net'
import { GatewayError } from '../errors.ts'
import type { Command } from './command.ts'
import { encodeCommandPdus, encodeDatasetPdus } from './pdu.ts'
import type { Outcome } from './status.ts'

/** The association for who has something to tell on it. */
export interface Notifier {
  /** Aborts when the association ends. */
  readonly signal: AbortSignal
  /**
   * Sends a request with a data set and waits for its response.
   *
   * @throws GatewayError PEER_UNREACHABLE when the association ends or the peer does not answer, STATE_CONFLICT while
   *   it is busy with a request of the peer
   */
  notify(encode: (messageId: number) => Buffer, dataset: Uint8Array): Promise<Outcome>
}

/** The association as notices use it. */
export interface NoticeHost {
  readonly socket: Socket
  readonly peerMaxPduLength: number
  /** No message of ours is on its way: the parts of two must not mix. */
  readonly isIdle: boolean
}

const answerWithinMs = 30_000

/** The notices of one association. */
export class Notices {
  readonly #host: NoticeHost
  readonly #ended = new AbortController()
  readonly #pending = new Map<number, PromiseWithResolvers<Outcome>>()
  #messageId = 0
  #work: Promise<unknown> = Promise.resolve()

  constructor(host: NoticeHost) {
    this.#host = host
  }

  /** Runs what a service does after its response. */
  begin(contextId: number, after: (notifier: Notifier) => Promise<void>, onError: (error: unknown) => void): void {
    const notifier: Notifier = {
      signal: this.#ended.signal,
      notify: (encode, dataset) => this.#notify(contextId, encode, dataset),
    }
    this.#work = Promise.all([this.#work, after(notifier).catch(onError)])
  }

  /** A response has come; false when it answers nothing of ours. */
  takeResponse({ respondedMessageId, status, errorComment }: Command): boolean {
    const pending = respondedMessageId === undefined ? undefined : this.#pending.get(respondedMessageId)
    if (!pending || status === undefined) return false
    pending.resolve({ status, ...(errorComment !== undefined && { comment: errorComment }) })
    return true
  }

  /** The association is gone; resolves when nothing works for it any more. */
  async end(): Promise<void> {
    this.#ended.abort()
    const gone = new GatewayError('PEER_UNREACHABLE', 'the association has ended')
    for (const pending of this.#pending.values()) pending.reject(gone)
    await this.#work
  }

  async #notify(contextId: number, encode: (messageId: number) => Buffer, dataset: Uint8Array): Promise<Outcome> {
    const { socket, peerMaxPduLength, isIdle } = this.#host
    if (this.#ended.signal.aborted || socket.destroyed) {
      throw new GatewayError('PEER_UNREACHABLE', 'the association has ended')
    }
    if (!isIdle) throw new GatewayError('STATE_CONFLICT', 'the association is busy')
    this.#messageId = (this.#messageId % 0xffff) + 1
    const messageId = this.#messageId
    const answer = Promise.withResolvers<Outcome>()
    this.#pending.set(messageId, answer)
    const timer = setTimeout(
      () => answer.reject(new GatewayError('PEER_UNREACHABLE', `no answer within ${answerWithinMs} ms`)),
      answerWithinMs,
    )
    socket.cork()
    socket.write(encodeCommandPdus(contextId, encode(messageId), peerMaxPduLength))
    socket.write(encodeDatasetPdus(contextId, dataset, peerMaxPduLength))
    socket.uncork()
    try {
      return await answer.promise
    } finally {
      clearTimeout(timer)
      this.#pending.delete(messageId)
    }
  }
}
