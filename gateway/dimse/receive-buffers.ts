/**
 * Memory that sockets are read into, used again and again.
 *
 * Node allocates a new buffer of 64 KB for each read. At 500 MB a second of pixel data that is
 * memory which V8 accounts for and cleans up: a quarter of the CPU time of an ingest went into mark
 * and compact of a heap that hardly changed (measured with perf: 1.5 of 6.5 ms for a CT instance).
 *
 * Views into a slab are valid while somebody holds it: the connection that reads into it, and each
 * one who called `hold` for a view. A slab that nobody holds is read into again.
 */

interface Slab {
  readonly bytes: Buffer
  holders: number
}

const slabBytes = 131_072
/** A read gets at least this much room; less is left unused at a slab's end. */
const smallestReadBytes = 32_768
/** Slabs kept for later, 32 MB; what a crowd used beyond goes back to the system. */
const maxFree = 256

/** The slabs of one listener. */
export class ReceiveBuffers {
  readonly #slabs = new WeakMap<ArrayBufferLike, Slab>()
  readonly #free: Slab[] = []
  readonly #poison: boolean

  /** @param options.poison  overwrites what nobody holds, so that tests see who uses it nonetheless */
  constructor(options: { poison?: boolean } = {}) {
    this.#poison = options.poison ?? false
  }

  /** Memory for the reads of one connection. */
  open(): ReadBuffer {
    return new ReadBuffer(this)
  }

  /** Keeps the bytes of a view unchanged until `release` is called for it. Other memory is left alone. */
  hold(view: Uint8Array): void {
    const slab = this.#slabs.get(view.buffer)
    if (slab) slab.holders += 1
  }

  /** Ends one `hold`. */
  release(view: Uint8Array): void {
    const slab = this.#slabs.get(view.buffer)
    if (!slab) return
    slab.holders -= 1
    if (slab.holders > 0) return
    if (this.#poison) slab.bytes.fill(0xdd)
    if (this.#free.length < maxFree) this.#free.push(slab)
  }

  /** True while only the one who took it holds the slab of a view. */
  isHeldOnce(view: Uint8Array): boolean {
    return this.#slabs.get(view.buffer)?.holders === 1
  }

  /** A slab, held once. */
  take(): Buffer {
    const slab = this.#free.pop() ?? this.#make()
    slab.holders = 1
    return slab.bytes
  }

  #make(): Slab {
    const slab = { bytes: Buffer.allocUnsafeSlow(slabBytes), holders: 0 }
    this.#slabs.set(slab.bytes.buffer, slab)
    return slab
  }
}

/** Where one connection's next read goes. */
class ReadBuffer {
  readonly #buffers: ReceiveBuffers
  #slab: Buffer
  #filled = 0
  #isClosed = false

  constructor(buffers: ReceiveBuffers) {
    this.#buffers = buffers
    this.#slab = buffers.take()
  }

  /** Room for the next read. */
  next(): Buffer {
    if (this.#buffers.isHeldOnce(this.#slab)) this.#filled = 0
    else if (this.#slab.length - this.#filled < smallestReadBytes) {
      this.#buffers.release(this.#slab)
      this.#slab = this.#buffers.take()
      this.#filled = 0
    }
    return this.#slab.subarray(this.#filled)
  }

  /** `length` bytes have been read into the room given last; the view of them. */
  filled(length: number): Buffer {
    const view = this.#slab.subarray(this.#filled, this.#filled + length)
    this.#filled += length
    return view
  }

  close(): void {
    if (this.#isClosed) return
    this.#isClosed = true
    this.#buffers.release(this.#slab)
  }
}
