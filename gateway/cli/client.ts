/** Talks to a running gateway over its HTTP API. */
import { existsSync, readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { checkConfig } from '../config.ts'
import { isObject } from '../decode.ts'
import type { Args, Io } from './command.ts'
import { UsageError } from './command.ts'

/** The gateway was not found or does not answer. */
export class UnreachableError extends Error {
  constructor(message: string, options?: ErrorOptions) {
    super(message, options)
    this.name = 'UnreachableError'
  }
}

/** The gateway answered with a problem document. */
export class ProblemError extends Error {
  readonly status: number
  readonly code: string | undefined

  constructor(message: string, status: number, code: string | undefined) {
    super(message)
    this.name = 'ProblemError'
    this.status = status
    this.code = code
  }
}

export interface Client {
  readonly url: string
  /** JSON of `/api/v1<path>`; undefined for an empty answer. @throws UnreachableError, ProblemError */
  call(method: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE', path: string, body?: unknown): Promise<unknown>
  /** What `/api/v1<path>` answers, where it is no JSON: a table, a page. @throws UnreachableError, ProblemError */
  text(path: string): Promise<string>
  /** Stores an instance; the JSON of the answer. @throws UnreachableError, ProblemError */
  upload(bytes: AsyncIterable<Uint8Array>): Promise<unknown>
}

/** Where a gateway on a data directory says how to reach it. */
export const listenersFile = (data: string): string => join(data, 'run/listeners.json')
/** The administrator token of the gateway on a data directory. */
export const adminTokenFile = (data: string): string => join(data, 'run/admin-token')

/**
 * Opens a client by `--url`, HANSE_URL, or the listeners file of the data directory.
 *
 * @throws UnreachableError when no gateway is known; UsageError
 */
export function openClient(args: Args, io: Io): Client {
  const data = dataDirectory(args, io)
  const named = args.text('url') ?? io.env['HANSE_URL']
  const url = named ?? findUrl(data)
  if (url === undefined) {
    throw new UnreachableError(
      `no gateway runs on ${data}: start one with "hanse start", or name it with --url or --data`,
    )
  }
  if (!URL.canParse(url)) throw new UsageError(`--url: expected a URL, got "${url}"`)
  // The administrator token of this data directory is for the gateway that runs on it, nobody else.
  const token = readToken(args, io, named === undefined ? adminTokenFile(data) : undefined)
  const base = url.replace(/\/$/, '')
  return {
    url: base,
    call: (method, path, body) =>
      send({ base, path: `/api/v1${path}`, token, signal: io.signal }, method, {
        ...(body !== undefined && {
          body: JSON.stringify(body),
          headers: { 'content-type': 'application/json' },
        }),
      }),
    text: async path => {
      const { response, text } = await ask({ base, path: `/api/v1${path}`, token, signal: io.signal }, 'GET', {})
      if (!response.ok) throw problem(response.status, parseJson(text, base), base)
      return text
    },
    upload: bytes =>
      send({ base, path: '/instances', token, signal: io.signal }, 'POST', {
        body: ReadableStream.from(bytes),
        duplex: 'half',
        headers: { 'content-type': 'application/dicom' },
      }),
  }
}

/** The data directory that the arguments, the environment and the configuration file name. */
export function dataDirectory(args: Args, io: Io): string {
  const [file, data] = [args.text('config'), args.text('data')]
  const result = checkConfig({
    env: io.env,
    cwd: io.cwd,
    ...(file !== undefined && { file }),
    ...(data !== undefined && { data }),
  })
  if (result.ok) return result.value.config.data
  return resolve(io.cwd, data ?? io.env['HANSE_DATA'] ?? './data')
}

function findUrl(data: string): string | undefined {
  try {
    const listeners: unknown = JSON.parse(readFileSync(listenersFile(data), 'utf8'))
    const http = isObject(listeners) ? listeners['http'] : undefined
    return isObject(http) && typeof http['url'] === 'string' ? http['url'] : undefined
  } catch {
    return undefined
  }
}

function readToken(args: Args, io: Io, usual: string | undefined): string | undefined {
  const named = args.text('token-file') ?? io.env['HANSE_TOKEN_FILE']
  const file = named === undefined ? usual : resolve(io.cwd, named)
  if (file === undefined || (named === undefined && !existsSync(file))) return undefined
  try {
    return readFileSync(file, 'utf8').trim()
  } catch (cause) {
    if (named === undefined) return undefined
    throw new UsageError(`--token-file: cannot read ${file}: ${cause instanceof Error ? cause.message : 'error'}`)
  }
}

interface Question {
  readonly base: string
  readonly path: string
  readonly token: string | undefined
  readonly signal: AbortSignal
}
type Content = Pick<RequestInit, 'body' | 'duplex'> & { readonly headers?: Record<string, string> }

async function send(question: Question, method: string, content: Content): Promise<unknown> {
  const { base } = question
  const { response, text } = await ask(question, method, content)
  const parsed = text.trim() === '' ? undefined : parseJson(text, base)
  // A slow answer begins as a success; what went wrong later is a problem document in its place.
  const late = isObject(parsed) && typeof parsed['type'] === 'string' && parsed['type'].startsWith('urn:hanse:error:')
  if (!response.ok || late) throw problem(response.status, parsed, base)
  return parsed
}

async function ask(
  { base, path, token, signal }: Question,
  method: string,
  { headers = {}, ...rest }: Content,
): Promise<{ readonly response: Response; readonly text: string }> {
  try {
    const response = await fetch(`${base}${path}`, {
      method,
      signal,
      headers: {
        accept: 'application/json',
        ...headers,
        ...(token !== undefined && { authorization: `Bearer ${token}` }),
      },
      ...rest,
    })
    return { response, text: await response.text() }
  } catch (cause) {
    if (signal.aborted) throw cause
    const reason = reasonOf(cause)
    const advice = /CERT|SIGNATURE|ISSUER/.test(reason)
      ? 'its certificate is not trusted here: name the authority that issued it with NODE_EXTRA_CA_CERTS=FILE'
      : 'is the gateway running?'
    throw new UnreachableError(`no answer from ${base}: ${advice} (${reason})`, { cause })
  }
}

function parseJson(text: string, base: string): unknown {
  try {
    return JSON.parse(text)
  } catch (cause) {
    throw new UnreachableError(`${base} does not answer like a Hanse gateway`, { cause })
  }
}

function problem(status: number, body: unknown, base: string): ProblemError {
  const detail = isObject(body) && typeof body['detail'] === 'string' ? body['detail'] : `status ${status}`
  const code = isObject(body) && typeof body['code'] === 'string' ? body['code'] : undefined
  const places = isObject(body) && Array.isArray(body['errors']) ? body['errors'].filter(isObject) : []
  const list = places.map(place => `\n  ${String(place['path'])}: ${String(place['message'])}`).join('')
  const hint =
    status === 401
      ? `\ncreate a token on the gateway's machine with "hanse token create" and name it with --token-file`
      : ''
  const instance = status >= 500 && isObject(body) ? ` (${String(body['instance'])} in the log of ${base})` : ''
  return new ProblemError(`${detail}${instance}${list}${hint}`, status, code)
}

function reasonOf(cause: unknown): string {
  const inner = cause instanceof Error && cause.cause instanceof Error ? cause.cause : cause
  if (inner instanceof Error) return 'code' in inner && typeof inner.code === 'string' ? inner.code : inner.message
  return 'unknown error'
}
