/**
 * Errors as RFC 9457 problem documents. One place maps codes to the wire. An unknown error is a 500
 * with an id and no detail; the id leads to the one log line that holds the cause.
 */
import type { FastifyError, FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { type ErrorCode, errorLine, errorTable, isGatewayError, outwardMessage } from '../errors.ts'
import type { Log } from '../log.ts'
import { watchMethods } from './allowed-methods.ts'
import { isOwnRoute } from './auth.ts'
import { drain } from './drain.ts'
import type { HttpRefusal } from './refusals.ts'
import { orthancPath } from './request-line.ts'

/** The body of every error response, media type `application/problem+json`. */
export interface ProblemDocument {
  /** `urn:hanse:error:<CODE>`; `about:blank` for an unknown error. */
  readonly type: string
  readonly title: string
  readonly status: number
  /** What was expected and what was seen; never patient data. */
  readonly detail?: string
  /** `urn:uuid:<request id>`, also in the log. */
  readonly instance: string
  /** Stable code of gateway/errors.ts. */
  readonly code?: ErrorCode
  /** Where a validated body or query was wrong. */
  readonly errors?: readonly { readonly path: string; readonly message: string }[]
}

/** JSON Schema of a problem document, for the OpenAPI document. */
export const problemSchema = {
  $id: 'Problem',
  type: 'object',
  description: 'RFC 9457 problem document',
  required: ['type', 'title', 'status', 'instance'],
  properties: {
    type: { type: 'string' },
    title: { type: 'string' },
    status: { type: 'integer' },
    detail: { type: 'string' },
    instance: { type: 'string' },
    code: { type: 'string' },
    errors: {
      type: 'array',
      items: { type: 'object', properties: { path: { type: 'string' }, message: { type: 'string' } } },
    },
  },
} as const

const retryAfterSeconds = 5
const bearer = 'Bearer realm="hanse"'

/** Installs the error and not-found handlers on the root instance. */
export function installProblems(
  app: FastifyInstance,
  log: Log,
  onRefused: ((refusal: Omit<HttpRefusal, 'repeats'>) => void) | undefined,
): void {
  app.setErrorHandler(async (error: FastifyError, request, reply) => {
    const { problem, cause } = toProblem(error, request.id)
    if (problem.status >= 500) {
      log.error({ requestId: request.id, status: problem.status, error: errorLine(cause) }, 'request failed')
    }
    // What a role does not permit is on record by the one who decided it.
    const isRecorded = isGatewayError(cause) && cause.context['action'] !== undefined
    if (problem.code === 'UNAUTHENTICATED' || (problem.code === 'FORBIDDEN' && !isRecorded)) {
      const address = request.socket.remoteAddress ?? ''
      onRefused?.({ code: problem.code, address, route: request.routeOptions.url ?? 'unknown' })
    }
    // Many clients send their credentials only when they are asked to, and read that only after they have sent all.
    if (problem.status === 401) await drain(request.raw)
    return sendProblem(request, reply, problem)
  })
  const methodsOf = watchMethods(app)
  app.setNotFoundHandler((request, reply) => {
    const allowed = methodsOf(request.url.split('?', 1)[0] ?? '')
    if (allowed.length === 0) return sendProblem(request, reply, ofCode('NOT_FOUND', 'no such resource', request.id))
    reply.header('allow', allowed.join(', '))
    if (isOrthancRoute(request)) return reply.code(405).send() // as Orthanc has it, without a body
    const expected = `expected one of the methods ${allowed.join(', ')}`
    return sendProblem(request, reply, ofStatus(405, expected, request.id))
  })
}

/** Sends a problem document; the connection is closed where the request's body was left unread. */
export function sendProblem(request: FastifyRequest, reply: FastifyReply, problem: ProblemDocument): FastifyReply {
  // RFC 9110 §11.6.1; clients that present passwords only do so where they are asked for one.
  if (problem.status === 401) {
    reply.header('www-authenticate', isOwnRoute(request) ? bearer : `Basic realm="hanse", charset="UTF-8", ${bearer}`)
  }
  if (problem.code && errorTable[problem.code].retry === 'yes') reply.header('retry-after', retryAfterSeconds)
  if (!request.raw.complete) reply.header('connection', 'close')
  const body = isOrthancRoute(request) ? { ...problem, ...orthancFields(request, problem) } : problem
  return reply.code(problem.status).type('application/problem+json').send(JSON.stringify(body))
}

const isOrthancRoute = ({ url }: FastifyRequest): boolean => orthancPath.test(url)

/** Orthanc's numbers for kinds of errors, by HTTP status; its clients look at them. */
const orthancStatus: Readonly<Record<number, number>> = { 400: 8, 401: 31, 403: 9, 404: 17, 409: 43, 500: -1 }

/** What Orthanc's error bodies hold, so that its clients find it; the path without its query, which may name patients. */
function orthancFields({ method, url }: FastifyRequest, { status, title, detail }: ProblemDocument): object {
  return {
    ...(detail !== undefined && { Details: detail }),
    HttpError: title,
    HttpStatus: status,
    Message: detail ?? title,
    Method: method,
    OrthancError: title,
    OrthancStatus: orthancStatus[status] ?? -1,
    Uri: url.split('?', 1)[0] ?? '',
  }
}

/** The document for an error of any kind, and what is worth logging of it. */
export function toProblem(error: unknown, requestId: string): { problem: ProblemDocument; cause: unknown } {
  if (isGatewayError(error)) return { problem: ofCode(error.code, outwardMessage(error), requestId), cause: error }
  if (isFastifyError(error)) {
    if (error.validation) {
      const errors = error.validation.map(found => ({
        path: `${error.validationContext ?? 'body'}${found.instancePath.replaceAll('/', '.')}`,
        message: found.message ?? 'invalid',
      }))
      return {
        problem: { ...ofCode('BAD_REQUEST', 'the request is not of the documented form', requestId), errors },
        cause: error,
      }
    }
    const status = error.statusCode ?? 500
    if (status < 500) return { problem: ofStatus(status, error.message, requestId), cause: error }
    if (status === 503) return { problem: ofCode('UNAVAILABLE', 'the gateway is stopping', requestId), cause: error }
  }
  const problem = {
    type: 'about:blank',
    title: 'Internal Server Error',
    status: 500,
    instance: `urn:uuid:${requestId}`,
  }
  return { problem, cause: error }
}

const titles: Readonly<Record<number, string>> = {
  400: 'Bad Request',
  401: 'Unauthorized',
  403: 'Forbidden',
  404: 'Not Found',
  405: 'Method Not Allowed',
  406: 'Not Acceptable',
  408: 'Request Timeout',
  409: 'Conflict',
  410: 'Gone',
  413: 'Content Too Large',
  415: 'Unsupported Media Type',
  416: 'Range Not Satisfiable',
  422: 'Unprocessable Content',
  429: 'Too Many Requests',
  500: 'Internal Server Error',
  502: 'Bad Gateway',
  503: 'Service Unavailable',
  507: 'Insufficient Storage',
}

const codeOfStatus: Readonly<Record<number, ErrorCode>> = {
  401: 'UNAUTHENTICATED',
  403: 'FORBIDDEN',
  404: 'NOT_FOUND',
  413: 'TOO_LARGE',
  429: 'TOO_MANY_REQUESTS',
}

function ofCode(code: ErrorCode, detail: string, requestId: string): ProblemDocument {
  return { ...ofStatus(errorTable[code].http, detail, requestId), type: `urn:hanse:error:${code}`, code }
}

function ofStatus(status: number, detail: string, requestId: string): ProblemDocument {
  const code = codeOfStatus[status] ?? 'BAD_REQUEST'
  return {
    type: `urn:hanse:error:${code}`,
    title: titles[status] ?? 'Error',
    status,
    detail,
    instance: `urn:uuid:${requestId}`,
    code,
  }
}

function isFastifyError(error: unknown): error is FastifyError {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' && error.code.startsWith('FST_')
}
