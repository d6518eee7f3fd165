/** Bodies as Orthanc reads them: JSON under any content type, since `curl -d` says that it is a form. */
import type { FastifyInstance } from 'fastify'
import { isObject } from '../../decode.ts'
import { GatewayError } from '../../errors.ts'

/** Has the routes of this scope get their bodies parsed, or as text where they are no JSON; undefined when empty. */
export function acceptAnyBody(scope: FastifyInstance): void {
  scope.removeAllContentTypeParsers()
  scope.addContentTypeParser('*', { parseAs: 'string' }, async (_request: unknown, raw: string | Buffer) => {
    const text = String(raw)
    if (text.trim() === '') return undefined
    try {
      return JSON.parse(text)
    } catch {
      return text
    }
  })
}

/** @throws GatewayError BAD_REQUEST for a body that is no JSON object; none counts as an empty one */
export function objectBody(body: unknown): Readonly<Record<string, unknown>> {
  const value = body ?? {}
  if (!isObject(value)) throw new GatewayError('BAD_REQUEST', 'expected a JSON object')
  return value
}
