/**
 * The requestor's side of the protocol on one connection: negotiation, one outstanding request, what the
 * peer sends us meanwhile, deadlines and ends. The verbs on it are those of `scu-association.ts`.
 */
import type { Socket } from 'node:net'
import dimse from 'dcmjs-dimse'
import { GatewayError } from '../errors.ts'
import { type Command, decodeCommand } from './command.ts'
import { CommandParts } from './command-parts.ts'
import type { DatasetTarget } from './dataset-writer.ts'
import { connectionError, type DialTarget } from './dial.ts'
import {
  type AssociateAccept,
  abortReason,
  abortSource,
  decodeAssociateAccept,
  pduType,
  type Violation,
} from './pdu.ts'
import { describeAbort, describeRejection } from './reasons.ts'
import { type ContextProposal, type Proposal, RequestedContexts } from './scu-contexts.ts'
import { gather, type IncomingMessage, type IncomingServices, PeerRequests } from './scu-incoming.ts'
import { ScuResponses } from './scu-responses.ts'
import { isPending } from './status.ts'
import { maxAssociationPduBytes, UpperLayer } from './upper-layer.ts'
import { invalidParameter, unexpectedParameter, unexpectedPdu, unrecognizedPdu } from './violations.ts'

/** The node to call and how long it may take. */
export interface ScuTarget extends DialTarget {
  readonly callingAe: string
  readonly calledAe: string
  /** For the connection, the association's answer, each response and each stall of the peer. Default 30,000. */
  readonly timeoutMs?: number
  /** Ends the work by A-ABORT; the pending promise rejects with its reason. */
  readonly signal?: AbortSignal
}

const defaultTimeoutMs = 30_000
/** What peers may send us in a PDU. */
const advertisedPduLength = 262_144

/** What ends the phases of an association. */
type Answer = { readonly kind: 'accept'; readonly accept: AssociateAccept } | { readonly kind: 'released' }

/** A request that waits for its responses. */
export interface Outstanding {
  readonly contextId: number
  readonly messageId: number
  readonly responses: ScuResponses
}

/** One connection to a peer whose services we ask for. */
export class ScuConnection extends UpperLayer {
  readonly contexts = new RequestedContexts()
  readonly #target: ScuTarget
  readonly #timeoutMs: number
  readonly #requests: PeerRequests
  readonly #onAbort = (): void => this.abortNow(this.#target.signal?.reason)
  readonly #closed = Promise.withResolvers<void>()
  readonly #command = new CommandParts()
  #peerMaxPduLength = 0
  #messageId = 0
  #isAssociated = false
  /** The message whose data set is coming. */
  #incoming: IncomingMessage | undefined
  /** Work for the peer, or the removal of what did not come whole. */
  #serving: Promise<unknown> = Promise.resolve()
  #pending: PromiseWithResolvers<Answer> | undefined
  #outstanding: Outstanding | undefined
  /** Since when the peer owes us something: an answer, or room in its window. */
  #owedSince: number | undefined
  #quietMs: number
  #drained: PromiseWithResolvers<void> | undefined
  #failure: { readonly error: unknown } | undefined

  constructor(socket: Socket, target: ScuTarget, services: IncomingServices) {
    const timeoutMs = target.timeoutMs ?? defaultTimeoutMs
    super(socket, { pduMs: timeoutMs, graceMs: 1_000 })
    this.#target = target
    this.#timeoutMs = timeoutMs
    this.#quietMs = timeoutMs
    const peer = { callingAe: target.calledAe, calledAe: target.callingAe, remoteAddress: target.host }
    this.#requests = new PeerRequests(services, peer, {
      onFull: () => this.stop('memory'),
      onRoom: () => this.start('memory'),
      work: work => this.#serve(work),
      reply: encode => this.send(encode(this.#peerMaxPduLength)),
    })
    target.signal?.addEventListener('abort', this.#onAbort, { once: true })
    socket.on('drain', () => this.#drained?.resolve())
    this.watch()
  }

  /** Resolves when the socket is gone and what was being received is removed. */
  get closed(): Promise<void> {
    return this.#closed.promise
  }

  /** The longest PDU that the peer takes, 0 for any. */
  get peerMaxPduLength(): number {
    return this.#peerMaxPduLength
  }

  /** True when nothing more can be asked. */
  get hasFailed(): boolean {
    return this.#failure !== undefined
  }

  /** Proposes the contexts and waits for the answer. */
  async open(proposals: readonly ContextProposal[]): Promise<void> {
    const association = new dimse.association.Association(this.#target.callingAe, this.#target.calledAe)
    association.setMaxPduLength(advertisedPduLength)
    this.contexts.propose(association, proposals)
    const answered = this.#next()
    this.sendAssociationRequest(association)
    const answer = await answered
    if (answer.kind !== 'accept') throw this.#unexpected()
    this.contexts.take(answer.accept)
    this.#peerMaxPduLength = answer.accept.maxPduLength
  }

  /**
   * Makes place for a request: its message id and where its responses will come.
   *
   * @param options.quietMs    how long the peer may be silent before a response
   * @param options.messageId  the next one unless given
   * @throws GatewayError ASSOCIATION_REFUSED when the context was not accepted, STATE_CONFLICT when another
   *   request is outstanding, and the reason when the association has failed
   */
  begin(
    context: Proposal,
    options: { readonly quietMs?: number | undefined; readonly messageId?: number | undefined } = {},
  ): Outstanding {
    const contextId = this.contexts.idOf(context)
    if (this.#failure) throw this.#failure.error
    if (this.#outstanding) throw new GatewayError('STATE_CONFLICT', 'another request is outstanding')
    this.#messageId = options.messageId ?? (this.#messageId % 0xffff) + 1
    const responses = new ScuResponses({
      onFull: () => this.stop('responses'),
      onRoom: () => this.start('responses'),
    })
    this.#outstanding = { contextId, messageId: this.#messageId, responses }
    this.#quietMs = options.quietMs ?? this.#timeoutMs
    this.#owed(true)
    return this.#outstanding
  }

  /** Writes whole messages. */
  write(bytes: Buffer): void {
    this.send(bytes)
  }

  /** From here on the peer may be silent only as long as usual, whatever its request allowed. */
  hurry(): void {
    if (!this.#outstanding) return
    this.#quietMs = this.#timeoutMs
    this.#owed(true)
  }

  /** Where a data set is written. */
  datasetTarget(contextId: number): DatasetTarget {
    return {
      socket: this.socket,
      contextId,
      maxPduLength: this.#peerMaxPduLength,
      whenDrained: () => this.#whenDrained(),
      onProgress: () => this.#owed(true),
    }
  }

  /** Ends the association in order; a peer that does not answer is left after the time-out. */
  async release(): Promise<void> {
    if (this.isOpen && this.#isAssociated && !this.socket.destroyed) {
      const released = this.#next()
      this.sendAssociationReleaseRequest()
      await released.catch(() => undefined)
    }
    this.endSoon('close')
    await this.closed
  }

  /** Ends the association by A-ABORT; what is pending rejects with `reason`. */
  abortNow(reason: unknown): void {
    this.#fail(reason)
    if (this.#isAssociated) this.abortAndEnd(abortSource.user, abortReason.notSpecified)
    else this.socket.destroy()
  }

  protected override admit(type: number, length: number): Violation | undefined {
    switch (type) {
      case pduType.associateAccept:
      case pduType.associateReject:
        if (this.#isAssociated) return unexpectedPdu('second answer to our request')
        return length < 4 || length > maxAssociationPduBytes ? badLength : undefined
      case pduType.data:
        if (!this.#isAssociated) return unexpectedPdu('data before the association')
        return length > advertisedPduLength ? badLength : undefined
      case pduType.releaseRequest:
      case pduType.releaseResponse:
      case pduType.abort:
        return length === 4 ? undefined : badLength
      case pduType.associateRequest:
        return unexpectedPdu('a PDU that only the requesting side sends')
      default:
        return unrecognizedPdu(type)
    }
  }

  protected override control(type: number, body: Buffer): void {
    switch (type) {
      case pduType.associateAccept: {
        const accept = this.decode(() => decodeAssociateAccept(body))
        if (!accept) return
        this.#isAssociated = true
        this.#deliver({ kind: 'accept', accept })
        return
      }
      case pduType.associateReject:
        this.#fail(new GatewayError('ASSOCIATION_REFUSED', `association refused: ${describeRejection(body)}`))
        break
      case pduType.releaseResponse:
        this.#deliver({ kind: 'released' })
        return
      case pduType.releaseRequest:
        this.#fail(new GatewayError('PEER_UNREACHABLE', 'association released by the peer'))
        this.sendAssociationReleaseResponse()
        break
      default:
        this.#fail(new GatewayError('PEER_UNREACHABLE', `association aborted by the peer: ${describeAbort(body)}`))
    }
    this.endSoon('close')
  }

  protected override value(contextId: number, control: number, piece: Buffer, endOfValue: boolean): void {
    const isLast = endOfValue && (control & 2) !== 0
    if ((control & 1) === 0) this.#dataPiece(contextId, piece, isLast)
    else this.#commandPiece(contextId, piece, isLast)
  }

  protected override quietUntil(quietSince: number): number {
    if (this.#owedSince === undefined) return Number.POSITIVE_INFINITY
    return Math.max(quietSince, this.#owedSince) + this.#quietMs
  }

  protected override onExpired(): void {
    this.abortNow(new GatewayError('PEER_UNREACHABLE', `no answer within ${this.#quietMs} ms`))
  }

  protected override onViolation(violation: Violation): void {
    this.#fail(new GatewayError('PEER_PROTOCOL', `association aborted by us: ${violation.message}`))
  }

  protected override onFault(error: unknown): void {
    this.#fail(error)
  }

  protected override onSocketError(error: Error): void {
    this.#fail(connectionError(error, this.#target))
  }

  protected override onClosed(): void {
    this.#target.signal?.removeEventListener('abort', this.#onAbort)
    // Who does not want our certificate often says nothing: in TLS 1.3 the handshake is over for us before that.
    const isEarly = this.#target.tls !== undefined && !this.#isAssociated
    const hint = isEarly ? ' after the TLS handshake: does it accept our certificate?' : ''
    this.#fail(new GatewayError('PEER_UNREACHABLE', `connection closed by the peer${hint}`))
    void this.#serving.then(() => this.#closed.resolve())
  }

  #commandPiece(contextId: number, piece: Buffer, isLast: boolean): void {
    if (this.#incoming || !this.contexts.get(contextId) || !this.#command.fits(contextId)) {
      this.abortFor(unexpectedParameter('command where none is awaited'))
      return
    }
    if (!this.#command.add(contextId, piece)) {
      this.abortFor(invalidParameter('command set is longer than 64 KiB'))
      return
    }
    if (!isLast) return
    const bytes = this.#command.take()
    const command = this.decode(() => decodeCommand(bytes))
    const context = this.contexts.get(contextId)
    if (!command || !context) return
    const isResponse = (command.commandField & 0x8000) !== 0
    if (!isResponse) this.#incoming = this.#requests.begin(command, contextId, context)
    else if (!command.hasDataSet) this.#respond(command, undefined, context)
    else this.#incoming = gather(contextId, dataset => this.#respond(command, dataset, context))
  }

  #dataPiece(contextId: number, piece: Buffer, isLast: boolean): void {
    const incoming = this.#incoming
    if (incoming?.contextId !== contextId) {
      this.abortFor(unexpectedParameter('data that no command announced'))
      return
    }
    if (!incoming.push(piece)) {
      this.abortFor(invalidParameter('data set of a response is longer than 1 MiB'))
      return
    }
    if (!isLast) return
    this.#incoming = undefined
    incoming.end()
  }

  #respond(command: Command, dataset: Uint8Array | undefined, context: Proposal): void {
    const outstanding = this.#outstanding
    if (!outstanding || command.respondedMessageId !== outstanding.messageId || command.status === undefined) {
      this.#unexpected()
      return
    }
    if (!isPending(command.status)) {
      this.#outstanding = undefined
      this.#owed(false)
    }
    outstanding.responses.push({ command, status: command.status, dataset, ...context })
  }

  /** Works for the peer while reading is stopped. */
  #serve(work: () => Promise<void>): void {
    this.stop('answer')
    this.#serving = this.#serving
      .then(work)
      .catch(error => this.fault(error))
      .then(() => this.start('answer'))
  }

  #next(): Promise<Answer> {
    const pending = Promise.withResolvers<Answer>()
    if (this.#failure) {
      pending.reject(this.#failure.error)
      return pending.promise
    }
    this.#pending = pending
    this.#quietMs = this.#timeoutMs
    this.#owed(true)
    return pending.promise
  }

  #deliver(answer: Answer): void {
    const pending = this.#pending
    if (!pending) {
      this.abortFor(unexpectedPdu('answer to no request'))
      return
    }
    this.#pending = undefined
    this.#owed(false)
    pending.resolve(answer)
  }

  #fail(error: unknown): void {
    this.#failure ??= { error }
    this.#owed(false)
    this.#pending?.reject(this.#failure.error)
    this.#pending = undefined
    this.#outstanding?.responses.fail(this.#failure.error)
    this.#outstanding = undefined
    this.#drained?.reject(this.#failure.error)
    this.#command.clear()
    const discarded = this.#incoming?.discard()
    this.#incoming = undefined
    if (discarded) this.#serving = Promise.all([this.#serving, discarded])
  }

  #unexpected(): GatewayError {
    const error = new GatewayError('PEER_PROTOCOL', 'the peer answered something else than what was asked')
    this.abortNow(error)
    return error
  }

  #owed(isOwed: boolean): void {
    this.#owedSince = isOwed ? performance.now() : undefined
    this.watch()
  }

  async #whenDrained(): Promise<void> {
    if (this.#failure) throw this.#failure.error
    this.#drained = Promise.withResolvers()
    await this.#drained.promise
    this.#drained = undefined
  }
}

const badLength = invalidParameter('PDU length out of bounds')
