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
  log: Log
  clock?: () => number
}): FederationTls {
  const { keys, directory, hosts, log, clock = Date.now } = options
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
    server.prependListener('secureConnection', (socket: TLSSocket) => {
      if (identify(socket) === undefined) {
        log.warn(
          { address: socket.remoteAddress },
          'federation: closed a connection whose certificate nobody here knows',
        )
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
