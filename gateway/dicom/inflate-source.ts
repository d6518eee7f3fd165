/** A deflated data set as bytes that can be read forward (PS3.5 §A.5). */
import { Readable } from 'node:stream'
import { createInflateRaw } from 'node:zlib'
import { GatewayError } from '../errors.ts'
import type { ByteSource } from './byte-source.ts'

/** A source that must be closed: its inflater holds native memory. */
export interface InflateSource extends ByteSource, AsyncDisposable {}

const inputBytes = 65_536

/**
 * The inflated bytes of `source` from `offset` on; offset 0 is the first inflated byte. Reads must not go
 * back before the offset of the read before. Memory is bounded by the largest read, whatever the ratio.
 *
 * @throws GatewayError from `read`: DICOM_UNREADABLE when the stream is corrupt, DICOM_LIMIT beyond `maxBytes`
 */
export function inflateSource(source: ByteSource, offset: number, maxBytes: number): InflateSource {
  const inflater = createInflateRaw({ chunkSize: inputBytes })
  const input = Readable.from(chunksOf(source, offset), { objectMode: false, highWaterMark: inputBytes })
  input.on('error', error => inflater.destroy(error))
  inflater.on('error', () => input.destroy())
  input.pipe(inflater)
  const output = inflater[Symbol.asyncIterator]()
  let held: Uint8Array = new Uint8Array(0)
  let heldFrom = 0
  let isAtEnd = false

  const pull = async (): Promise<Uint8Array> => {
    try {
      const next: IteratorResult<unknown> = await output.next()
      if (next.value instanceof Uint8Array) return next.value
      isAtEnd = true
      return new Uint8Array(0)
    } catch (cause) {
      if (cause instanceof GatewayError) throw cause
      throw new GatewayError('DICOM_UNREADABLE', 'cannot read DICOM: deflated data set does not inflate', { cause })
    }
  }

  return {
    sizeBytes: Number.POSITIVE_INFINITY,
    async read(from, length) {
      if (from < heldFrom) throw new RangeError('an inflated data set is read forward only')
      while (heldFrom + held.length < from && !isAtEnd) {
        heldFrom += held.length
        held = await pull()
        checkBound(heldFrom + held.length, maxBytes)
      }
      const passed = Math.min(held.length, from - heldFrom)
      heldFrom += passed
      const parts = [held.subarray(passed)]
      let total = held.length - passed
      while (total < length && !isAtEnd) {
        const part = await pull()
        parts.push(part)
        total += part.length
        checkBound(heldFrom + total, maxBytes)
      }
      held = parts.length === 1 ? held.subarray(passed) : Buffer.concat(parts)
      return held.subarray(0, length)
    },
    async [Symbol.asyncDispose]() {
      input.destroy()
      inflater.destroy()
    },
  }
}

function checkBound(inflatedBytes: number, maxBytes: number): void {
  if (inflatedBytes <= maxBytes) return
  throw new GatewayError('DICOM_LIMIT', 'deflated data set is larger than allowed', { context: { maxBytes } })
}

async function* chunksOf(source: ByteSource, offset: number): AsyncGenerator<Uint8Array> {
  for (let at = offset; ; ) {
    const bytes = await source.read(at, inputBytes)
    if (bytes.length === 0) return
    yield bytes
    at += bytes.length
  }
}
