/**
 * The federation listener's TLS: 1.3 only, client certificate required, and nobody served but peers
 * and holders of an open invitation.
 *
 * Who connects is decided twice. The TLS stack verifies the chain against the pinned authorities; then
 * `attach`'s gate finds, by signature and never by name, which pinned CA issued the leaf, and looks up
 * whose it is now. What the gate does not know is closed before a byte of HTTP is read. No session is
 * resumed: a resumed one would carry the verdict of an earlier handshake past a revocation.
 */
import { constants, X509Certificate } from 'node:crypto'
import { Socket } from 'node:net'
import type { SecureContextOptions, Server, TLSSocket, TlsOptions } from 'node:tls'
import { fingerprint, isIssuedBy } from '../certs/ca.ts'
import type { Log } from '../gateway/log.ts'
import type { SiteKeys } from './keys.ts'
import type { Peer, PeerDirectory } from './peer.ts'

/** Who is at the other end of a connection: a peer that is not revoked, or the holder of an invitation. */
export type Identity =
  | { readonly kind: 'peer'; readonly peer: Peer }
  | { readonly kind: 'invitation'; readonly id: string }

export interface FederationTls {
  /** For `https.createServer` or Fastify's `https`. Contexts change later by `attach`. */
  serverOptions(): TlsOptions
  /** Puts the gate before the server's own listeners and keeps its context and connections up to date. */
  attach(server: Server): void
  /**
   * Who this is now, or undefined: then nothing may be answered. Ask for each request; a connection
   * outlives confirmation, redemption and the certificate's end.
   */
  identify(socket: TLSSocket): Identity | undefined
  /** Ends the watch; the server is the caller's to close. */
  close(): void
}

/** A connection that ended before a byte of HTTP. Clients that merely went away are not refused. */
export interface RefusedConnection {
  readonly code: 'no-certificate' | 'unknown-certificate' | 'not-tls-1.3'
  readonly address: string
}

/** How long a redeemed or expired invitation's connection may live on to receive its last answer. */
const graceMs = 5_000
const renewalCheckMs = 6 * 3_600_000

/** What the handshake proved about a client. */
interface ClientCertificate {
  readonly expiresAt: number
  readonly fingerprint: Buffer
  /** Of the pinned CA, or our own, whose signature the leaf bears. */
  readonly caFingerprint: Buffer
}

/** Opens the TLS side of the federation listener. */
export function openFederationTls(options: {
  keys: SiteKeys
  directory: PeerDirectory
  /** Names and addresses for our certificate, asked again when it is due for renewal. */
  hosts: () => readonly string[]
  /** Called for each; strangers decide how often, so the caller bounds what it does. */
  onRefused?: (refused: RefusedConnection) => void
  log: Log
  clock?: () => number
}): FederationTls {
  const { keys, directory, hosts, onRefused, log, clock = Date.now } = options
  const ownCaFingerprint = fingerprint(keys.caCertificate)
  const clients = new WeakMap<TLSSocket, ClientCertificate>()
  const stops: (() => void)[] = []

  const context = (): SecureContextOptions => {
    const leaf = keys.tls()
    const invited = directory.invitations.length > 0 ? [keys.caCertificate] : []
    return {
      minVersion: 'TLSv1.3',
      cert: leaf.certificate,
      key: leaf.key,
      // An empty list is a list: were it absent, the runtime would trust the public authorities.
      ca: [...directory.peers.map(peer => peer.caCertificate), ...invited],
      secureOptions: constants.SSL_OP_NO_TICKET,
    }
  }

  const identify = (socket: TLSSocket): Identity | undefined => {
    if (socket.destroyed || !socket.authorized) return undefined
    const client = clients.get(socket) ?? readClient(socket, [...directory.peers.map(pinOf), keys.caCertificate])
    if (client === undefined) return undefined
    clients.set(socket, client)
    const now = clock()
    if (client.expiresAt < now) return undefined
    const peer = directory.peers.find(({ caFingerprint }) => caFingerprint.equals(client.caFingerprint))
    if (peer) return { kind: 'peer', peer }
    if (!client.caFingerprint.equals(ownCaFingerprint)) return undefined
    const invitation = directory.invitations.find(open => open.fingerprint.equals(client.fingerprint))
    return invitation && invitation.expiresAt.getTime() > now ? { kind: 'invitation', id: invitation.id } : undefined
  }

  const attach = (server: Server): void => {
    const live = new Set<TLSSocket>()
    // Asked for once while it is open, the runtime can still tell when it is closed.
    server.on('connection', (socket: Socket) => void socket.remoteAddress)
    server.on('tlsClientError', (error: Error, socket: TLSSocket) => {
      const code = refusalOf(error, socket)
      if (code) onRefused?.({ code, address: addressOf(socket) })
    })
    server.prependListener('secureConnection', (socket: TLSSocket) => {
      if (identify(socket) === undefined) {
        onRefused?.({ code: 'unknown-certificate', address: addressOf(socket) })
        socket.destroy()
        return
      }
      live.add(socket)
      socket.once('close', () => live.delete(socket))
    })
    const update = (): void => {
      server.setSecureContext(context())
      for (const socket of live) if (identify(socket) === undefined) end(socket, isInvitation(clients.get(socket)))
    }
    const isInvitation = (client: ClientCertificate | undefined): boolean =>
      client?.caFingerprint.equals(ownCaFingerprint) ?? false
    const renew = async (): Promise<void> => {
      if (await keys.renewTls(hosts())) server.setSecureContext(context())
    }
    const timer = setInterval(() => {
      renew().catch(() => log.error({}, 'federation: the TLS certificate could not be renewed'))
    }, renewalCheckMs).unref()
    update() // the directory may have changed since serverOptions()
    stops.push(directory.onChange(update), () => clearInterval(timer))
  }

  return {
    serverOptions: () => ({
      ...context(),
      requestCert: true,
      rejectUnauthorized: true,
      handshakeTimeout: 10_000,
      ALPNProtocols: ['http/1.1'],
    }),
    attach,
    identify,
    close: () => {
      for (const stop of stops.splice(0)) stop()
    },
  }
}

/** Ends a connection at once, or, for a redeemed invitation's, after its last answer has had time to leave. */
function end(socket: TLSSocket, afterGrace: boolean): void {
  if (!afterGrace) {
    socket.destroy()
    return
  }
  const timer = setTimeout(() => socket.destroy(), graceMs).unref()
  socket.once('close', () => clearTimeout(timer))
}

/** Why a handshake failed; undefined when the client went away by itself, as port checks do. */
function refusalOf(error: Error, socket: TLSSocket): RefusedConnection['code'] | undefined {
  const code = 'code' in error ? String(error.code) : ''
  if (socket.authorizationError) return 'unknown-certificate'
  if (code === 'ERR_SSL_PEER_DID_NOT_RETURN_A_CERTIFICATE') return 'no-certificate'
  return code.startsWith('ERR_SSL_') ? 'not-tls-1.3' : undefined
}

/** A TLS socket that ended in its handshake has forgotten the address; the TCP socket below has not. */
function addressOf(socket: TLSSocket): string {
  const below: unknown = Reflect.get(socket, '_parent')
  return socket.remoteAddress ?? (below instanceof Socket ? below.remoteAddress : undefined) ?? 'unknown'
}

const pinOf = (peer: Peer): string => peer.caCertificate

/** Finds the pinned authority whose signature the client's leaf bears; leaves are issued by it directly. */
function readClient(socket: TLSSocket, pins: readonly string[]): ClientCertificate | undefined {
  const leaf = socket.getPeerX509Certificate()
  if (leaf === undefined || leaf.ca) return undefined
  for (const pin of pins) {
    const ca = new X509Certificate(pin)
    if (!isIssuedBy(leaf, ca)) continue
    return {
      expiresAt: leaf.validToDate.getTime(),
      fingerprint: fingerprint(leaf),
      caFingerprint: fingerprint(ca),
    }
  }
  return undefined
}
