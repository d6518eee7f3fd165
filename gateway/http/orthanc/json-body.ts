/** Orthanc's clients send JSON under any content type: `curl -d` says it is a form. */
import type { FastifyInstance } from 'fastify'
import { GatewayError } from '../../errors.ts'

/** Lets the routes of this scope read every body as JSON; an empty one is `undefined`. */
export function readAnyBodyAsJson(scope: FastifyInstance): void {
  scope.removeAllContentTypeParsers()
  scope.addContentTypeParser('*', { parseAs: 'string' }, async (_request: unknown, body: string | Buffer) =>
    parse(String(body)),
  )
}

function parse(body: string): unknown {
  if (body.trim() === '') return undefined
  try {
    return JSON.parse(body)
  } catch {
    throw new GatewayError('BAD_REQUEST', 'expected JSON')
  }
}
