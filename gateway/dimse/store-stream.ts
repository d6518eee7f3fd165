/**
 * One C-STORE data set on its way from the socket to the store: pieces are kept as views of the
 * socket's chunks and handed on in batches, so that a usual CT instance is one write. When more is
 * held than allowed the association is told to stop reading.
 */
import type { BudgetMember, ReceiveBudget } from './budget.ts'
import type { ReceiveBuffers } from './receive-buffers.ts'
import type { StoreRequest, StoreService, StoreSink } from './scp.ts'
import { type Outcome, outcomeOfError } from './status.ts'

/** What a reception needs from its association. */
export interface ReceptionOptions {
  readonly service: StoreService
  readonly request: StoreRequest
  readonly budget: ReceiveBudget
  readonly buffers: ReceiveBuffers
  /** Held bytes at which the socket is paused; half of it starts a write. */
  readonly heldBytesLimit: number
  /** Reading must stop. */
  readonly onFull: () => void
  /** Reading may go on. */
  readonly onRoom: () => void
}

/** Receives one data set. The owner calls `push` for each piece, then either `end` or `discard`. */
export class StoreReception implements BudgetMember {
  readonly #options: ReceptionOptions
  #sink: StoreSink | undefined
  #pieces: Uint8Array[] = []
  #heldCost = 0
  #inFlight: readonly Uint8Array[] = []
  #inFlightCost = 0
  /** Pieces that are written, but that the sink goes on reading. */
  #kept: Uint8Array[] = []
  #keptBytes = 0
  #isStopped = false
  #failure: { readonly error: unknown } | undefined
  #isDiscarded = false
  /** The call to the store that is under way; the next one waits for it. */
  #call: Promise<void> | undefined

  constructor(options: ReceptionOptions) {
    this.#options = options
    options.budget.join(this)
    this.#start(async () => {
      this.#sink = await options.service.begin(options.request)
    })
  }

  /** Takes the next piece of the data set. */
  push(piece: Uint8Array): void {
    if (this.#failure || this.#isDiscarded || piece.length === 0) return
    this.#options.buffers.hold(piece)
    this.#pieces.push(piece)
    this.#heldCost += this.#options.budget.take(piece.length)
    this.#advance()
    if (!this.#isStopped && this.#isFull()) {
      this.#isStopped = true
      this.#options.onFull()
    }
  }

  /** The data set has come whole: writes the rest and asks the store for its verdict. Never rejects. */
  async end(): Promise<Outcome> {
    while (this.#call) await this.#call
    if (!this.#failure && this.#pieces.length > 0) await this.#write()
    if (!this.#failure && this.#sink) {
      try {
        const outcome = await this.#sink.finish()
        this.#leave()
        return outcome
      } catch (error) {
        this.#failure = { error }
      }
    }
    await this.discard()
    return outcomeOfError(this.#failure?.error)
  }

  /** The data set will not come whole. Never rejects. */
  async discard(): Promise<void> {
    if (this.#isDiscarded) return
    this.#isDiscarded = true
    this.#drop()
    while (this.#call) await this.#call
    // What a failed removal leaves behind is swept with the rest of the staging directory.
    await this.#sink?.discard().catch(() => undefined)
    this.#leave()
  }

  onPressure(): void {
    this.#advance()
  }

  onRoom(): void {
    if (!this.#isStopped || this.#isDiscarded || this.#isFull()) return
    this.#isStopped = false
    this.#options.onRoom()
  }

  /** Starts a write when enough is held for one, or when all associations together hold too much. */
  #advance(): void {
    if (this.#call || this.#failure || this.#isDiscarded || this.#pieces.length === 0) return
    if (this.#heldCost >= this.#options.heldBytesLimit / 2 || this.#options.budget.isFull) void this.#write()
  }

  #write(): Promise<void> {
    const pieces = this.#pieces
    this.#inFlight = pieces
    this.#inFlightCost = this.#heldCost
    this.#pieces = []
    this.#heldCost = 0
    return this.#start(async () => {
      await this.#sink?.write(pieces)
    })
  }

  /** Runs one call to the store, then goes on with what has come meanwhile. */
  #start(work: () => Promise<void>): Promise<void> {
    const settle = (): void => {
      this.#call = undefined
      const written = this.#inFlightCost
      this.#inFlightCost = 0
      this.#settleWritten()
      this.#options.budget.giveBack(written)
      this.#advance()
      this.onRoom()
    }
    const call = work().then(settle, error => {
      this.#failure = { error }
      this.#drop()
      settle()
    })
    this.#call = call
    return call
  }

  /** Keeps the pieces that begin within the sink's first bytes and releases the others. */
  #settleWritten(): void {
    const limit = this.#sink?.keptBytes ?? 0
    for (const piece of this.#inFlight) {
      if (this.#keptBytes < limit) this.#kept.push(piece)
      else this.#options.buffers.release(piece)
      this.#keptBytes += piece.length
    }
    this.#inFlight = []
  }

  /** The end: nothing is held any more, and nothing of it keeps the association from reading. */
  #leave(): void {
    this.#options.budget.leave(this)
    for (const piece of this.#kept) this.#options.buffers.release(piece)
    this.#kept = []
    if (this.#isStopped) this.#options.onRoom()
    this.#isStopped = false
  }

  /** Throws away what is held; what a running write holds is given back when it ends. */
  #drop(): void {
    const cost = this.#heldCost
    for (const piece of this.#pieces) this.#options.buffers.release(piece)
    this.#pieces = []
    this.#heldCost = 0
    this.#options.budget.giveBack(cost)
  }

  /** Who holds nothing may always take a piece, so that others cannot stop this one for good. */
  #isFull(): boolean {
    const cost = this.#heldCost + this.#inFlightCost
    if (this.#failure || cost === 0) return false
    return cost >= this.#options.heldBytesLimit || this.#options.budget.isFull
  }
}
