/** Notices a server that neither answers nor breaks: whoever waits for it would wait for ever. */
import { setTimeout as delay } from 'node:timers/promises'
import { GatewayError } from '../gateway/errors.ts'

export interface StallWatch {
  /** Something has moved. */
  moved(): void
  /** Waits for something that is meant to take its time. */
  during<T>(wait: Promise<T>): Promise<T>
  /** Rejects when nothing has moved for too long. @throws GatewayError ENDPOINT_UNREACHABLE */
  readonly stalled: Promise<never>
  end(): void
}

/** Begins to watch. */
export function watchStall(stallMs: number): StallWatch {
  const ended = new AbortController()
  const { promise: stalled, reject } = Promise.withResolvers<never>()
  let [last, waiting] = [performance.now(), 0]
  const moved = (): void => {
    last = performance.now()
  }
  const watch = async (): Promise<void> => {
    for (;;) {
      await delay(stallMs / 4, undefined, { signal: ended.signal, ref: false })
      if (waiting === 0 && performance.now() - last > stallMs) break
    }
    const seconds = Math.round(stallMs / 1000)
    reject(new GatewayError('ENDPOINT_UNREACHABLE', `the endpoint neither answered nor took anything for ${seconds} s`))
  }
  watch().catch(() => {}) // ended
  stalled.catch(() => {}) // who waits for it learns it
  return {
    moved,
    stalled,
    async during(wait) {
      waiting += 1
      try {
        return await wait
      } finally {
        waiting -= 1
        moved()
      }
    },
    end: () => ended.abort(),
  }
}
