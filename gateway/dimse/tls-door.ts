/**
 * The door of the TLS listener: handshakes within limits, and the client's certificate, which counts when an
 * authority of ours issued it or when it is registered. Whoever is turned away is reported with the cause.
 */
import type { X509Certificate } from 'node:crypto'
import { Socket } from 'node:net'
import { createServer, type SecureContextOptions, type Server, type TLSSocket } from 'node:tls'
import type { CallerCertificate } from '../services/modality-caller.ts'
import { type Denial, isLoopback, plainAddress } from './callers.ts'
import { fingerprintOf } from './dial.ts'
import type { ScpTls } from './scp.ts'
import { tlsProfile } from './tls-profile.ts'

/** What the door tells. */
export interface TlsDoorEvents {
  /** The handshake has succeeded; nothing has been read yet. */
  onOpen(socket: TLSSocket, certificate: CallerCertificate | undefined): void
  onRefused(remoteAddress: string | undefined, refusal: Pick<Denial, 'reason' | 'message'>): void
}

type Verdict =
  | { readonly kind: 'open'; readonly certificate: CallerCertificate | undefined }
  | { readonly kind: 'refused'; readonly message: string }

/** Makes TLS sockets of accepted ones. */
export class TlsDoor {
  readonly #tls: ScpTls
  readonly #events: TlsDoorEvents
  readonly #maxHandshakes: number
  readonly #server: Server
  /** Sockets in their handshake by their other end, in the order in which they came. */
  readonly #handshaking = new Map<string, Socket>()
  readonly #stopFollowing: () => void

  constructor(
    tls: ScpTls,
    limits: { readonly handshakes: number; readonly handshakeMs: number },
    events: TlsDoorEvents,
  ) {
    this.#tls = tls
    this.#events = events
    this.#maxHandshakes = limits.handshakes
    this.#server = createServer({
      ...this.#context(),
      requestCert: tls.clients !== 'off',
      // Decided below: a registered certificate needs no authority.
      rejectUnauthorized: false,
      handshakeTimeout: limits.handshakeMs,
    })
    this.#server.on('secureConnection', socket => this.#secured(socket))
    this.#server.on('tlsClientError', (error, socket) => this.#failed(error, socket))
    this.#stopFollowing = tls.credentials.onChange(() => this.#server.setSecureContext(this.#context()))
  }

  /** Handshakes that are under way. */
  get handshaking(): number {
    return this.#handshaking.size
  }

  /** Begins the handshake on an accepted socket. */
  enter(socket: Socket): void {
    this.#makeRoom(plainAddress(socket.remoteAddress))
    const end = otherEndOf(socket)
    this.#handshaking.set(end, socket)
    socket.once('close', () => {
      if (this.#handshaking.get(end) === socket) this.#handshaking.delete(end)
    })
    this.#server.emit('connection', socket)
  }

  /** Gives up the oldest handshake where there are too many; one address shuts out itself before it does others. */
  #makeRoom(address: string): void {
    const all = [...this.#handshaking.values()]
    const own = isLoopback(address) ? [] : all.filter(socket => plainAddress(socket.remoteAddress) === address)
    if (own.length >= this.#maxHandshakes / 4) own[0]?.destroy()
    else if (all.length >= this.#maxHandshakes) all[0]?.destroy()
  }

  /** Ends all handshakes. */
  close(): void {
    this.#stopFollowing()
    for (const socket of this.#handshaking.values()) socket.destroy()
  }

  #context(): SecureContextOptions {
    const { certificate, key, ca } = this.#tls.credentials.current()
    // An empty list is a list: were it absent, the public authorities would be trusted.
    return { ...tlsProfile, honorCipherOrder: true, cert: certificate, key, ca: ca ?? [] }
  }

  #secured(socket: TLSSocket): void {
    this.#handshaking.delete(otherEndOf(socket))
    const verdict = this.#judge(socket)
    if (verdict.kind === 'open') {
      this.#events.onOpen(socket, verdict.certificate)
      return
    }
    socket.on('error', () => undefined)
    this.#events.onRefused(socket.remoteAddress, { reason: 'certificate', message: verdict.message })
    socket.destroy()
  }

  #judge(socket: TLSSocket): Verdict {
    const { clients, isRegistered } = this.#tls
    const certificate = clients === 'off' ? undefined : socket.getPeerX509Certificate()
    if (!certificate) {
      return clients === 'required'
        ? { kind: 'refused', message: 'TLS connection refused: the client presented no certificate' }
        : { kind: 'open', certificate: undefined }
    }
    const fingerprint = fingerprintOf(certificate)
    if (socket.authorized) return { kind: 'open', certificate: { fingerprint, commonName: commonNameOf(certificate) } }
    const cause = validityProblem(certificate) ?? (isRegistered(fingerprint) ? undefined : untrusted(socket))
    return cause === undefined
      ? { kind: 'open', certificate: { fingerprint } }
      : {
          kind: 'refused',
          message: `TLS connection refused: the client's certificate ${cause}; its fingerprint is ${fingerprint}`,
        }
  }

  #failed(error: Error, socket: TLSSocket): void {
    const message = handshakeProblem('code' in error ? String(error.code) : '')
    const address = socket.remoteAddress ?? addressBelow(socket)
    // After a timeout the runtime leaves it open.
    socket.destroy()
    if (message === undefined) return
    this.#events.onRefused(address, { reason: 'tls', message: `TLS connection refused: ${message}` })
  }
}

const otherEndOf = (socket: Socket): string => `${socket.remoteAddress} ${socket.remotePort}`

/** A TLS socket that ended in its handshake has forgotten the address; the TCP socket below has not. */
function addressBelow(socket: TLSSocket): string | undefined {
  const below: unknown = Reflect.get(socket, '_parent')
  return below instanceof Socket ? below.remoteAddress : undefined
}

function validityProblem({ validFromDate, validToDate }: X509Certificate): string | undefined {
  const now = Date.now()
  if (validToDate.getTime() < now) return `is expired since ${validToDate.toISOString()}`
  return validFromDate.getTime() > now ? `is not valid before ${validFromDate.toISOString()}` : undefined
}

const untrusted = (socket: TLSSocket): string =>
  `is from an authority that is not trusted (${String(socket.authorizationError)}); name its authority ` +
  '(HANSE_DICOM_TLS_CA_FILE) or register it (hanse modality add AETITLE --certificate FINGERPRINT)'

/** The only common name of a subject; of several none counts, because others may read another one. */
function commonNameOf(certificate: X509Certificate): string | undefined {
  const names = certificate.subject?.split('\n').filter(line => line.startsWith('CN=')) ?? []
  return names.length === 1 ? names[0]?.slice(3) : undefined
}

/** Why a handshake failed; undefined when the client went away by itself, as port checks do. */
function handshakeProblem(code: string): string | undefined {
  if (code === 'ERR_TLS_HANDSHAKE_TIMEOUT') return 'the handshake took too long'
  if (!code.startsWith('ERR_SSL_')) return undefined
  if (/WRONG_VERSION_NUMBER|HTTP_REQUEST|PACKET_LENGTH|UNEXPECTED_MESSAGE/.test(code))
    return 'the client does not speak TLS'
  if (/UNSUPPORTED_PROTOCOL|VERSION_TOO_LOW/.test(code)) return 'the client offers no TLS 1.2 or 1.3'
  if (/NO_SHARED_CIPHER/.test(code)) return 'the client offers none of the cipher suites of PS3.15 B.12'
  if (/ALERT_(UNKNOWN_CA|BAD_CERTIFICATE|CERTIFICATE_UNKNOWN|CERTIFICATE_EXPIRED)/.test(code))
    return 'the client does not trust our certificate'
  return code
}
