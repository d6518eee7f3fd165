/**
 * Connections to a peer: TCP or a proxy's tunnel, then TLS 1.3 with our certificate, accepting nothing
 * but a leaf of the peer's pinned CA that names the host in its URL.
 */
import { X509Certificate } from 'node:crypto'
import { isIP, type Socket } from 'node:net'
import { connect, type TLSSocket } from 'node:tls'
import { Pool } from 'undici'
import type { Credential } from '../certs/ca.ts'
import { GatewayError } from '../gateway/errors.ts'
import { openTunnel, type ProxySettings } from './connect-proxy.ts'
import { type Destination, diagnose, diagnoseCertificate } from './diagnosis.ts'

/** How to reach a peer and as whom. */
export interface DialOptions {
  readonly to: Destination
  /** The peer's pinned CA, PEM. */
  readonly caCertificate: string
  /** Asked for each connection, so that a renewed certificate is used. */
  readonly credential: () => Credential
  readonly proxy?: ProxySettings | undefined
  /** For TCP, tunnel and handshake together; 15 s unless told. */
  readonly connectTimeoutMs?: number
  readonly clock?: () => number
}

/**
 * Opens one verified connection.
 *
 * @throws GatewayError PEER_UNREACHABLE, PEER_TLS_INTERCEPTED, PEER_UNKNOWN, PEER_CLOCK_DRIFT,
 *   PEER_PROTOCOL, PROXY_REFUSED, each with a sentence that says what to do
 */
export async function dial(options: DialOptions): Promise<TLSSocket> {
  const { to, proxy, connectTimeoutMs = 15_000 } = options
  const signal = AbortSignal.timeout(connectTimeoutMs)
  const { hostname, port } = new URL(to.url)
  const address = { host: hostname.replace(/^\[|\]$/g, ''), port: Number(port || 443) }
  try {
    return await handshake(options, address, 'TLSv1.3', proxy && (await openTunnel(proxy, address, signal)), signal)
  } catch (error) {
    if (!isOldProtocol(error)) throw diagnose(error, to)
    // Inspecting proxies often stop at TLS 1.2: look whose certificate that would be, to name it.
    const tunnel = proxy && (await openTunnel(proxy, address, signal))
    const probe = await handshake(options, address, 'TLSv1.2', tunnel, signal).catch((reason: unknown) => reason)
    throw probe instanceof GatewayError ? probe : diagnose(error, to)
  }
}

/** A pool of HTTP/1.1 connections to one peer, each opened by `dial`. Close or destroy it. */
export function openPeerPool(options: DialOptions & { readonly connections?: number } & PoolTimeouts): Pool {
  const { to, connections = 8, headersTimeoutMs = 90_000, bodyTimeoutMs = 90_000 } = options
  return new Pool(to.url, {
    connections,
    pipelining: 1,
    allowH2: false,
    headersTimeout: headersTimeoutMs,
    bodyTimeout: bodyTimeoutMs,
    connect: (_options, callback) => {
      dial(options).then(
        socket => callback(null, socket),
        (error: unknown) => callback(diagnose(error, to), null),
      )
    },
  })
}

/** How long an answer may take; longer than the long polls of the protocol. */
export interface PoolTimeouts {
  readonly headersTimeoutMs?: number
  readonly bodyTimeoutMs?: number
}

async function handshake(
  options: DialOptions,
  address: { readonly host: string; readonly port: number },
  version: 'TLSv1.2' | 'TLSv1.3',
  tunnel: Socket | undefined,
  signal: AbortSignal,
): Promise<TLSSocket> {
  const { to, caCertificate, credential, clock = Date.now } = options
  const isProbe = version === 'TLSv1.2'
  const { certificate, key } = credential()
  const socket = connect({
    ...(tunnel ? { socket: tunnel, host: address.host } : address),
    ...(isIP(address.host) ? {} : { servername: address.host }),
    ...(isProbe ? {} : { cert: certificate, key }),
    ca: [caCertificate],
    minVersion: version,
    ALPNProtocols: ['http/1.1'],
    // Judged below instead: the runtime's own refusal destroys the socket before it can be asked
    // whose certificate was presented.
    rejectUnauthorized: false,
  })
  const { promise, resolve, reject } = Promise.withResolvers<void>()
  const abort = (): void => reject(signal.reason)
  const closed = (): void => reject(Object.assign(new Error('closed during the handshake'), { code: 'ECONNRESET' }))
  socket.once('secureConnect', resolve).once('error', reject).once('close', closed)
  signal.addEventListener('abort', abort, { once: true })
  if (signal.aborted) abort()
  try {
    await promise
    if (isProbe || !socket.authorized) {
      const seen = socket.getPeerX509Certificate()
      if (isProbe && socket.authorized) throw new Error('the peer itself, without TLS 1.3')
      throw diagnoseCertificate(
        to,
        seen,
        new X509Certificate(caCertificate),
        String(socket.authorizationError),
        clock(),
      )
    }
    socket.setNoDelay(true)
    return socket
  } catch (error) {
    socket.on('error', () => {}).destroy()
    tunnel?.destroy()
    throw error
  } finally {
    socket.off('secureConnect', resolve).off('error', reject).off('close', closed)
    signal.removeEventListener('abort', abort)
  }
}

const isOldProtocol = (error: unknown): boolean =>
  error instanceof Error &&
  'code' in error &&
  (error.code === 'ERR_SSL_UNSUPPORTED_PROTOCOL' || error.code === 'ERR_SSL_TLSV1_ALERT_PROTOCOL_VERSION')
