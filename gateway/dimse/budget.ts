/**
 * Memory that all associations together may hold in data received and not yet taken by the store.
 * Without a common bound a hundred senders on a slow disk would each be modest and sum up to
 * gigabytes.
 */

/** What one piece costs besides its bytes: the view object, so that tiny pieces are bounded as well. */
const pieceOverheadBytes = 128

/** A reception that holds bytes. */
export interface BudgetMember {
  /** The budget is used up: write out what you hold, or a slow sender's bytes would block everybody. */
  onPressure(): void
  /** There is room again. */
  onRoom(): void
}

/** Counts held bytes and tells the receptions when they are too many and when there is room again. */
export class ReceiveBudget {
  readonly #limitBytes: number
  #heldBytes = 0
  readonly #members = new Set<BudgetMember>()

  constructor(limitBytes: number) {
    this.#limitBytes = limitBytes
  }

  /** Bytes held now, overhead included. */
  get heldBytes(): number {
    return this.#heldBytes
  }

  get isFull(): boolean {
    return this.#heldBytes >= this.#limitBytes
  }

  join(member: BudgetMember): void {
    this.#members.add(member)
  }

  leave(member: BudgetMember): void {
    this.#members.delete(member)
  }

  /** Counts a piece; returns its cost, which is to be given back. */
  take(pieceBytes: number): number {
    const cost = pieceBytes + pieceOverheadBytes
    const wasFull = this.isFull
    this.#heldBytes += cost
    if (!wasFull && this.isFull) for (const member of [...this.#members]) member.onPressure()
    return cost
  }

  /** Gives back costs. */
  giveBack(cost: number): void {
    const wasFull = this.isFull
    this.#heldBytes -= cost
    if (wasFull && !this.isFull) for (const member of [...this.#members]) member.onRoom()
  }
}
