/** Streams stored bytes as they are, with single byte ranges (RFC 9110 §14) and an entity tag. */
import type { OutgoingHttpHeader, ServerResponse } from 'node:http'
import type { FastifyReply, FastifyRequest } from 'fastify'
import { GatewayError } from '../errors.ts'
import { readAtOnceBytes } from '../services/file-cache.ts'
import type { OpenBlob } from '../store/blobs.ts'

const chunkBytes = 256 * 1024

/** Sends and closes a blob as `type` under `filename`, to be saved unless it `isShown`; the answer to HEAD has no body. */
export async function sendFile(
  request: FastifyRequest,
  reply: FastifyReply,
  file: OpenBlob,
  options: { readonly sha256: string; readonly type: string; readonly filename: string; readonly isShown?: boolean },
): Promise<FastifyReply> {
  const etag = `"${options.sha256}"`
  reply.headers({
    etag,
    'accept-ranges': 'bytes',
    // Bytes under one URL change when a conflict is decided: caches must ask again.
    'cache-control': 'private, no-cache',
    'content-disposition': `${options.isShown ? 'inline' : 'attachment'}; filename="${options.filename}"`,
  })
  if (request.headers['if-none-match'] === etag) {
    await file.close()
    return reply.code(304).send()
  }
  const usable = request.headers['if-range'] === undefined || request.headers['if-range'] === etag
  const range = usable ? parseRange(request.headers.range, file.sizeBytes) : undefined
  if (range === 'unsatisfiable') {
    await file.close()
    return reply.code(416).header('content-range', `bytes */${file.sizeBytes}`).send()
  }
  const { start, end } = range ?? { start: 0, end: file.sizeBytes }
  if (range) reply.code(206).header('content-range', `bytes ${start}-${end - 1}/${file.sizeBytes}`)
  reply.type(options.type).header('content-length', end - start)
  if (request.method === 'HEAD' || end === start) {
    await file.close()
    return reply.send()
  }
  const response = begun(reply)
  try {
    await writeRange(response, file, { start, end })
  } catch (error) {
    // Half of a body cannot become a problem document: the client sees it end too early.
    response.destroy()
    throw error
  } finally {
    await file.close()
  }
  return reply
}

/** Sends bytes whose memory is the caller's again when this resolves. */
export async function sendBytes(reply: FastifyReply, type: string, bytes: Uint8Array): Promise<FastifyReply> {
  reply.type(type).header('content-length', bytes.length)
  await endWith(begun(reply), bytes)
  return reply
}

/** The answer with its status line and headers, which are as they will be sent, for who writes the body. */
export function begun(reply: FastifyReply): ServerResponse {
  reply.hijack()
  const headers: Record<string, OutgoingHttpHeader | undefined> = reply.getHeaders()
  return reply.raw.writeHead(reply.statusCode, headers)
}

/** The answer with its status and headers set, for who adds to them. */
export function hijacked(reply: FastifyReply): ServerResponse {
  reply.hijack()
  const { raw } = reply
  raw.statusCode = reply.statusCode
  for (const [name, value] of Object.entries(reply.getHeaders())) {
    if (value !== undefined) raw.setHeader(name, value)
  }
  return raw
}

/**
 * Writes bytes through two buffers in turn, one being read into while the connection takes the other. A stream would
 * allocate each chunk: a large object then costs 100 MB of memory until the collector comes round.
 */
async function writeRange(
  response: ServerResponse,
  file: OpenBlob,
  { start, end }: { readonly start: number; readonly end: number },
): Promise<void> {
  if (end - start <= readAtOnceBytes) {
    await endWith(response, await file.read(start, end - start))
    return
  }
  const size = Math.min(chunkBytes, end - start)
  let [next, other] = [Buffer.allocUnsafe(size), Buffer.allocUnsafe(end - start > size ? size : 0)]
  let writing: Promise<boolean> = Promise.resolve(true)
  for (let at = start; at < end; ) {
    const bytes = await file.read(at, Math.min(size, end - at), next)
    if (bytes.length === 0) throw new GatewayError('STORAGE_CORRUPT', 'a blob became shorter while it was read')
    if (!(await writing)) return
    writing = write(response, bytes)
    at += bytes.length
    ;[next, other] = [other, next]
  }
  if (await writing) response.end()
}

/** Resolves when the bytes' memory may be used again; false when the client has gone. */
export async function write(response: ServerResponse, bytes: Uint8Array): Promise<boolean> {
  if (response.destroyed) return false
  const { promise, resolve } = Promise.withResolvers<boolean>()
  const gone = (): void => resolve(false)
  response.once('close', gone)
  response.write(bytes, error => resolve(!error))
  const isTaken = await promise
  response.off('close', gone)
  return isTaken
}

/** Ends an answer; resolves when the bytes' memory may be used again. */
async function endWith(response: ServerResponse, bytes: Uint8Array): Promise<void> {
  if (response.destroyed) return
  const { promise, resolve } = Promise.withResolvers<void>()
  response.once('close', resolve)
  response.end(bytes, resolve)
  await promise
}

/** One range as half-open interval; several ranges, or another unit, are answered with everything. */
export function parseRange(
  header: string | undefined,
  sizeBytes: number,
): { start: number; end: number } | 'unsatisfiable' | undefined {
  const match = /^bytes=(\d{0,15})-(\d{0,15})$/.exec(header?.trim() ?? '')
  if (!match) return undefined
  const [, first = '', last = ''] = match
  if (first === '' && last === '') return undefined
  if (first === '') {
    const length = Math.min(Number(last), sizeBytes)
    return length === 0 ? 'unsatisfiable' : { start: sizeBytes - length, end: sizeBytes }
  }
  const start = Number(first)
  if (last !== '' && Number(last) < start) return undefined
  if (start >= sizeBytes) return 'unsatisfiable'
  return { start, end: last === '' ? sizeBytes : Math.min(Number(last) + 1, sizeBytes) }
}
