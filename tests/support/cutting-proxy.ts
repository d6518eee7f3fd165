/** A line that breaks: a TCP proxy whose connections are cut after so many bytes towards the server. */
import type { TestContext } from 'node:test'
import { openLine } from './line.ts'

export interface CuttingProxy {
  readonly port: number
  /** Cuts that were made. */
  readonly cuts: number
  /** Bytes that went to the server. */
  readonly forwarded: number
  /** Bytes that came back from it. */
  readonly received: number
}

/**
 * @param next     after how many bytes the next connection is cut; undefined for never
 * @param towards  whose bytes are counted for that
 */
export async function startCuttingProxy(
  t: TestContext,
  target: number,
  next: () => number | undefined,
  towards: 'server' | 'client' = 'server',
): Promise<CuttingProxy> {
  let [cuts, forwarded, received] = [0, 0, 0]
  const port = await openLine(t, target, (client, upstream, cut) => {
    let left = next() ?? Number.POSITIVE_INFINITY
    const count = (bytes: number): void => {
      left -= bytes
      if (left > 0) return
      cuts += 1
      cut()
    }
    upstream.pipe(client)
    upstream.on('data', bytes => {
      received += bytes.length
      if (towards === 'client') count(bytes.length)
    })
    client.on('data', bytes => {
      forwarded += bytes.length
      upstream.write(bytes)
      if (towards === 'server') count(bytes.length)
    })
  })
  return {
    port,
    get cuts() {
      return cuts
    },
    get forwarded() {
      return forwarded
    },
    get received() {
      return received
    },
  }
}
