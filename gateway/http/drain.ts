/** The rest of a body that nobody wants. */
import type { Readable } from 'node:stream'

const drainLimitBytes = 64 * 1024 * 1024
const drainLimitMs = 5000

/** Reads the rest of a refused body, within bounds: many clients look for the answer only after sending all. */
export async function drain(body: Readable): Promise<void> {
  if (body.readableEnded || body.destroyed) return
  const { promise, resolve } = Promise.withResolvers<void>()
  let left = drainLimitBytes
  const take = (chunk: Buffer): void => {
    left -= chunk.length
    if (left < 0) resolve()
  }
  // A client that waits for the answer sends nothing more: then only the clock ends this.
  const timer = setTimeout(resolve, drainLimitMs)
  for (const end of ['end', 'error', 'close']) body.once(end, () => resolve())
  body.on('data', take)
  await promise
  clearTimeout(timer)
  body.off('data', take)
  body.pause()
}
