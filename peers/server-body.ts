/** Reads request bodies of the federation listener: bounded, without copies in between, digested on the way. */
import { createHash } from 'node:crypto'
import type { IncomingMessage } from 'node:http'
import { GatewayError } from '../gateway/errors.ts'

/** The announced length of a body; chunked bodies announce none and are not taken. */
export function announcedBytes(request: IncomingMessage): number | undefined {
  const header = request.headers['content-length']
  return header !== undefined && /^\d{1,15}$/.test(header) ? Number(header) : undefined
}

/** A small body as a whole. @throws GatewayError TOO_LARGE, BAD_REQUEST */
export async function readBody(request: IncomingMessage, maxBytes: number): Promise<Uint8Array> {
  const bytes = announcedBytes(request)
  if (bytes === undefined) throw new GatewayError('BAD_REQUEST', 'expected a Content-Length')
  if (bytes > maxBytes) throw new GatewayError('TOO_LARGE', `expected at most ${maxBytes} bytes, got ${bytes}`)
  const body = Buffer.allocUnsafe(bytes)
  await readInto(request, body)
  return body
}

/**
 * Fills `target` with the body, which must have exactly its length.
 *
 * @returns SHA-256 of the body
 * @throws GatewayError BAD_REQUEST when the sender goes away in the middle
 */
export async function readInto(request: IncomingMessage, target: Uint8Array): Promise<Buffer> {
  const { promise, resolve, reject } = Promise.withResolvers<void>()
  const hash = createHash('sha256')
  let filled = 0
  const onEnd = (): void => {
    if (filled === target.length) resolve()
    else reject(new GatewayError('BAD_REQUEST', 'the body does not have its announced length'))
  }
  // 'data' rather than an async iterator: TLS delivers 16 KiB at a time, and each turn of it counts.
  const onData = (chunk: Buffer): void => {
    filled += chunk.length
    if (filled > target.length) {
      onEnd()
      return
    }
    target.set(chunk, filled - chunk.length)
    hash.update(chunk)
  }
  if (request.destroyed) onEnd() // gone while it waited for its turn: no event will tell
  request.on('data', onData).once('end', onEnd).once('error', onEnd).once('close', onEnd)
  try {
    await promise
    return hash.digest()
  } finally {
    request.off('data', onData).off('end', onEnd).off('error', onEnd).off('close', onEnd)
  }
}

/** The SHA-256 of a Content-Digest field (RFC 9530 §2); undefined when it holds none. */
export function contentDigest(header: string | string[] | undefined): Buffer | undefined {
  const text = Array.isArray(header) ? header.join(',') : (header ?? '')
  const match = /(?:^|,)\s*sha-256=:([A-Za-z0-9+/]{43}=):\s*(?:,|$)/.exec(text)
  return match?.[1] === undefined ? undefined : Buffer.from(match[1], 'base64')
}

/** The field for a digest. */
export function formatContentDigest(sha256: Uint8Array): string {
  return `sha-256=:${Buffer.from(sha256).toString('base64')}:`
}

/** Buffers of one size, used again, because large ones are costly to allocate and slow to be collected. */
export interface BufferPool {
  take(): Buffer
  give(buffer: Buffer): void
}

/** Keeps up to `most` free buffers of `bytes`. */
export function createBufferPool(bytes: number, most: number): BufferPool {
  const free: Buffer[] = []
  return {
    take: () => free.pop() ?? Buffer.allocUnsafeSlow(bytes),
    give: buffer => {
      if (free.length < most) free.push(buffer)
    },
  }
}
