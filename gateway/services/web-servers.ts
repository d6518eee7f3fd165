/** DICOMweb servers of the configuration, and how they are called: HTTP with a login or token, bounded in time. */
import { readSecret } from '../config.ts'
import { type Accepted, parseMediaType } from '../dicom/media-type.ts'
import { GatewayError } from '../errors.ts'

/** A server as the configuration has it. */
export interface WebServer {
  /** Where its service is, without a slash at the end. */
  readonly url: string
  /** What is outside of the hospital is sent nothing but transfers. */
  readonly zone: 'inside' | 'outside'
  /** A file with `user:password`, for Basic authentication. */
  readonly loginFile?: string | undefined
  /** A file with a bearer token. */
  readonly tokenFile?: string | undefined
}

/** Servers by name. */
export type WebServerList = Readonly<Record<string, WebServer>>

/** A request to a server. */
export interface WebRequest {
  /** Below the service's URL, with its query. */
  readonly path: string
  readonly accept: string
  readonly body?: { readonly type: string; readonly chunks: AsyncIterable<Uint8Array> }
  readonly signal: AbortSignal
}

/** An answer; its body has to be read or cancelled. */
export interface WebAnswer {
  readonly status: number
  readonly type: Pick<Accepted, 'name' | 'parameters'>
  readonly body: AsyncIterable<Uint8Array>
  cancel(): Promise<void>
}

/** How long a server may take to begin its answer. */
const answerDeadlineMs = 120_000

/** The server of a name. @throws GatewayError NOT_FOUND */
export function findServer(servers: WebServerList, name: string): WebServer {
  const found = Object.hasOwn(servers, name) ? servers[name] : undefined
  if (!found) throw new GatewayError('NOT_FOUND', 'no DICOMweb server has this name')
  return found
}

/**
 * Calls a server. Redirections are not followed: they could lead anywhere, with the login.
 *
 * @throws GatewayError PEER_UNREACHABLE, CONFIG_INVALID for a login that cannot be read, the reason of the signal
 */
export async function callServer(server: WebServer, { path, accept, body, signal }: WebRequest): Promise<WebAnswer> {
  const begun = new AbortController()
  const timer = setTimeout(() => begun.abort(new Error('no answer')), answerDeadlineMs)
  try {
    const answer = await fetch(`${server.url}${path}`, {
      method: body ? 'POST' : 'GET',
      redirect: 'error',
      headers: { accept, ...authorization(server), ...(body && { 'content-type': body.type }) },
      ...(body && { body: ReadableStream.from(body.chunks), duplex: 'half' as const }),
      signal: AbortSignal.any(body ? [signal] : [signal, begun.signal]),
    })
    return {
      status: answer.status,
      type: parseMediaType(answer.headers.get('content-type') ?? '') ?? { name: '', parameters: new Map() },
      body: chunksOf(answer.body),
      cancel: async () => {
        await answer.body?.cancel()
      },
    }
  } catch (cause) {
    signal.throwIfAborted()
    if (cause instanceof GatewayError) throw cause
    throw new GatewayError('PEER_UNREACHABLE', 'the DICOMweb server does not answer', { cause })
  } finally {
    clearTimeout(timer)
  }
}

/** The whole body, up to a bound. @throws GatewayError PEER_PROTOCOL beyond it */
export async function wholeBody({ body }: WebAnswer, limitBytes: number): Promise<Buffer> {
  const chunks: Uint8Array[] = []
  let bytes = 0
  for await (const chunk of body) {
    bytes += chunk.length
    if (bytes > limitBytes) throw new GatewayError('PEER_PROTOCOL', `expected an answer of at most ${limitBytes} bytes`)
    chunks.push(chunk)
  }
  return Buffer.concat(chunks)
}

async function* chunksOf(body: ReadableStream<Uint8Array> | null): AsyncGenerator<Uint8Array> {
  try {
    yield* body ?? []
  } catch (cause) {
    throw new GatewayError('PEER_UNREACHABLE', 'the answer of the DICOMweb server broke off', { cause })
  }
}

function authorization({ loginFile, tokenFile }: WebServer): { authorization?: string } {
  if (tokenFile !== undefined) return { authorization: `Bearer ${readSecret(tokenFile)}` }
  if (loginFile === undefined) return {}
  return { authorization: `Basic ${Buffer.from(readSecret(loginFile)).toString('base64')}` }
}
