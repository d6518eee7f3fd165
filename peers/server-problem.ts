/** Errors of the federation listener as problem documents (RFC 9457). */
import type { FastifyReply } from 'fastify'
import { type ErrorCode, GatewayError, outwardMessage } from '../gateway/errors.ts'

/** Seconds after which a request that failed for now may be repeated. */
const retryAfterSeconds: Partial<Record<ErrorCode, number>> = {
  TOO_MANY_REQUESTS: 10,
  UNAVAILABLE: 1,
  DATABASE_UNAVAILABLE: 5,
  STORAGE_FULL: 60,
  STORAGE_IO: 30,
}

/** The error as what may leave: our own as it is, anything else as an internal error without detail. */
export function toGatewayError(error: unknown): GatewayError {
  if (error instanceof GatewayError) return error
  const status = error instanceof Error && 'statusCode' in error ? error.statusCode : undefined
  if (status === 413) return new GatewayError('TOO_LARGE', 'the body is larger than this verb takes', { cause: error })
  if (typeof status === 'number' && status >= 400 && status < 500) {
    return new GatewayError('BAD_REQUEST', 'the request cannot be read', { cause: error })
  }
  return new GatewayError('UNAVAILABLE', 'internal error', { cause: error })
}

/** Sends the problem document, with the signed refusal where there is one. */
export function sendProblem(reply: FastifyReply, error: GatewayError, receipt?: Uint8Array): FastifyReply {
  const { http } = error.meaning
  const retryAfter = retryAfterSeconds[error.code]
  if (retryAfter !== undefined) reply.header('retry-after', retryAfter)
  return reply
    .status(http)
    .type('application/problem+json')
    .send(
      JSON.stringify({
        type: `urn:hanse:error:${error.code}`,
        title: error.code,
        status: http,
        detail: outwardMessage(error),
        code: error.code,
        receipt: receipt && new TextDecoder().decode(receipt),
      }),
    )
}
