/** Bytes of stored objects as chunks to be sent. */
import { GatewayError } from '../../errors.ts'
import type { ReusingSource } from '../../services/retrieve.ts'

const chunkBytes = 512 * 1024

/** The bytes of a source from `start` to `end`, through two buffers in turn; at last an empty chunk, for `streamAnswer`. */
export async function* contentOf(
  source: ReusingSource,
  start = 0,
  end: number = source.sizeBytes,
): AsyncGenerator<Uint8Array> {
  const buffers: Buffer[] = []
  for (let at = start, turn = 0; at < end; turn ^= 1) {
    const length = Math.min(chunkBytes, end - at)
    // What is small is served from memory that is there already.
    if (end - start > 2 * chunkBytes) buffers[turn] ??= Buffer.allocUnsafeSlow(chunkBytes)
    const bytes = await source.read(at, length, buffers[turn])
    if (bytes.length === 0) throw new GatewayError('STORAGE_CORRUPT', 'a blob became shorter while it was read')
    yield bytes
    at += bytes.length
  }
  yield new Uint8Array(0)
}
