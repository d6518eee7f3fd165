/** How many connections each caller has open: by address, or by AE title. */
export class CallerCounts {
  readonly #counts = new Map<string, number>()

  of(caller: string): number {
    return this.#counts.get(caller) ?? 0
  }

  add(caller: string): void {
    this.#counts.set(caller, this.of(caller) + 1)
  }

  remove(caller: string): void {
    const count = this.of(caller) - 1
    if (count > 0) this.#counts.set(caller, count)
    else this.#counts.delete(caller)
  }
}
