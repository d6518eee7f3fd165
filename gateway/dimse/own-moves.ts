/**
 * C-MOVEs that we asked for to ourselves: what arrives on their behalf names us and the message id as its
 * originator (PS3.7 §9.3.1.1), and so shows for what it was fetched.
 */
import type { MoveOriginator, RetrievePurpose } from '../services/dicom-node.ts'

/** The moves under way. */
export class OwnMoves {
  readonly #aeTitle: string
  readonly #purposes = new Map<number, RetrievePurpose>()
  #messageId = 0

  /** @param aeTitle  with which we call */
  constructor(aeTitle: string) {
    this.#aeTitle = aeTitle
  }

  /** A message id that no other move under way has. */
  begin(purpose: RetrievePurpose): number {
    do this.#messageId = (this.#messageId % 0xffff) + 1
    while (this.#purposes.has(this.#messageId))
    this.#purposes.set(this.#messageId, purpose)
    return this.#messageId
  }

  end(messageId: number): void {
    this.#purposes.delete(messageId)
  }

  /** For what an arriving instance was fetched; undefined when we did not ask for it. */
  purposeOf(originator: MoveOriginator | undefined): RetrievePurpose | undefined {
    return originator?.aeTitle === this.#aeTitle ? this.#purposes.get(originator.messageId) : undefined
  }
}
