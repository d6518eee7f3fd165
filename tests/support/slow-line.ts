/** A slow line: a TCP proxy that lets so many bytes a second through, each way. */
import { Transform } from 'node:stream'
import type { TestContext } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { openLine } from './line.ts'
import { until } from './until.ts'

export interface SlowLine {
  readonly port: number
  /** Bytes that went to the server. */
  readonly forwarded: number
  /** Waits until so many more bytes went to the server. */
  passed(bytes: number): Promise<void>
}

/** Starts it. @param bytesPerSecond  read anew for each piece, so that a line can become faster */
export async function startSlowLine(t: TestContext, target: number, bytesPerSecond: () => number): Promise<SlowLine> {
  let forwarded = 0
  const slowly = (onBytes: (bytes: number) => void): Transform =>
    new Transform({
      highWaterMark: 16_384,
      transform(chunk: Buffer, _, done) {
        void (async () => {
          const piece = 2_048
          for (let at = 0; at < chunk.length; at += piece) {
            const bytes = chunk.subarray(at, at + piece)
            await delay((bytes.length / bytesPerSecond()) * 1000)
            onBytes(bytes.length)
            this.push(bytes)
          }
          done()
        })()
      },
    })
  const port = await openLine(t, target, (client, upstream) => {
    const towards = slowly(bytes => {
      forwarded += bytes
    })
    client.pipe(towards).pipe(upstream)
    upstream.pipe(slowly(() => {})).pipe(client)
  })
  return {
    port,
    get forwarded() {
      return forwarded
    },
    async passed(bytes) {
      const wanted = forwarded + bytes
      await until('bytes on the line', 180_000, () => forwarded >= wanted)
    },
  }
}
