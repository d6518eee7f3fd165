/**
 * The listening side: takes connections within limits and ends all of them on close.
 *
 * Over a limit the caller hears why: its association request is read and refused with "local limit
 * exceeded" (transient), so that it tries again. Connections that have not asked for an
 * association yet are given up first, so that half-open ones cannot shut out real callers.
 */

import { createServer, type Server, type Socket } from 'node:net'
import { GatewayError } from '../errors.ts'
import type { CallerCertificate } from '../services/modality-caller.ts'
import { usualTerms } from '../services/reception-terms.ts'
import { AcceptedAssociation, type AssociationContext } from './association.ts'
import { ReceiveBudget } from './budget.ts'
import { CallerCounts } from './caller-counts.ts'
import { type Denial, denial, isLoopback, plainAddress } from './callers.ts'
import { pooledSocket } from './pooled-socket.ts'
import { ReceiveBuffers } from './receive-buffers.ts'
import { RefusalReports } from './refusals.ts'
import {
  defaultScpLimits,
  type ListenAddress,
  type Scp,
  type ScpCounters,
  type ScpLimits,
  type ScpOptions,
  type ScpTls,
} from './scp.ts'
import { TlsDoor } from './tls-door.ts'

/** Connections over the limit that are told so at a time; more are just closed. */
const maxRefusing = 64

const overLimit: Denial = denial('localLimit', 'limit', 'association refused: too many associations are open')

/**
 * Listens for associations.
 *
 * @throws GatewayError CONFIG_INVALID when host and port cannot be bound
 */
export async function openScp(options: ScpOptions): Promise<Scp> {
  const listener = new ScpListener(options)
  const address = await listener.listen()
  return {
    ...address,
    counters: () => listener.counters(),
    close: (closing = {}) => listener.close(closing.graceMs ?? 10_000),
  }
}

class ScpListener {
  readonly #options: ScpOptions
  readonly #shared: AssociationContext
  readonly #server: Server
  readonly #tls: { readonly server: Server; readonly door: TlsDoor; readonly port: number } | undefined
  /** In the order in which they came. */
  readonly #serving = new Set<AcceptedAssociation>()
  readonly #refusing = new Set<AcceptedAssociation>()
  readonly #perAddress = new CallerCounts()
  #isClosing = false

  constructor(options: ScpOptions) {
    const limits = { ...defaultScpLimits, ...options.limits }
    this.#options = options
    this.#shared = {
      rights: options.rights,
      callers: options,
      privateSopClasses: new Set(options.privateSopClasses),
      terms: options.terms ?? usualTerms,
      services: new Map(
        (options.services ?? []).flatMap(service => service.sopClassUids.map(uid => [uid, service] as const)),
      ),
      store: options.store,
      budget: new ReceiveBudget(limits.heldBytes),
      perAe: new CallerCounts(),
      buffers: new ReceiveBuffers({ poison: options.poisonBuffers ?? false }),
      limits: { ...limits, maxPduLength: Math.min(limits.maxPduLength, defaultScpLimits.maxPduLength) },
      counters: {
        connectionsOpen: 0,
        associationsOpen: 0,
        associationsAccepted: 0,
        associationsRefused: 0,
        associationsAborted: 0,
        instancesStored: 0,
        instancesFailed: 0,
        datasetBytesReceived: 0,
      },
      refusals: new RefusalReports(options.log, options.onRefused),
      log: options.log,
    }
    this.#server = createServer({ noDelay: true, pauseOnConnect: true }, socket =>
      this.#connect(socket, refuseAs => this.#openPlain(socket, refuseAs)),
    )
    if (options.tls) this.#tls = this.#openTls(options.tls, limits)
  }

  async listen(): Promise<{ address: ListenAddress; tlsAddress: ListenAddress | undefined }> {
    const address = await this.#listen(this.#server, this.#options.port)
    if (!this.#tls) return { address, tlsAddress: undefined }
    try {
      return { address, tlsAddress: await this.#listen(this.#tls.server, this.#tls.port) }
    } catch (error) {
      await this.close(0)
      throw error
    }
  }

  async #listen(server: Server, port: number): Promise<ListenAddress> {
    const { host } = this.#options
    const { promise, resolve, reject } = Promise.withResolvers<void>()
    server.once('error', reject)
    server.listen({ host, port }, resolve)
    try {
      await promise
    } catch (cause) {
      throw new GatewayError('CONFIG_INVALID', `cannot listen for DICOM on ${host} port ${port}`, { cause })
    }
    server.off('error', reject)
    // After listening the only errors are of single connections (out of descriptors); the next one may succeed.
    server.on('error', error => this.#shared.log.error({ cause: error.message }, 'DICOM listener'))
    const address = server.address()
    return { host, port: typeof address === 'object' && address ? address.port : port }
  }

  counters(): ScpCounters {
    const open = this.#serving.size + this.#refusing.size + (this.#tls?.door.handshaking ?? 0)
    return { ...this.#shared.counters, connectionsOpen: open }
  }

  async close(graceMs: number): Promise<void> {
    this.#isClosing = true
    const stopped = [this.#server, this.#tls?.server].map(server => stop(server))
    this.#tls?.door.close()
    const open = [...this.#serving, ...this.#refusing]
    for (const association of open) association.drain()
    const abort = setTimeout(() => {
      for (const association of open) association.abortNow()
    }, graceMs)
    await Promise.all(open.map(association => association.closed))
    clearTimeout(abort)
    await Promise.all(stopped)
  }

  #openTls(tls: ScpTls, limits: ScpLimits): { server: Server; door: TlsDoor; port: number } {
    const { handshakes, associationRequestMs } = limits
    const door = new TlsDoor(
      tls,
      { handshakes, handshakeMs: associationRequestMs },
      {
        onOpen: (socket, certificate) =>
          this.#connect(socket, refuseAs => this.#openSecured(socket, certificate, refuseAs)),
        onRefused: (address, refusal) => {
          this.#shared.counters.associationsRefused += 1
          const peer = { callingAe: '', calledAe: '', remoteAddress: plainAddress(address) }
          this.#shared.refusals.report(peer, refusal)
        },
      },
    )
    const server = createServer({ noDelay: true }, socket => {
      socket.on('error', () => undefined)
      const address = plainAddress(socket.remoteAddress)
      const { associationsPerAddress } = this.#shared.limits
      if (this.#isClosing || address === '' || this.#isAtLimit(address, associationsPerAddress)) socket.destroy()
      else door.enter(socket)
    })
    return { server, door, port: tls.port }
  }

  /** Serves a connection, or refuses it in words where it is one too many. */
  #connect(socket: Socket, open: (refuseAs?: Denial) => AcceptedAssociation): void {
    const address = plainAddress(socket.remoteAddress)
    if (this.#isClosing || address === '') socket.destroy()
    else if (this.#hasRoomFor(address)) this.#serve(open(), address)
    else if (this.#refusing.size >= maxRefusing) socket.destroy()
    else this.#register(this.#refusing, open(overLimit))
  }

  #serve(association: AcceptedAssociation, address: string): void {
    this.#perAddress.add(address)
    this.#register(this.#serving, association)
    void association.closed.then(() => this.#perAddress.remove(address))
  }

  #openPlain(accepted: Socket, refuseAs: Denial | undefined): AcceptedAssociation {
    const remoteAddress = plainAddress(accepted.remoteAddress)
    // Nothing is read before the next turn of the event loop.
    const socket = pooledSocket(accepted, this.#shared.buffers, bytes => association.receive(bytes))
    const association = new AcceptedAssociation(socket, { remoteAddress }, this.#shared, refuseAs)
    return association
  }

  /** What is decrypted is in memory of the runtime's, which our holding of views leaves alone. */
  #openSecured(
    socket: Socket,
    certificate: CallerCertificate | undefined,
    refuseAs: Denial | undefined,
  ): AcceptedAssociation {
    const remoteAddress = plainAddress(socket.remoteAddress)
    const association = new AcceptedAssociation(socket, { remoteAddress, certificate }, this.#shared, refuseAs)
    socket.on('data', (bytes: Buffer) => association.receive(bytes))
    return association
  }

  #register(set: Set<AcceptedAssociation>, association: AcceptedAssociation): void {
    set.add(association)
    void association.closed.then(() => set.delete(association))
  }

  #hasRoomFor(address: string): boolean {
    const { associations, associationsPerAddress } = this.#shared.limits
    if (this.#isAtLimit(address, associationsPerAddress)) return false
    if (this.#serving.size < associations) return true
    for (const association of this.#serving) {
      if (!association.isUnassociated || association.socket.destroyed) continue
      association.abortNow()
      return true
    }
    return false
  }

  #isAtLimit(address: string, limit: number): boolean {
    return !isLoopback(address) && this.#perAddress.of(address) >= limit
  }
}

async function stop(server: Server | undefined): Promise<void> {
  if (!server?.listening) return
  const { promise, resolve } = Promise.withResolvers<void>()
  server.close(() => resolve())
  await promise
}
