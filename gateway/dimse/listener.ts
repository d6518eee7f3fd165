/**
 * The listening side: takes connections within limits and ends all of them on close.
 *
 * Over a limit the caller hears why: its association request is read and refused with "local limit
 * exceeded" (transient), so that it tries again. Connections that have not asked for an
 * association yet are given up first, so that half-open ones cannot shut out real callers.
 */
import { createServer, type Server, type Socket } from 'node:net'
import { GatewayError } from '../errors.ts'
import { AcceptedAssociation, type AssociationContext } from './association.ts'
import { ReceiveBudget } from './budget.ts'
import { type Denial, isLoopback, plainAddress } from './callers.ts'
import { rejections } from './pdu.ts'
import { pooledSocket } from './pooled-socket.ts'
import { ReceiveBuffers } from './receive-buffers.ts'
import { RefusalReports } from './refusals.ts'
import { defaultScpLimits, type ListenAddress, type Scp, type ScpCounters, type ScpOptions } from './scp.ts'

/** Connections over the limit that are told so at a time; more are just closed. */
const maxRefusing = 64

const overLimit: Denial = {
  rejection: rejections.localLimit,
  reason: 'limit',
  message: 'association refused: too many associations are open',
}

/**
 * Listens for associations.
 *
 * @throws GatewayError CONFIG_INVALID when host and port cannot be bound
 */
export async function openScp(options: ScpOptions): Promise<Scp> {
  const listener = new ScpListener(options)
  const address = await listener.listen()
  return {
    address,
    counters: () => listener.counters(),
    close: (closing = {}) => listener.close(closing.graceMs ?? 10_000),
  }
}

class ScpListener {
  readonly #options: ScpOptions
  readonly #shared: AssociationContext
  readonly #server: Server
  /** In the order in which they came. */
  readonly #serving = new Set<AcceptedAssociation>()
  readonly #refusing = new Set<AcceptedAssociation>()
  readonly #perAddress = new Map<string, number>()
  #isClosing = false

  constructor(options: ScpOptions) {
    const limits = { ...defaultScpLimits, ...options.limits }
    this.#options = options
    this.#shared = {
      callers: options,
      privateSopClasses: new Set(options.privateSopClasses),
      services: new Map(
        (options.services ?? []).flatMap(service => service.sopClassUids.map(uid => [uid, service] as const)),
      ),
      store: options.store,
      budget: new ReceiveBudget(limits.heldBytes),
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
    this.#server = createServer({ noDelay: true, pauseOnConnect: true }, socket => this.#connect(socket))
  }

  async listen(): Promise<ListenAddress> {
    const { host, port } = this.#options
    const { promise, resolve, reject } = Promise.withResolvers<void>()
    this.#server.once('error', reject)
    this.#server.listen({ host, port }, resolve)
    try {
      await promise
    } catch (cause) {
      throw new GatewayError('CONFIG_INVALID', `cannot listen for DICOM on ${host} port ${port}`, { cause })
    }
    this.#server.off('error', reject)
    // After listening the only errors are of single connections (out of descriptors); the next one may succeed.
    this.#server.on('error', error => this.#shared.log.error({ cause: error.message }, 'DICOM listener'))
    const address = this.#server.address()
    return { host, port: typeof address === 'object' && address ? address.port : port }
  }

  counters(): ScpCounters {
    return { ...this.#shared.counters, connectionsOpen: this.#serving.size + this.#refusing.size }
  }

  async close(graceMs: number): Promise<void> {
    this.#isClosing = true
    const { promise: stopped, resolve } = Promise.withResolvers<void>()
    this.#server.close(() => resolve())
    const open = [...this.#serving, ...this.#refusing]
    for (const association of open) association.drain()
    const abort = setTimeout(() => {
      for (const association of open) association.abortNow()
    }, graceMs)
    await Promise.all(open.map(association => association.closed))
    clearTimeout(abort)
    await stopped
  }

  #connect(socket: Socket): void {
    const address = plainAddress(socket.remoteAddress)
    if (this.#isClosing || address === '') {
      socket.destroy()
      return
    }
    if (this.#hasRoomFor(address)) {
      this.#serve(socket, address)
      return
    }
    if (this.#refusing.size >= maxRefusing) {
      socket.destroy()
      return
    }
    this.#register(this.#refusing, this.#open(socket, address, overLimit))
  }

  #serve(socket: Socket, address: string): void {
    this.#perAddress.set(address, this.#countOf(address) + 1)
    const association = this.#open(socket, address)
    this.#register(this.#serving, association)
    void association.closed.then(() => {
      const count = this.#countOf(address) - 1
      if (count > 0) this.#perAddress.set(address, count)
      else this.#perAddress.delete(address)
    })
  }

  #open(accepted: Socket, address: string, refuseAs?: Denial): AcceptedAssociation {
    // Nothing is read before the next turn of the event loop.
    const socket = pooledSocket(accepted, this.#shared.buffers, bytes => association.receive(bytes))
    const association = new AcceptedAssociation(socket, address, this.#shared, refuseAs)
    return association
  }

  #register(set: Set<AcceptedAssociation>, association: AcceptedAssociation): void {
    set.add(association)
    void association.closed.then(() => set.delete(association))
  }

  #hasRoomFor(address: string): boolean {
    const { associations, associationsPerAddress } = this.#shared.limits
    if (!isLoopback(address) && this.#countOf(address) >= associationsPerAddress) return false
    if (this.#serving.size < associations) return true
    for (const association of this.#serving) {
      if (!association.isUnassociated || association.socket.destroyed) continue
      association.abortNow()
      return true
    }
    return false
  }

  #countOf(address: string): number {
    return this.#perAddress.get(address) ?? 0
  }
}
