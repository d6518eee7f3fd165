/**
 * Why a peer could not be reached, in a sentence that says what to do next. Each outcome has its code;
 * what a TLS-intercepting proxy, a wrong clock or a wrong address look like from here is told apart by
 * the certificate that came instead of the peer's.
 */
import type { X509Certificate } from 'node:crypto'
import { isIssuedBy } from '../certs/ca.ts'
import { type ErrorCode, GatewayError } from '../gateway/errors.ts'
import { driftError, toleratedDriftMs } from './clock.ts'

/** Who was called, and where. */
export interface Destination {
  readonly id: string
  readonly name: string
  /** Origin. */
  readonly url: string
}

/**
 * What the certificate at the other end says, when the TLS stack did not accept it.
 *
 * @param seen   the leaf that was presented
 * @param pin    the peer's CA
 * @param reason the stack's code, e.g. CERT_HAS_EXPIRED
 * @param now    Unix time in ms
 */
export function diagnoseCertificate(
  to: Destination,
  seen: X509Certificate | undefined,
  pin: X509Certificate,
  reason: string,
  now: number,
): GatewayError {
  const { host } = new URL(to.url)
  if (seen === undefined) return failure('PEER_PROTOCOL', to, `${host} presented no certificate: check the address`)
  if (!isIssuedBy(seen, pin)) {
    const issuer = oneLine(seen.issuer)
    const site = /^CN=Hanse site CA ([0-9a-f]{32})$/.exec(seen.issuer)?.[1]
    if (site !== undefined) {
      return failure(
        'PEER_UNKNOWN',
        to,
        `another site (id ${site}) answers at ${host}: check the address; if ${to.name} has new keys, pair again`,
        { issuer },
      )
    }
    return failure(
      'PEER_TLS_INTERCEPTED',
      to,
      `the certificate at ${host} was issued by "${issuer}" and not by ${to.name}: a TLS-inspecting proxy or firewall ` +
        `sits in between; ask for an exception from inspection for ${host}`,
      { issuer },
    )
  }
  const [from, until] = [seen.validFromDate.getTime(), seen.validToDate.getTime()]
  // Certificates are backdated by the tolerance: one that begins in our future shows at least this drift.
  if (now < from) return driftError(to, from + toleratedDriftMs - now)
  if (now > until) {
    return failure(
      'PEER_PROTOCOL',
      to,
      `the certificate of ${to.name} ended on ${seen.validToDate.toISOString().slice(0, 10)}: its gateway renews it when ` +
        `it is restarted; if it was renewed, this site’s clock is wrong`,
    )
  }
  const name = new URL(to.url).hostname
  if (reason === 'ERR_TLS_CERT_ALTNAME_INVALID') {
    return failure(
      'PEER_PROTOCOL',
      to,
      `the certificate of ${to.name} does not name ${name} but ${oneLine(seen.subjectAltName ?? 'no host')}: ` +
        `use one of these in the peer’s URL, or have its public URL corrected there`,
    )
  }
  return failure(
    'PEER_PROTOCOL',
    to,
    `the certificate of ${to.name} is not acceptable (${reason}): have it issued again`,
  )
}

/**
 * The GatewayError for whatever a connection or request to a peer failed with.
 * A GatewayError stays what it is.
 */
export function diagnose(error: unknown, to: Destination): GatewayError {
  if (error instanceof GatewayError) return error
  const { host } = new URL(to.url)
  const [code, sentence] = explain(codeOf(error), host, to.name)
  return failure(code, to, sentence, {}, error)
}

function explain(code: string, host: string, name: string): readonly [ErrorCode, string] {
  if (isRefusedCertificate(code)) {
    return [
      'PEER_UNKNOWN',
      `${name} refused this site’s certificate: ask whether it has confirmed or revoked the pairing`,
    ]
  }
  switch (code) {
    case 'ENOTFOUND':
    case 'EAI_AGAIN':
    case 'EAI_FAIL':
    case 'EAI_NODATA':
      return [
        'PEER_UNREACHABLE',
        `the name in ${host} cannot be resolved (${code}): check the peer’s URL and this machine’s DNS`,
      ]
    case 'ECONNREFUSED':
      return [
        'PEER_UNREACHABLE',
        `${host} refuses connections: check the port, and that the gateway of ${name} is running`,
      ]
    case 'EHOSTUNREACH':
    case 'ENETUNREACH':
    case 'EADDRNOTAVAIL':
      return ['PEER_UNREACHABLE', `there is no route to ${host} (${code}): check VPN, firewall and routing`]
    case 'ETIMEDOUT':
    case 'TimeoutError':
    case 'UND_ERR_CONNECT_TIMEOUT':
      return [
        'PEER_UNREACHABLE',
        `${host} does not answer: check firewalls on the way, or whether a proxy has to be used`,
      ]
    case 'UND_ERR_HEADERS_TIMEOUT':
    case 'UND_ERR_BODY_TIMEOUT':
      return ['PEER_UNREACHABLE', `${name} accepted the request but did not answer in time: it may be overloaded`]
    case 'ERR_SSL_WRONG_VERSION_NUMBER':
    case 'ERR_SSL_PACKET_LENGTH_TOO_LONG':
    case 'ERR_SSL_HTTP_REQUEST':
      return ['PEER_PROTOCOL', `${host} does not speak TLS: check the port in the peer’s URL`]
    case 'ERR_SSL_UNSUPPORTED_PROTOCOL':
    case 'ERR_SSL_TLSV1_ALERT_PROTOCOL_VERSION':
      return [
        'PEER_PROTOCOL',
        `${host} does not speak TLS 1.3: check the address, and for a proxy or load balancer in front of it`,
      ]
    case 'UND_ERR_SOCKET':
    case 'ECONNRESET':
    case 'EPIPE':
      // A Node server closes without an alert when it does not know a certificate, so both must be named.
      return [
        'PEER_UNREACHABLE',
        `${host} closed the connection: a network fault, or ${name} does not (or no longer) know this site`,
      ]
    default:
      return code.startsWith('HPE_')
        ? ['PEER_PROTOCOL', `${host} does not speak HTTP/1.1: check the port in the peer’s URL`]
        : ['PEER_UNREACHABLE', `${host} cannot be reached (${code || 'unknown reason'})`]
  }
}

/** TLS alerts with which a server refuses a client certificate (RFC 8446 §6.2). */
function isRefusedCertificate(code: string): boolean {
  return /^ERR_SSL_.*ALERT_(UNKNOWN_CA|CERTIFICATE_\w+|BAD_CERTIFICATE|ACCESS_DENIED|DECRYPT_ERROR)$/.test(code)
}

function codeOf(error: unknown): string {
  if (!(error instanceof Error)) return ''
  if ('code' in error && typeof error.code === 'string' && error.code !== 'UND_ERR_SOCKET') return error.code
  if (error.cause instanceof Error && codeOf(error.cause) !== '') return codeOf(error.cause)
  if ('code' in error && typeof error.code === 'string') return error.code
  return error.name === 'TimeoutError' ? 'TimeoutError' : ''
}

function failure(
  code: ErrorCode,
  to: Destination,
  message: string,
  context: Readonly<Record<string, string>> = {},
  cause?: unknown,
): GatewayError {
  return new GatewayError(code, message, {
    context: { peer: to.id, ...context },
    ...(cause === undefined ? {} : { cause }),
  })
}

/** A distinguished name or host list for a message: one bounded line of visible characters. */
function oneLine(text: string): string {
  const line = text.replaceAll('\n', ', ').replaceAll(/[^\x20-\x7e\u00a0-\u024f]/g, '?')
  return line.length > 200 ? `${line.slice(0, 199)}…` : line
}
