/** Calls another server's REST API: plain HTTP or TLS, a password, headers, a client certificate. Follows no redirect. */
import { readFile } from 'node:fs/promises'
import { type Agent, request as httpRequest, type IncomingMessage } from 'node:http'
import { request as httpsRequest, type RequestOptions } from 'node:https'
import type { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { GatewayError, isGatewayError } from '../errors.ts'
import { errnoOf } from '../store/io-error.ts'

/** Whom to call and as whom. */
export interface RestTarget {
  /** Its symbolic name, for errors. */
  readonly name: string
  /** Root of its API, `http://` or `https://`. */
  readonly url: string
  readonly username?: string | undefined
  readonly password?: string | undefined
  readonly headers: Readonly<Record<string, string>>
  /** Our client certificate and key: paths of PEM files. */
  readonly certificateFile?: string | undefined
  readonly keyFile?: string | undefined
  readonly keyPassword?: string | undefined
  /** PEM file of the authorities that its certificate may be of, in place of the public ones. */
  readonly caFile?: string | undefined
  /** The same in PEM, in the place of files. */
  readonly ca?: string | undefined
  readonly certificate?: string | undefined
  readonly key?: string | undefined
  /** Opens its connections, through a proxy for one. */
  readonly agent?: Agent | undefined
  readonly timeoutMs: number
}

/** What to ask. */
export interface RestCall {
  readonly method: 'GET' | 'POST'
  /** Below the root, with a slash before it. */
  readonly path: string
  readonly body?: Readable
  /** Length of the body in bytes, where it is known. */
  readonly contentLength?: number
  readonly headers?: Readonly<Record<string, string>>
}

/**
 * Asks; the caller reads the answer's body or destroys it.
 *
 * @throws GatewayError PEER_UNREACHABLE
 */
export async function callRest(target: RestTarget, call: RestCall, signal: AbortSignal): Promise<IncomingMessage> {
  const url = new URL(`${target.url.replace(/\/+$/, '')}${call.path}`)
  const { username, password = '', timeoutMs } = target
  const credentials = username === undefined ? undefined : Buffer.from(`${username}:${password}`).toString('base64')
  const options: RequestOptions = {
    method: call.method,
    headers: {
      'user-agent': 'hanse',
      ...target.headers,
      ...call.headers,
      ...(credentials !== undefined && { authorization: `Basic ${credentials}` }),
      ...(call.contentLength !== undefined && { 'content-length': call.contentLength }),
    },
    signal,
    ...(target.agent && { agent: target.agent }),
    ...(url.protocol === 'https:' && (await certificateOf(target))),
  }
  const { promise, resolve, reject } = Promise.withResolvers<IncomingMessage>()
  const request = (url.protocol === 'https:' ? httpsRequest : httpRequest)(url, options, resolve)
  request.setTimeout(timeoutMs, () => request.destroy(new Error('it was silent for too long')))
  const fail = (cause: unknown): void =>
    reject(
      isGatewayError(signal.reason)
        ? signal.reason
        : new GatewayError('PEER_UNREACHABLE', `${target.name} cannot be reached${hintOf(url, cause)}`, { cause }),
    )
  request.on('error', fail)
  // A server may answer before it has read all, and close: its answer counts.
  if (call.body) pipeline(call.body, request).catch(fail)
  else request.end()
  return await promise
}

/** Who does not want our certificate often says nothing. */
const hintOf = ({ protocol }: URL, cause: unknown): string =>
  protocol === 'https:' && errnoOf(cause) === 'ECONNRESET'
    ? ': it closed the connection; does it want a client certificate, or another one?'
    : ''

async function certificateOf(target: RestTarget): Promise<RequestOptions> {
  const { ca, certificate, key, certificateFile, keyFile, keyPassword, caFile } = target
  try {
    return {
      ...(caFile !== undefined && { ca: await readFile(caFile) }),
      ...(ca !== undefined && { ca }),
      ...(certificateFile !== undefined && {
        cert: await readFile(certificateFile),
        key: await readFile(keyFile ?? certificateFile),
        ...(keyPassword !== undefined && { passphrase: keyPassword }),
      }),
      ...(certificate !== undefined && { cert: certificate, key: key ?? certificate }),
    }
  } catch (cause) {
    throw new GatewayError('PEER_UNREACHABLE', 'the certificates for the call cannot be read', { cause })
  }
}

const mostJsonBytes = 16 * 1024 * 1024

/**
 * The JSON of an answer.
 *
 * @throws GatewayError REMOTE_STATUS for a status other than 200, PEER_PROTOCOL for anything but JSON of moderate size
 */
export async function readJson(
  answer: IncomingMessage,
  name: string,
  mostBytes: number = mostJsonBytes,
): Promise<unknown> {
  if (answer.statusCode !== 200) {
    answer.destroy()
    throw new GatewayError('REMOTE_STATUS', `${name} answered HTTP status ${answer.statusCode}`, {
      context: { status: answer.statusCode },
    })
  }
  const chunks: Buffer[] = []
  let bytes = 0
  try {
    for await (const chunk of answer) {
      bytes += chunk.length
      if (bytes > mostBytes) throw new GatewayError('PEER_PROTOCOL', `${name} answered more than ${mostBytes} bytes`)
      chunks.push(chunk)
    }
  } catch (cause) {
    if (isGatewayError(cause)) throw cause
    throw new GatewayError('PEER_UNREACHABLE', `${name} broke off its answer`, { cause })
  }
  try {
    return JSON.parse(Buffer.concat(chunks).toString('utf8'))
  } catch {
    throw new GatewayError('PEER_PROTOCOL', `${name} answered something else than JSON`)
  }
}
