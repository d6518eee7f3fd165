/**
 * The MLLP listener: messages one at a time on each connection, each answered before the next is read. What a sender
 * may cost is bounded: connections, bytes of a message, time of a message, silence.
 */
import { readFileSync } from 'node:fs'
import { createServer as createTcpServer, type Server, type Socket } from 'node:net'
import { createServer as createTlsServer } from 'node:tls'
import { errorLine } from '../errors.ts'
import type { Log } from '../log.ts'
import { FrameReader, frame } from './mllp.ts'

/** Where messages go. */
export interface Hl7Service {
  /** The acknowledgement; undefined for what has no header that could be answered, and the connection is closed. */
  answer(message: Buffer, from: { readonly address: string }): Promise<Buffer | undefined>
}

export interface Hl7Limits {
  readonly connections: number
  readonly connectionsPerAddress: number
  readonly messageBytes: number
  /** From the first byte of a message to its last. */
  readonly messageMs: number
  /** Silence between messages. */
  readonly idleMs: number
}

export const defaultHl7Limits: Hl7Limits = {
  connections: 64,
  connectionsPerAddress: 16,
  messageBytes: 1_048_576,
  messageMs: 30_000,
  idleMs: 3_600_000,
}

export interface Hl7Options {
  readonly host: string
  /** 0 takes a free one. */
  readonly port: number
  /** With `clientCaFile` senders must show a certificate of that authority. */
  readonly tls?:
    | {
        readonly certificateFile: string
        readonly keyFile: string
        readonly clientCaFile?: string | undefined
      }
    | undefined
  readonly service: Hl7Service
  readonly limits?: Partial<Hl7Limits>
  readonly onRefused?: (refusal: { readonly address: string; readonly reason: string }) => void
  readonly log: Log
}

/** A running listener. */
export interface Hl7Listener {
  readonly address: { readonly host: string; readonly port: number }
  /** Takes no more messages, lets those under way be answered for at most `graceMs` (default 10 s), then closes. */
  close(options?: { readonly graceMs?: number }): Promise<void>
}

/** Opens the listener. */
export async function openHl7(options: Hl7Options): Promise<Hl7Listener> {
  const { host, port, service, tls } = options
  const log = options.log.child({ part: 'hl7' })
  const limits = { ...defaultHl7Limits, ...options.limits }
  const open = new Set<Connection>()
  const refuse = (address: string, reason: string): void => {
    log.warn({ address, reason }, 'refused an HL7 sender')
    options.onRefused?.({ address, reason })
  }

  const admit = (socket: Socket): void => {
    const address = (socket.remoteAddress ?? '').replace(/^::ffff:/, '')
    socket.on('error', () => socket.destroy())
    const same = [...open].filter(other => other.address === address).length
    if (isClosing || open.size >= limits.connections || same >= limits.connectionsPerAddress) {
      if (!isClosing) refuse(address, 'limit')
      socket.destroy()
      return
    }
    const connection = new Connection(socket, address, { service, limits, log, onViolation: refuse })
    open.add(connection)
    socket.once('close', () => open.delete(connection))
  }

  let isClosing = false
  const server = tls
    ? createTlsServer(
        {
          cert: readFileSync(tls.certificateFile),
          key: readFileSync(tls.keyFile),
          minVersion: 'TLSv1.2',
          handshakeTimeout: 15_000,
          ...(tls.clientCaFile !== undefined && {
            ca: readFileSync(tls.clientCaFile),
            requestCert: true,
            rejectUnauthorized: true,
          }),
        },
        admit,
      )
    : createTcpServer(admit)
  // Sockets in their handshake are no connections yet; they are few, and end within the time for it.
  server.maxConnections = limits.connections + 32
  // Until it is a connection, a socket belongs to nobody else who would end it.
  const arriving = new Set<Socket>()
  if (tls)
    server.on('connection', socket => {
      arriving.add(socket)
      socket.once('close', () => arriving.delete(socket))
    })
  server.on('tlsClientError', (_error: Error, socket: Socket) => {
    refuse((socket.remoteAddress ?? '').replace(/^::ffff:/, ''), 'tls')
  })
  await listening(server, host, port)
  server.on('error', error => log.error({ cause: errorLine(error) }, 'the HL7 listener failed'))
  const bound = server.address()
  return {
    address: { host, port: bound !== null && typeof bound === 'object' ? bound.port : port },
    close: async ({ graceMs = 10_000 } = {}) => {
      isClosing = true
      const closed = new Promise<void>(resolve => server.close(() => resolve()))
      const timer = setTimeout(() => {
        for (const connection of open) connection.destroy()
        for (const socket of arriving) socket.destroy()
      }, graceMs)
      for (const connection of open) connection.drain()
      if (open.size === 0) for (const socket of arriving) socket.destroy()
      await closed
      clearTimeout(timer)
    },
  }
}

async function listening(server: Server, host: string, port: number): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>()
  server.once('error', reject)
  server.listen({ host, port }, resolve)
  await promise
  server.off('error', reject)
}

/** What all connections share. */
interface Shared {
  readonly service: Hl7Service
  readonly limits: Hl7Limits
  readonly log: Log
  readonly onViolation: (address: string, reason: string) => void
}

class Connection {
  readonly address: string
  readonly #socket: Socket
  readonly #shared: Shared
  readonly #reader: FrameReader
  #deadline: NodeJS.Timeout | undefined
  /** When the message that is coming began. */
  #begun: number | undefined
  #isAnswering = false
  #isDraining = false

  constructor(socket: Socket, address: string, shared: Shared) {
    this.address = address
    this.#socket = socket
    this.#shared = shared
    this.#reader = new FrameReader(shared.limits.messageBytes)
    socket.setNoDelay(true)
    socket.setTimeout(shared.limits.idleMs, () => socket.destroy())
    socket.on('data', (chunk: Buffer) => this.#receive(chunk))
    socket.once('close', () => clearTimeout(this.#deadline))
    // A sender that closes its side has heard enough.
    socket.once('end', () => {
      if (!this.#isAnswering) socket.destroy()
    })
  }

  /** Closes as soon as no message is under way. */
  drain(): void {
    this.#isDraining = true
    if (!this.#isAnswering) this.destroy()
  }

  destroy(): void {
    this.#socket.destroy()
  }

  #receive(chunk: Buffer): void {
    const { messages, violation } = this.#reader.push(chunk)
    clearTimeout(this.#deadline)
    if (this.#reader.isInside && !violation) this.#deadline = setTimeout(() => this.#violate('slow'), this.#left())
    else this.#begun = undefined
    if (messages.length === 0) {
      if (violation) this.#violate(violation)
      return
    }
    this.#socket.pause()
    this.#isAnswering = true
    this.#answerAll(messages)
      .catch(error => {
        this.#shared.log.error({ cause: errorLine(error) }, 'an HL7 message could not be answered')
        this.destroy()
      })
      .finally(() => {
        this.#isAnswering = false
        if (violation) this.#violate(violation)
        else if (this.#isDraining || this.#socket.readableEnded) this.#socket.end(() => this.destroy())
        else this.#socket.resume()
      })
  }

  /** Milliseconds until the message that has begun must have ended. */
  #left(): number {
    this.#begun ??= performance.now()
    return Math.max(0, this.#shared.limits.messageMs - (performance.now() - this.#begun))
  }

  async #answerAll(messages: readonly Buffer[]): Promise<void> {
    for (const message of messages) {
      if (this.#socket.destroyed) return
      const answer = await this.#shared.service.answer(message, { address: this.address })
      if (!answer) {
        this.#violate('no-header')
        return
      }
      if (!this.#socket.destroyed) await written(this.#socket, frame(answer))
    }
  }

  #violate(reason: string): void {
    if (this.#socket.destroyed) return
    this.#shared.onViolation(this.address, reason)
    this.destroy()
  }
}

/** Resolves when the bytes are on their way, or the socket is gone. */
async function written(socket: Socket, bytes: Buffer): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>()
  socket.once('close', resolve)
  socket.write(bytes, () => resolve())
  await promise
  socket.off('close', resolve)
}
