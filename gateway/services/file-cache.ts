/**
 * Small files that are asked for again and again, in memory: a viewer that scrolls, a script that reads file after file
 * of one study. Names are digests, so that what is here cannot be out of date; who may read it is decided before.
 */
import { forgetOldest } from './forget-oldest.ts'

/** Files of up to so many bytes are read at once, and kept: a CT slice, and what is before its data set. */
export const readAtOnceBytes = 1_048_576 + 4_096

const mostBytes = 128 * 1_048_576
const mostAsked = 4_096
/** What was read a moment ago will be read again sooner than what comes now. */
const inUseMs = 5_000

/** Files of one gateway process. */
export class FileCache {
  readonly #files = new Map<string, { readonly bytes: Uint8Array; usedAt: number }>()
  readonly #asked = new Set<string>()
  readonly #now: () => number
  #bytes = 0

  /** @param now  milliseconds of a clock that does not go back */
  constructor(now: () => number = () => performance.now()) {
    this.#now = now
  }

  /** The file's bytes, which nobody may change. */
  get(sha256: Buffer): Uint8Array | undefined {
    const name = nameOf(sha256)
    const file = this.#files.get(name)
    if (!file) return undefined
    file.usedAt = this.#now()
    if (this.#files.delete(name)) this.#files.set(name, file) // the last one to go
    return file.bytes
  }

  /**
   * True for a file of so many bytes that is asked for a second time, where there is room for it: what is read once
   * needs no memory, and a series that is larger than all of it must not drive out its own beginning again and again.
   */
  wants(sha256: Buffer, sizeBytes: number): boolean {
    const name = nameOf(sha256)
    if (this.#asked.delete(name)) return this.#hasRoom(sizeBytes)
    this.#asked.add(name)
    forgetOldest(this.#asked, mostAsked)
    return false
  }

  /** Keeps a whole file. */
  add(sha256: Buffer, bytes: Uint8Array): void {
    const name = nameOf(sha256)
    if (this.#files.has(name) || !this.#hasRoom(bytes.length)) return
    this.#files.set(name, { bytes, usedAt: this.#now() })
    this.#bytes += bytes.length
  }

  /** Lets go what nobody has asked for lately. */
  #hasRoom(sizeBytes: number): boolean {
    for (const [oldest, { bytes, usedAt }] of this.#files) {
      if (this.#bytes + sizeBytes <= mostBytes || usedAt + inUseMs > this.#now()) break
      this.#files.delete(oldest)
      this.#bytes -= bytes.length
    }
    return this.#bytes + sizeBytes <= mostBytes
  }
}

const nameOf = (sha256: Buffer): string => sha256.toString('latin1')
