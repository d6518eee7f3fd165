/**
 * Opens the socket of an association that we request: plain, or TLS under the profile of `tls-profile.ts`.
 * Whatever goes wrong is said in words that tell an administrator where to look.
 */
import { createHash, type X509Certificate } from 'node:crypto'
import { connect, isIP, type Socket } from 'node:net'
import { TLSSocket, connect as tlsConnect } from 'node:tls'
import { GatewayError } from '../errors.ts'
import { tlsProfile } from './tls-profile.ts'

/** How a node is called by TLS. */
export interface DialTls {
  /** False takes any certificate. */
  readonly verify: boolean
  /** Authorities that may have issued its certificate, PEM; none are trusted when absent. */
  readonly ca?: string
  /** Our certificate (with its chain) and key, PEM. */
  readonly cert?: string
  readonly key?: string
  /** The name its certificate must have; the host when absent. */
  readonly servername?: string
  /** SHA-256 of the only certificate that it may have, 64 lower-case hex digits; issued by whomever. */
  readonly fingerprint?: string
}

/** Where to call. */
export interface DialTarget {
  readonly host: string
  readonly port: number
  readonly tls?: DialTls
  /** Until the socket can be written to, handshake included. Default 30,000. */
  readonly timeoutMs?: number
  readonly signal?: AbortSignal
}

const defaultTimeoutMs = 30_000

/**
 * Connects.
 *
 * @returns a socket that can be written to and is not read yet
 * @throws GatewayError PEER_UNREACHABLE naming the cause, or the reason of the signal
 */
export async function dial(target: DialTarget): Promise<Socket> {
  const { signal, tls, timeoutMs = defaultTimeoutMs } = target
  signal?.throwIfAborted()
  const socket = openSocket(target)
  const { promise, resolve, reject } = Promise.withResolvers<void>()
  const abort = (): void => reject(signal?.reason)
  const fail = (error: Error): void => reject(connectionError(error, target))
  const end = (): void => reject(unreachable('closed the connection before it was open', target))
  const timer = setTimeout(
    () => reject(unreachable(`did not answer within ${timeoutMs} ms${tls ? ', TLS handshake included' : ''}`, target)),
    timeoutMs,
  )
  signal?.addEventListener('abort', abort, { once: true })
  socket.once(tls ? 'secureConnect' : 'connect', resolve)
  socket.on('error', fail)
  socket.once('close', end)
  try {
    await promise
    const problem = tls && checkPin(socket, tls)
    if (problem) throw unreachable(problem, target)
    return socket
  } catch (error) {
    // A destroyed socket may still tell of an error that nobody waits for.
    socket.on('error', () => undefined)
    socket.destroy()
    throw error
  } finally {
    clearTimeout(timer)
    signal?.removeEventListener('abort', abort)
    socket.off('error', fail)
    socket.off('close', end)
  }
}

/** An error of a socket to `target` in words; also for what a TLS 1.3 server says after the handshake. */
export function connectionError(error: Error, target: DialTarget): GatewayError {
  const code = 'code' in error && typeof error.code === 'string' ? error.code : ''
  const [, meaning] = meanings.find(([pattern]) => pattern.test(code)) ?? []
  return unreachable(meaning ?? `connection failed (${code || error.name})`, target, error)
}

/** What the codes of sockets and of OpenSSL mean to who configured the two systems. */
const meanings: readonly (readonly [RegExp, string])[] = [
  [/^ECONNREFUSED$/, 'refused the connection: nothing listens on this port'],
  [/^(ENOTFOUND|EAI_AGAIN)$/, 'cannot be found: the host name does not resolve'],
  [/^(EHOSTUNREACH|ENETUNREACH)$/, 'cannot be reached: there is no route to it'],
  [/^ETIMEDOUT$/, 'did not answer: is a firewall between us'],
  [/^(ECONNRESET|EPIPE)$/, 'closed the connection'],
  [/^CERT_HAS_EXPIRED$/, 'has a certificate that is expired'],
  [/^CERT_NOT_YET_VALID$/, 'has a certificate that is not valid yet'],
  [/^CERT_REVOKED$/, 'has a certificate that is revoked'],
  [/^ERR_TLS_CERT_ALTNAME_INVALID$/, 'has a certificate for another host name (register the right one as servername)'],
  [
    /^(DEPTH_ZERO_SELF_SIGNED_CERT|SELF_SIGNED_CERT_IN_CHAIN|UNABLE_TO_GET_ISSUER_CERT(_LOCALLY)?|UNABLE_TO_VERIFY_LEAF_SIGNATURE|CERT_UNTRUSTED)$/,
    'has a certificate from an authority that is not trusted (register its authority or its fingerprint)',
  ],
  [/KEY_TOO_SMALL|MD_TOO_WEAK/, 'has a certificate whose key or signature is too weak'],
  [
    /^ERR_SSL_(WRONG_VERSION_NUMBER|PACKET_LENGTH_TOO_LONG|HTTP_REQUEST|UNEXPECTED_MESSAGE)$/,
    'does not speak TLS on this port',
  ],
  [/PROTOCOL_VERSION|UNSUPPORTED_PROTOCOL/, 'speaks no version of TLS that we do (1.2 and 1.3)'],
  [/CERTIFICATE_REQUIRED/, 'requires a client certificate'],
  [/ALERT_(UNKNOWN_CA|BAD_CERTIFICATE|CERTIFICATE_UNKNOWN|ACCESS_DENIED|DECRYPT_ERROR)/, 'refused our certificate'],
  [/ALERT_CERTIFICATE_EXPIRED/, 'refused our certificate: it is expired'],
  [/HANDSHAKE_FAILURE|NO_SHARED_CIPHER/, 'refused the TLS handshake: it wants a client certificate or other ciphers'],
]

/** The context says whose certificate is at fault, where one is. */
function unreachable(what: string, { host, port }: DialTarget, cause?: Error): GatewayError {
  const certificate = /^has (a|another) certificate/.test(what)
    ? 'theirs'
    : /(our|client) certificate/.test(what)
      ? 'ours'
      : undefined
  return new GatewayError('PEER_UNREACHABLE', `${host} port ${port} ${what}`, {
    ...(cause !== undefined && { cause }),
    ...(certificate !== undefined && { context: { certificate } }),
  })
}

function openSocket(target: DialTarget): Socket {
  const { host, port, tls } = target
  if (!tls) return connect({ host, port, noDelay: true })
  try {
    return tlsSocket(target, tls)
  } catch (cause) {
    const error = cause instanceof Error ? cause : undefined
    throw unreachable('cannot be called by TLS: our certificate or its authorities cannot be used', target, error)
  }
}

function tlsSocket({ host, port }: DialTarget, tls: DialTls): TLSSocket {
  const { ca, cert, key, servername } = tls
  const socket = tlsConnect({
    host,
    port,
    ...tlsProfile,
    // An empty list is a list: were it absent, the public authorities would be trusted.
    ca: ca === undefined ? [] : [ca],
    ...(cert !== undefined && key !== undefined && { cert, key }),
    ...(servername !== undefined ? { servername } : isIP(host) === 0 && { servername: host }),
    rejectUnauthorized: tls.verify && tls.fingerprint === undefined,
  })
  socket.setNoDelay(true)
  return socket
}

/** What is wrong with a certificate that has to be a certain one. */
function checkPin(socket: Socket, { fingerprint }: DialTls): string | undefined {
  if (fingerprint === undefined) return undefined
  const certificate = socket instanceof TLSSocket ? socket.getPeerX509Certificate() : undefined
  if (!certificate || fingerprintOf(certificate) !== fingerprint) {
    return 'has another certificate than the one whose fingerprint is registered'
  }
  return certificate.validToDate.getTime() < Date.now() ? 'has a certificate that is expired' : undefined
}

/** SHA-256 over the DER, 64 lower-case hex digits. */
export function fingerprintOf(certificate: X509Certificate): string {
  return createHash('sha256').update(certificate.raw).digest('hex')
}
