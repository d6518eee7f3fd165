/**
 * HL7's Minimal Lower Layer Protocol: `<SB> message <EB> <CR>`. Bytes between frames are line ends
 * that some senders add; anything else there is no MLLP.
 */

const startBlock = 0x0b
const endBlock = 0x1c
const carriageReturn = 0x0d

/** What bytes came to: whole messages, and why to close when they are no MLLP or too long. */
export interface Received {
  readonly messages: readonly Buffer[]
  readonly violation?: 'not-mllp' | 'too-long'
}

/** Takes messages out of a stream of bytes; holds at most one that has not ended. */
export class FrameReader {
  readonly #maxBytes: number
  #parts: Buffer[] = []
  #held = 0
  #state: 'between' | 'inside' | 'ending' = 'between'

  /** @param maxBytes  of one message */
  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes
  }

  /** True while a message has begun and not ended. */
  get isInside(): boolean {
    return this.#state !== 'between'
  }

  /** Takes the next bytes; after a violation there are none. */
  push(chunk: Buffer): Received {
    const messages: Buffer[] = []
    let at = 0
    while (at < chunk.length) {
      if (this.#state === 'between') {
        const byte = chunk[at] ?? 0
        at++
        if (byte === startBlock) this.#state = 'inside'
        else if (byte !== carriageReturn && byte !== 0x0a) return { messages, violation: 'not-mllp' }
      } else if (this.#state === 'ending') {
        // <EB> ends the block only before <CR>; alone it would be a byte of the message, which no set has.
        if (chunk[at] !== carriageReturn) return { messages, violation: 'not-mllp' }
        at++
        messages.push(Buffer.concat(this.#parts))
        this.#parts = []
        this.#held = 0
        this.#state = 'between'
      } else {
        const end = chunk.indexOf(endBlock, at)
        const stop = end < 0 ? chunk.length : end
        this.#held += stop - at
        if (this.#held > this.#maxBytes) return { messages, violation: 'too-long' }
        // A copy: the chunk may be a view of a larger buffer that would be held with it.
        if (stop > at) this.#parts.push(Buffer.from(chunk.subarray(at, stop)))
        at = stop
        if (end >= 0) {
          this.#state = 'ending'
          at++
        }
      }
    }
    return { messages }
  }
}

/** A message in its frame. */
export function frame(message: Uint8Array): Buffer {
  return Buffer.concat([Buffer.of(startBlock), message, Buffer.of(endBlock, carriageReturn)])
}
