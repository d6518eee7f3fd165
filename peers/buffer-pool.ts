/**
 * Large buffers that are used again: new ones are costly to allocate and slow to be collected. Their memory
 * is shared, so that another thread can look at what they hold.
 */

/** Buffers of one size. */
export interface BufferPool {
  /** A buffer of at least `bytes`. */
  take(bytes: number): Buffer
  give(buffer: Buffer): void
}

/** Keeps up to `most` free buffers of `bytes`. */
export function createBufferPool(bytes: number, most: number): BufferPool {
  const free: Buffer[] = []
  return {
    take: wanted =>
      (wanted > bytes ? undefined : free.pop()) ?? Buffer.from(new SharedArrayBuffer(Math.max(bytes, wanted))),
    give: buffer => {
      if (free.length < most && buffer.length === bytes) free.push(buffer)
    },
  }
}
