/** Streams stored bytes as they are, with single byte ranges (RFC 9110 §14) and an entity tag. */
import { Readable } from 'node:stream'
import type { FastifyReply, FastifyRequest } from 'fastify'
import type { OpenBlob } from '../store/blobs.ts'

/** Sends and closes a blob as `type` under `filename`; the answer to HEAD has no body. */
export async function sendFile(
  request: FastifyRequest,
  reply: FastifyReply,
  file: OpenBlob,
  options: { readonly sha256: string; readonly type: string; readonly filename: string },
): Promise<FastifyReply> {
  const etag = `"${options.sha256}"`
  reply.headers({
    etag,
    'accept-ranges': 'bytes',
    // Bytes under one URL change when a conflict is decided: caches must ask again.
    'cache-control': 'private, no-cache',
    'content-disposition': `attachment; filename="${options.filename}"`,
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
  const stream = Readable.from(file.stream({ start, end }))
  stream.once('close', () => void file.close())
  return reply.send(stream)
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
