/**
 * The HTTP listener: Orthanc-compatible reads, our own API, metrics. Limits come before routes; the
 * request log holds the route's pattern, never the query string, because searches carry patient data.
 */
import { randomUUID } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { createServer as createTlsServer } from 'node:https'
import Fastify, { type FastifyInstance, type FastifyRequest } from 'fastify'
import { GatewayError } from '../errors.ts'
import type { Log } from '../log.ts'
import { type AuthOptions, installAuth } from './auth.ts'
import { type CorsOptions, installCors } from './cors.ts'
import { type Metrics, metricsRoute } from './metrics.ts'
import { forgiveContentTypes } from './orthanc/lenient-scope.ts'
import { installProblems, problemSchema } from './problem.ts'
import { type HttpRefusal, limitRefusals } from './refusals.ts'
import { requestLine } from './request-line.ts'
import { securityHeaders } from './security-headers.ts'
import { installTextGuard } from './text-guard.ts'

export interface HttpServerOptions {
  readonly log: Log
  readonly auth: AuthOptions
  readonly metrics: Metrics
  /** Sites whose pages may use DICOMweb; absent: none. */
  readonly cors?: CorsOptions
  /** PEM files; without them the listener speaks plain HTTP. */
  readonly tls?: { readonly certificateFile: string; readonly keyFile: string }
  /** Called for refused callers, equal ones once a minute. */
  readonly onRefused?: (refusal: HttpRefusal) => void
  /** How long running requests may take to end after `close` (default 10 s). */
  readonly graceMs?: number
  /** Registers the routes. */
  readonly routes: (app: FastifyInstance) => Promise<void> | void
}

const jsonLimitBytes = 1024 * 1024
/** A JSON body must be complete by then; uploads are exempt (`config.upload`) and bounded by the idle timeout. */
const bodyDeadlineMs = 30_000
const idleTimeoutMs = 120_000
const headersTimeoutMs = 20_000
const keepAliveTimeoutMs = 75_000
const maxConnections = 1000
const defaultGraceMs = 10_000

declare module 'fastify' {
  interface FastifyContextConfig {
    /** The body is a stream of any length that the handler reads itself. */
    upload?: boolean
  }
}

/** Builds the server with its routes; the caller listens and closes. */
export async function buildHttpServer(options: HttpServerOptions): Promise<FastifyInstance> {
  const { log, metrics, tls } = options
  const app = Fastify({
    logger: false,
    genReqId: () => randomUUID(),
    bodyLimit: jsonLimitBytes,
    forceCloseConnections: 'idle',
    return503OnClosing: true,
    trustProxy: false,
    rewriteUrl: requestLine,
    ajv: { customOptions: { removeAdditional: false, allErrors: true, coerceTypes: 'array' } },
    serverFactory: handler => {
      const server = tls ? createTlsServer(tlsOptions(tls), handler) : createServer(handler)
      server.headersTimeout = headersTimeoutMs
      // Expectations that are not understood may be ignored (RFC 9110 §10.1.1); some clients send an empty one.
      server.on('checkExpectation', handler)
      // Uploads take as long as they take: the idle timeout ends what stalls.
      server.requestTimeout = 0
      server.keepAliveTimeout = keepAliveTimeoutMs
      server.maxConnections = maxConnections
      server.setTimeout(idleTimeoutMs)
      return server
    },
  })

  app.addSchema(problemSchema)
  installProblems(app, log, options.onRefused && limitRefusals<Omit<HttpRefusal, 'repeats'>>(options.onRefused))
  installRequestLog(app, log, metrics)
  app.addHook('onRequest', async (_, reply) => void reply.headers(securityHeaders))
  forgiveContentTypes(app)
  if (options.cors) installCors(app, options.cors)
  installAuth(app, options.auth, options.cors)
  installBodyDeadline(app)
  installTextGuard(app)
  metricsRoute(app, metrics)
  app.addHook('preClose', async () => {
    // Idle connections end at once; a stuck one must not hold the shutdown.
    setTimeout(() => app.server.closeAllConnections(), options.graceMs ?? defaultGraceMs).unref()
  })
  await app.register(async scope => options.routes(scope))
  return app
}

const tlsOptions = (tls: { certificateFile: string; keyFile: string }) => ({
  cert: readFileSync(tls.certificateFile),
  key: readFileSync(tls.keyFile),
  minVersion: 'TLSv1.2' as const,
})

function installRequestLog(app: FastifyInstance, log: Log, metrics: Metrics): void {
  const finished = (request: FastifyRequest, status: number, milliseconds: number): void => {
    const route = request.routeOptions.url ?? 'unknown'
    metrics.request(route, request.method, status, milliseconds / 1000)
    // Health checks come every few seconds: they would bury what matters.
    const level = request.routeOptions.config.open ? 'debug' : 'info'
    log[level](
      {
        requestId: request.id,
        method: request.method,
        route,
        status,
        durationMs: Math.round(milliseconds),
        principal: request.principal.id,
      },
      'request',
    )
  }
  app.addHook('onResponse', async (request, reply) => finished(request, reply.statusCode, reply.elapsedTime))
  app.addHook('onRequestAbort', async request => {
    log.debug({ requestId: request.id, route: request.routeOptions.url ?? 'unknown' }, 'client went away')
  })
}

function installBodyDeadline(app: FastifyInstance): void {
  app.addHook('preParsing', async (request, reply, payload) => {
    if (request.routeOptions.config.upload) return payload
    const timer = setTimeout(
      () => payload.destroy(new GatewayError('BAD_REQUEST', 'the request body took too long')),
      bodyDeadlineMs,
    )
    // A body that nobody reads ends with its answer.
    for (const [source, event] of [
      [payload, 'end'],
      [payload, 'close'],
      [reply.raw, 'close'],
      [reply.raw, 'finish'],
    ] as const) {
      source.once(event, () => clearTimeout(timer))
    }
    return payload
  })
}
