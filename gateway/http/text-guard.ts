/** Refuses text that PostgreSQL cannot hold, wherever in a request it stands: it would end as an error of ours. */
import { Readable } from 'node:stream'
import type { FastifyInstance } from 'fastify'
import { GatewayError } from '../errors.ts'

/** Installs the check of path, query and JSON body for every route. */
export function installTextGuard(app: FastifyInstance): void {
  app.addHook('preValidation', async request => {
    const { body } = request
    // A body that its handler reads itself is a stream: an object without end to whoever walks through it.
    const isStream = request.routeOptions.config.upload === true || body instanceof Readable
    for (const part of [request.params, request.query, isStream ? undefined : body]) {
      if (!isStorable(part))
        throw new GatewayError('BAD_REQUEST', 'expected text of whole Unicode characters without U+0000')
    }
  })
}

/** JSON bodies are at most 1 MiB, but may be nested as deep as they are long: no recursion. */
function isStorable(value: unknown): boolean {
  const rest: unknown[] = [value]
  while (rest.length > 0) {
    const next = rest.pop()
    if (typeof next === 'string') {
      if (next.includes('\0') || !next.isWellFormed()) return false
    } else if (typeof next === 'object' && next !== null && !Buffer.isBuffer(next)) {
      for (const [key, inner] of Object.entries(next)) rest.push(key, inner)
    }
  }
  return true
}
