/**
 * Viewers that are served from somewhere else (OHIF, a hospital's portal) read DICOMweb with the browser's permission:
 * the CORS protocol of the Fetch standard (3.2). Only origins of the configuration are let in, and only to DICOMweb and
 * WADO-URI: no page of another site ever calls our own API.
 */
import type { FastifyInstance, FastifyRequest } from 'fastify'

/** Whom and to what. */
export interface CorsOptions {
  /** Serialized origins, `https://viewer.example.org`. */
  readonly origins: readonly string[]
  /** Path of DICOMweb, without a slash at the end. */
  readonly path: string
}

/** What browsers may remember of an answer to a preflight request, in seconds. */
const preflightAgeSeconds = 600
const methods = 'GET, HEAD, POST, PUT, DELETE'
const requestHeaders = 'Accept, Authorization, Content-Type, If-None-Match, Range'
const answerHeaders =
  'Accept-Ranges, Content-Length, Content-Location, Content-Range, ETag, Link, Location, Retry-After, Warning'

/** Does a page of a listed origin ask for something of DICOMweb? */
export function isListedOrigin(request: FastifyRequest, { origins, path }: CorsOptions): boolean {
  const { origin } = request.headers
  if (origin === undefined || !origins.includes(origin)) return false
  const asked = request.url.split('?', 1)[0] ?? ''
  return asked === '/wado' || asked === path || asked.startsWith(`${path}/`)
}

/** Answers preflight requests and marks answers for listed origins; goes before authentication, which a preflight has none of. */
export function installCors(app: FastifyInstance, options: CorsOptions): void {
  if (options.origins.length === 0) return
  app.addHook('onRequest', async (request, reply) => {
    // A cache must not give one site the answer for another.
    reply.header('vary', 'Origin')
    if (!isListedOrigin(request, options)) return
    reply.header('access-control-allow-origin', request.headers.origin)
    reply.header('access-control-expose-headers', answerHeaders)
    reply.header('cross-origin-resource-policy', 'cross-origin')
    if (request.method !== 'OPTIONS' || request.headers['access-control-request-method'] === undefined) return
    reply.header('access-control-allow-methods', methods)
    reply.header('access-control-allow-headers', requestHeaders)
    reply.header('access-control-max-age', preflightAgeSeconds)
    return reply.code(204).send()
  })
}
