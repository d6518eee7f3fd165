/** A stream's chunks, several at a time: what comes while the last ones are being written waits together. */
import type { Readable } from 'node:stream'

/**
 * Reads a stream in groups of chunks. Each group is what has come since the last one was taken; nothing is read while
 * `mostBytes` wait. A stream that is left before its end is paused and not destroyed, so that it can be answered.
 *
 * @throws the stream's error, or Error when it is closed before its end
 */
export async function* gather(source: Readable, mostBytes: number): AsyncGenerator<readonly Uint8Array[], void, void> {
  let waiting: Uint8Array[] = []
  let bytes = 0
  let end: { readonly error?: unknown } | undefined
  let wake = Promise.withResolvers<void>()
  const onData = (chunk: Uint8Array): void => {
    waiting.push(chunk)
    bytes += chunk.length
    if (bytes >= mostBytes) source.pause()
    wake.resolve()
  }
  const onEnd = (): void => finish({})
  const onError = (error: unknown): void => finish({ error })
  const onClose = (): void => finish({ error: new Error('the stream broke off') })
  const finish = (how: { readonly error?: unknown }): void => {
    end ??= how
    wake.resolve()
  }
  if (source.errored) onError(source.errored)
  else if (source.readableEnded) onEnd()
  else if (source.destroyed) onClose()
  source.on('data', onData).once('end', onEnd).once('error', onError).once('close', onClose)
  try {
    for (;;) {
      await wake.promise
      wake = Promise.withResolvers()
      if (waiting.length > 0) {
        const group = waiting
        waiting = []
        bytes = 0
        source.resume()
        yield group
      } else if (end) {
        if (end.error !== undefined) throw end.error
        return
      }
      if (waiting.length > 0 || end) wake.resolve()
    }
  } finally {
    source.off('data', onData).off('end', onEnd).off('error', onError).off('close', onClose)
    source.pause()
  }
}
