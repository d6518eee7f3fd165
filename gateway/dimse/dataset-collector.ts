/** Gathers the data set of a request that a service answers: small ones only, in memory. */
import { maxServiceDatasetBytes } from './service.ts'
import { type Outcome, status } from './status.ts'

/** Takes the pieces of one data set. */
export class DatasetCollector {
  readonly #onWhole: (dataset: Uint8Array) => void
  readonly #refuse: (outcome: Outcome) => void
  #pieces: Uint8Array[] = []
  #bytes = 0

  /** @param refuse  called in place of `onWhole` when the data set was too long */
  constructor(onWhole: (dataset: Uint8Array) => void, refuse: (outcome: Outcome) => void) {
    this.#onWhole = onWhole
    this.#refuse = refuse
  }

  /** Takes the next bytes; they are copied, because the memory they lie in is used again. */
  push(piece: Uint8Array): void {
    this.#bytes += piece.length
    if (this.#bytes > maxServiceDatasetBytes) this.#pieces = []
    else this.#pieces.push(Buffer.from(piece))
  }

  /** The data set has come whole. */
  end(): void {
    if (this.#bytes > maxServiceDatasetBytes) {
      this.#refuse({ status: status.outOfResources, comment: 'data set exceeds a limit' })
    } else this.#onWhole(Buffer.concat(this.#pieces))
  }
}
