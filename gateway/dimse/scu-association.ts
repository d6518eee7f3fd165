/**
 * One association that we open, to send instances or to verify that a node answers.
 *
 * Data sets leave as they are stored: PDU headers and views of the read blocks are written corked,
 * nothing is parsed or encoded. dcmjs-dimse's own client reads every file into objects and manages
 * 22 instances a second where this loop manages 900.
 */
import { connect, type Socket } from 'node:net'
import dimse from 'dcmjs-dimse'
import { GatewayError } from '../errors.ts'
import { type Command, decodeCommand, encodeEchoRequest, encodeStoreRequest } from './command.ts'
import { CommandParts } from './command-parts.ts'
import { verificationSopClass } from './contexts.ts'
import { type OutgoingDataset, writeDataset } from './dataset-writer.ts'
import {
  type AssociateAccept,
  abortReason,
  abortSource,
  decodeAssociateAccept,
  encodeCommandPdus,
  pduType,
  type Violation,
} from './pdu.ts'
import { describeAbort, describeRejection } from './reasons.ts'
import type { Outcome } from './status.ts'
import { maxAssociationPduBytes, UpperLayer } from './upper-layer.ts'
import { invalidParameter, unexpectedParameter, unexpectedPdu, unrecognizedPdu } from './violations.ts'

/** The node to call and how long it may take. */
export interface ScuTarget {
  readonly host: string
  readonly port: number
  readonly callingAe: string
  readonly calledAe: string
  /** For the connection, the association's answer, each response and each stall of the peer. Default 30,000. */
  readonly timeoutMs?: number
  /** Ends the work by A-ABORT; the pending promise rejects with its reason. */
  readonly signal?: AbortSignal
}

/** A SOP class in one transfer syntax, proposed in a presentation context of its own. */
export interface Proposal {
  readonly sopClassUid: string
  readonly transferSyntaxUid: string
}

/** Presentation contexts of one association: the odd ids of one byte. */
export const maxContexts = 128

const defaultTimeoutMs = 30_000
/** What peers may send us: responses only. */
const advertisedPduLength = 131_072
/** Default of the standard for whoever has no better idea; every node that verifies takes it. */
const implicitLittleEndian = '1.2.840.10008.1.2'

/** The proposal of an association that only verifies. */
export const verificationProposal: Proposal = {
  sopClassUid: verificationSopClass,
  transferSyntaxUid: implicitLittleEndian,
}

/** The next thing that the peer owes us. */
type Answer =
  | { readonly kind: 'accept'; readonly accept: AssociateAccept }
  | { readonly kind: 'response'; readonly command: Command }
  | { readonly kind: 'released' }

/**
 * Opens an association.
 *
 * @param proposals  at most 128
 * @throws GatewayError PEER_UNREACHABLE, ASSOCIATION_REFUSED, PEER_PROTOCOL
 */
export async function openAssociation(
  target: ScuTarget,
  proposals: readonly Proposal[],
): Promise<RequestedAssociation> {
  target.signal?.throwIfAborted()
  const socket = connect({ host: target.host, port: target.port, noDelay: true })
  const association = new RequestedAssociation(socket, target)
  socket.on('data', (chunk: Buffer) => association.receive(chunk))
  await association.request(proposals)
  return association
}

/** The requestor's side of one association, one request at a time. */
export class RequestedAssociation extends UpperLayer {
  readonly #target: ScuTarget
  readonly #timeoutMs: number
  readonly #onAbort = (): void => this.abortNow(this.#target.signal?.reason)
  readonly #closed = Promise.withResolvers<void>()
  readonly #contextIds = new Map<string, number>()
  #peerMaxPduLength = 0
  #messageId = 0
  #isAssociated = false
  readonly #command = new CommandParts()
  #pending: PromiseWithResolvers<Answer> | undefined
  /** Since when the peer owes us something: an answer, or room in its window. */
  #owedSince: number | undefined
  #drained: PromiseWithResolvers<void> | undefined
  #failure: { readonly error: unknown } | undefined

  constructor(socket: Socket, target: ScuTarget) {
    const timeoutMs = target.timeoutMs ?? defaultTimeoutMs
    super(socket, { pduMs: timeoutMs, graceMs: 1_000 })
    this.#target = target
    this.#timeoutMs = timeoutMs
    target.signal?.addEventListener('abort', this.#onAbort, { once: true })
    socket.on('drain', () => this.#drained?.resolve())
    this.watch()
  }

  /** Resolves when the socket is gone. */
  get closed(): Promise<void> {
    return this.#closed.promise
  }

  /** True where the peer takes this class in this transfer syntax. */
  accepts(proposal: Proposal): boolean {
    return this.#contextIds.has(keyOf(proposal))
  }

  /** Proposes the contexts and waits for the answer. */
  async request(proposals: readonly Proposal[]): Promise<void> {
    const association = new dimse.association.Association(this.#target.callingAe, this.#target.calledAe)
    association.setMaxPduLength(advertisedPduLength)
    const proposed = new Map<number, Proposal>()
    for (const proposal of proposals.slice(0, maxContexts)) {
      const id = association.addPresentationContext(proposal.sopClassUid)
      association.addTransferSyntaxToPresentationContext(id, proposal.transferSyntaxUid)
      proposed.set(id, proposal)
    }
    this.socket.once('connect', () => this.sendAssociationRequest(association))
    const answer = await this.#next()
    if (answer.kind !== 'accept') throw this.#unexpected()
    for (const context of answer.accept.contexts) {
      const proposal = proposed.get(context.id)
      if (context.result === 0 && proposal?.transferSyntaxUid === context.transferSyntaxUid) {
        this.#contextIds.set(keyOf(proposal), context.id)
      }
    }
    this.#peerMaxPduLength = answer.accept.maxPduLength
  }

  /** Sends a C-ECHO and returns its status. */
  async echo(): Promise<Outcome> {
    const contextId = this.#contextFor(verificationProposal)
    const response = this.#response()
    const command = encodeEchoRequest(this.#messageId, verificationSopClass)
    this.socket.write(encodeCommandPdus(contextId, command, this.#peerMaxPduLength))
    return await response
  }

  /**
   * Sends one instance and returns the peer's verdict.
   *
   * @param dataset     stays open
   * @param firstBlock  the data set's first bytes, read ahead by `readBlock`
   * @throws whatever reading the data set throws (the association is aborted then), and GatewayError
   *   PEER_UNREACHABLE, PEER_PROTOCOL
   */
  async store(
    instance: Proposal & { readonly sopInstanceUid: string },
    dataset: OutgoingDataset,
    firstBlock: Uint8Array,
  ): Promise<Outcome> {
    const contextId = this.#contextFor(instance)
    const response = this.#response()
    response.catch(() => undefined)
    const command = encodeStoreRequest(this.#messageId, instance.sopClassUid, instance.sopInstanceUid)
    try {
      this.socket.cork()
      this.socket.write(encodeCommandPdus(contextId, command, this.#peerMaxPduLength))
      await writeDataset(
        {
          socket: this.socket,
          contextId,
          maxPduLength: this.#peerMaxPduLength,
          whenDrained: () => this.#whenDrained(),
          onProgress: () => this.#owed(true),
        },
        dataset,
        firstBlock,
      )
    } catch (error) {
      this.abortNow(error)
    }
    return await response
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
        return unrecognizedPdu()
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
    if ((control & 1) === 0 || !this.#command.fits(contextId) || !this.#command.add(contextId, piece)) {
      this.abortFor(unexpectedParameter('data that no request asked for'))
      return
    }
    if (!endOfValue || (control & 2) === 0) return
    const bytes = this.#command.take()
    const command = this.decode(() => decodeCommand(bytes))
    if (command) this.#deliver({ kind: 'response', command })
  }

  protected override quietUntil(quietSince: number): number {
    if (this.#owedSince === undefined) return Number.POSITIVE_INFINITY
    return Math.max(quietSince, this.#owedSince) + this.#timeoutMs
  }

  protected override onExpired(): void {
    this.abortNow(new GatewayError('PEER_UNREACHABLE', `no answer within ${this.#timeoutMs} ms`))
  }

  protected override onViolation(violation: Violation): void {
    this.#fail(new GatewayError('PEER_PROTOCOL', `association aborted by us: ${violation.message}`))
  }

  protected override onFault(error: unknown): void {
    this.#fail(error)
  }

  protected override onSocketError(error: Error): void {
    this.#fail(new GatewayError('PEER_UNREACHABLE', 'connection failed', { cause: error }))
  }

  protected override onClosed(): void {
    this.#target.signal?.removeEventListener('abort', this.#onAbort)
    this.#fail(new GatewayError('PEER_UNREACHABLE', 'connection closed by the peer'))
    this.#closed.resolve()
  }

  #contextFor(proposal: Proposal): number {
    const id = this.#contextIds.get(keyOf(proposal))
    if (id === undefined) throw new GatewayError('ASSOCIATION_REFUSED', 'presentation context was not accepted')
    return id
  }

  /** Waits for the response to the next request, whose message id is set here. */
  async #response(): Promise<Outcome> {
    this.#messageId = (this.#messageId % 0xffff) + 1
    const messageId = this.#messageId
    const answer = await this.#next()
    if (answer.kind !== 'response') throw this.#unexpected()
    const { respondedMessageId, status, errorComment } = answer.command
    if (respondedMessageId !== messageId || status === undefined) throw this.#unexpected()
    return errorComment === undefined ? { status } : { status, comment: errorComment }
  }

  #next(): Promise<Answer> {
    const pending = Promise.withResolvers<Answer>()
    if (this.#failure) {
      pending.reject(this.#failure.error)
      return pending.promise
    }
    this.#pending = pending
    this.#owed(true)
    return pending.promise
  }

  #deliver(answer: Answer): void {
    const pending = this.#pending
    if (!pending) {
      this.abortFor(unexpectedParameter('answer to no request'))
      return
    }
    this.#pending = undefined
    this.#owed(false)
    pending.resolve(answer)
  }

  #fail(error: unknown): void {
    this.#failure ??= { error }
    this.#owed(false)
    this.#pending?.reject(error)
    this.#pending = undefined
    this.#drained?.reject(error)
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

/** One text for a class in a transfer syntax. */
export function keyOf(proposal: Proposal): string {
  return `${proposal.sopClassUid} ${proposal.transferSyntaxUid}`
}

const badLength = invalidParameter('PDU length out of bounds')
