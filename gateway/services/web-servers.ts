/** DICOMweb servers of the configuration, and how they are called: with a login, a token or a certificate, bounded in time. */
import { Readable } from 'node:stream'
import { readSecret } from '../config.ts'
import { type Accepted, parseMediaType } from '../dicom/media-type.ts'
import { GatewayError } from '../errors.ts'
import { callRest, type RestCall, type RestTarget } from './rest-client.ts'

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
  /** Authorities that its certificate may be of (PEM), in place of the public ones. */
  readonly caFile?: string | undefined
  /** Our certificate and key for it (PEM). */
  readonly certificateFile?: string | undefined
  readonly keyFile?: string | undefined
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

/** How long a server may be silent; one that is storing what we sent says nothing for a while. */
const silenceMs = { asked: 120_000, storing: 600_000 }

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
  const { url, caFile, certificateFile, keyFile } = server
  const target: RestTarget = {
    name: 'the DICOMweb server',
    url,
    headers: { accept, ...authorization(server), ...(body && { 'content-type': body.type }) },
    timeoutMs: body ? silenceMs.storing : silenceMs.asked,
    caFile,
    certificateFile,
    keyFile,
  }
  const call: RestCall = body
    ? { method: 'POST', path, body: Readable.from(copied(body.chunks), { objectMode: false }) }
    : { method: 'GET', path }
  const answer = await callRest(target, call, signal)
  const { statusCode: status = 0 } = answer
  if (status >= 300 && status < 400) {
    answer.destroy()
    throw new GatewayError('PEER_UNREACHABLE', 'the DICOMweb server sends us elsewhere: name its own URL')
  }
  return {
    status,
    type: parseMediaType(answer.headers['content-type'] ?? '') ?? { name: '', parameters: new Map() },
    body: chunksOf(answer),
    cancel: async () => {
      answer.destroy()
    },
  }
}

/** Chunks whose memory may be used again while a socket still holds them. */
async function* copied(chunks: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  for await (const chunk of chunks) yield Buffer.from(chunk)
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

async function* chunksOf(body: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  try {
    yield* body
  } catch (cause) {
    throw new GatewayError('PEER_UNREACHABLE', 'the answer of the DICOMweb server broke off', { cause })
  }
}

function authorization({ loginFile, tokenFile }: WebServer): { authorization?: string } {
  if (tokenFile !== undefined) return { authorization: `Bearer ${readSecret(tokenFile)}` }
  if (loginFile === undefined) return {}
  return { authorization: `Basic ${Buffer.from(readSecret(loginFile)).toString('base64')}` }
}
