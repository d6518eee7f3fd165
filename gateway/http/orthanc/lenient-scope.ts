/**
 * A scope for Orthanc's routes with a body: its clients send JSON, numbers and plain text under any content type
 * (`curl -d` says that it is a form), so a body is text until its route reads it.
 */
import type { FastifyInstance } from 'fastify'
import { isObject } from '../../decode.ts'
import { GatewayError } from '../../errors.ts'

/** Registers routes whose `request.body` is the text that was sent, whatever its content type. */
export function lenientScope(app: FastifyInstance, routes: (scope: FastifyInstance) => void): void {
  app.register(async scope => {
    scope.removeAllContentTypeParsers()
    scope.addContentTypeParser('*', { parseAs: 'string' }, async (_request: unknown, body: string | Buffer) =>
      String(body),
    )
    routes(scope)
  })
}

/** Has content types that are no media types (RFC 9110 §8.3.1) taken for bytes, in what is registered from here on. */
export function forgiveContentTypes(app: FastifyInstance): void {
  app.addHook('onRequest', async ({ headers }) => {
    const type = headers['content-type']
    if (type !== undefined && !/^\s*[\w!#$%&'*+.^`|~-]+\/[\w!#$%&'*+.^`|~-]+/.test(type)) {
      headers['content-type'] = 'application/octet-stream'
    }
  })
}

/** The body's text; '' where there is none. */
export function textBody(body: unknown): string {
  return typeof body === 'string' ? body : ''
}

/** The JSON object in a body. @throws GatewayError BAD_REQUEST */
export function objectBody(body: unknown): Readonly<Record<string, unknown>> {
  const parsed = parse(textBody(body))
  if (!isObject(parsed) || Array.isArray(parsed)) {
    throw new GatewayError('BAD_REQUEST', 'the body must contain a JSON object')
  }
  return parsed
}

/** A boolean as Orthanc writes it: 0, 1, false, true. @throws GatewayError BAD_REQUEST */
export function booleanBody(body: unknown): boolean {
  const text = textBody(body).trim()
  if (text === '1' || text === 'true') return true
  if (text === '0' || text === 'false') return false
  throw new GatewayError('BAD_REQUEST', 'expected a boolean: 0 or 1')
}

/** The JSON in a body. @throws GatewayError BAD_REQUEST */
export function jsonBody(body: unknown): unknown {
  return parse(textBody(body))
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    throw new GatewayError('BAD_REQUEST', 'expected JSON')
  }
}

/** True where a query asks for something by naming it: `?expand`, `?expand=true`, but not `?expand=false`. */
export function isAsked(value: string | undefined): boolean {
  return value !== undefined && value !== 'false' && value !== '0'
}
