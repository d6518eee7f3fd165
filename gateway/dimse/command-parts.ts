/** Gathers a command set from the pieces in which it comes (PS3.8 Annex E.1). */
import { maxCommandBytes } from './command.ts'

/** The pieces of one command set so far. */
export class CommandParts {
  #parts: Buffer[] = []
  #bytes = 0
  #contextId: number | undefined

  /** True between a command set's first piece and its last. */
  get isUnderWay(): boolean {
    return this.#contextId !== undefined
  }

  /** True when a piece in this context starts a command set or goes on with the one that is under way. */
  fits(contextId: number): boolean {
    return this.#contextId === undefined || this.#contextId === contextId
  }

  /** Adds a copy of a piece; false when the command set gets longer than any real one. */
  add(contextId: number, piece: Buffer): boolean {
    this.#contextId = contextId
    this.#bytes += piece.length
    if (this.#bytes > maxCommandBytes) return false
    if (piece.length > 0) this.#parts.push(Buffer.from(piece))
    return true
  }

  /** The whole command set; the next one may begin. */
  take(): Buffer {
    const bytes = Buffer.concat(this.#parts)
    this.clear()
    return bytes
  }

  clear(): void {
    this.#parts = []
    this.#bytes = 0
    this.#contextId = undefined
  }
}
