/**
 * The responses to our one outstanding request, between the socket and who reads them. When the reader
 * is slower than the peer, reading from the socket stops: ten thousand matches never stand in memory.
 */
import type { Command } from './command.ts'

/** One response and its data set. */
export interface ScuResponse {
  readonly command: Command
  readonly status: number
  /** As received; undefined when the response has none. */
  readonly dataset: Uint8Array | undefined
  /** Of the context in which it came: the encoding of `dataset`. */
  readonly transferSyntaxUid: string
}

/** Tells the socket's reader to stop, and when to go on. */
export interface Flow {
  readonly onFull: () => void
  readonly onRoom: () => void
}

const maxWaiting = 64
const maxWaitingBytes = 1_048_576

/** A queue with one reader. */
export class ScuResponses {
  readonly #flow: Flow
  #waiting: ScuResponse[] = []
  #bytes = 0
  #isFull = false
  #reader: PromiseWithResolvers<ScuResponse> | undefined
  #failure: { readonly error: unknown } | undefined

  constructor(flow: Flow) {
    this.#flow = flow
  }

  push(response: ScuResponse): void {
    const reader = this.#reader
    if (reader) {
      this.#reader = undefined
      reader.resolve(response)
      return
    }
    this.#waiting.push(response)
    this.#bytes += response.dataset?.length ?? 0
    if (this.#isFull || (this.#waiting.length < maxWaiting && this.#bytes < maxWaitingBytes)) return
    this.#isFull = true
    this.#flow.onFull()
  }

  /** No more responses will come; what has come already can still be read. */
  fail(error: unknown): void {
    this.#failure ??= { error }
    this.#reader?.reject(error)
    this.#reader = undefined
  }

  /** The next response, in the order of their arrival. */
  async next(): Promise<ScuResponse> {
    const response = this.#waiting.shift()
    if (response) {
      this.#bytes -= response.dataset?.length ?? 0
      if (this.#isFull && this.#waiting.length < maxWaiting / 2 && this.#bytes < maxWaitingBytes / 2) {
        this.#isFull = false
        this.#flow.onRoom()
      }
      return response
    }
    if (this.#failure) throw this.#failure.error
    this.#reader = Promise.withResolvers()
    return await this.#reader.promise
  }
}
