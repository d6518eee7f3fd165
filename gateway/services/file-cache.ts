/**
 * Small files that are asked for again and again, in memory: a viewer that scrolls, a script that reads file after file
 * of one study. Names are digests, so that what is here cannot be out of date; who may read it is decided before.
 */
import { forgetOldest } from './forget-oldest.ts'

/** Files of up to so many bytes are read at once, and kept: a CT slice, and what is before its data set. */
export const readAtOnceBytes = 1_048_576 + 4_096

const mostBytes = 128 * 1_048_576
const mostAsked = 4_096

/** Files of one gateway process. */
export class FileCache {
  readonly #files = new Map<string, Uint8Array>()
  readonly #asked = new Set<string>()
  #bytes = 0

  /** The file's bytes, which nobody may change. */
  get(sha256: Buffer): Uint8Array | undefined {
    const name = nameOf(sha256)
    const file = this.#files.get(name)
    if (file && this.#files.delete(name)) this.#files.set(name, file) // the last one to go
    return file
  }

  /** True for a file that is asked for a second time: what is read once needs no memory. */
  wants(sha256: Buffer): boolean {
    const name = nameOf(sha256)
    if (this.#asked.delete(name)) return true
    this.#asked.add(name)
    forgetOldest(this.#asked, mostAsked)
    return false
  }

  /** Keeps a whole file. */
  add(sha256: Buffer, file: Uint8Array): void {
    const name = nameOf(sha256)
    if (this.#files.has(name)) return
    this.#files.set(name, file)
    this.#bytes += file.length
    for (const [oldest, { length }] of this.#files) {
      if (this.#bytes <= mostBytes) break
      this.#files.delete(oldest)
      this.#bytes -= length
    }
  }
}

const nameOf = (sha256: Buffer): string => sha256.toString('latin1')
