/**
 * One association that a peer opened: negotiation, then its messages one at a time in the order in
 * which they came. While a message is answered nothing of the next one is parsed, so a peer that
 * does not wait for responses costs no memory (no asynchronous operations are negotiated, PS3.7
 * §D.3.3.3).
 */
import type { Socket } from 'node:net'
import dimse from 'dcmjs-dimse'
import type { Log } from '../log.ts'
import type { ReceiveBudget } from './budget.ts'
import { type CallerPolicy, type Denial, deny } from './callers.ts'
import { type Command, commandField, decodeCommand, encodeResponse, maxCommandBytes } from './command.ts'
import { type AcceptedContext, contextResult, type NegotiatedContext, negotiate } from './contexts.ts'
import {
  type AssociateRequest,
  abortReason,
  abortSource,
  decodeAssociateRequest,
  encodeCommandPdus,
  pduType,
  type Rejection,
  type Violation,
} from './pdu.ts'
import type { ReceiveBuffers } from './receive-buffers.ts'
import type { RefusalReports } from './refusals.ts'
import type { AssociationPeer, ScpCounters, ScpLimits, StoreService } from './scp.ts'
import { isStored, type Outcome, status } from './status.ts'
import { StoreReception } from './store-stream.ts'
import { type Association, maxAssociationPduBytes, UpperLayer } from './upper-layer.ts'

/** What all associations of a listener share. */
export interface AssociationContext {
  readonly callers: CallerPolicy
  readonly privateSopClasses: ReadonlySet<string>
  readonly store: StoreService
  readonly budget: ReceiveBudget
  readonly buffers: ReceiveBuffers
  readonly limits: ScpLimits
  readonly counters: ScpCounters
  readonly refusals: RefusalReports
  readonly log: Log
}

/** A message whose data set is coming. */
interface Incoming {
  readonly contextId: number
  readonly reply: (outcome: Outcome) => void
  /** Where the data set goes; it is thrown away when `outcome` is already known. */
  readonly reception: StoreReception | undefined
  readonly outcome: Outcome
}

/** The acceptor's side of one association. */
export class AcceptedAssociation extends UpperLayer {
  readonly #shared: AssociationContext
  readonly #refuseAs: Denial | undefined
  readonly #remoteAddress: string
  readonly #connectedAt = performance.now()
  readonly #whenClosed = Promise.withResolvers<void>()
  #log: Log
  #state: 'new' | 'deciding' | 'associated' = 'new'
  #peer: AssociationPeer | undefined
  #peerMaxPduLength = 0
  #contexts = new Map<number, AcceptedContext>()
  #commandParts: Buffer[] = []
  #commandBytes = 0
  #commandContextId: number | undefined
  #incoming: Incoming | undefined
  /** The answer that is being worked out; reading is stopped meanwhile. */
  #answering: Promise<void> | undefined
  #isDraining = false
  #stored = 0

  /** @param refuseAs  set when the listener is over a limit: the request is read and refused */
  constructor(socket: Socket, remoteAddress: string, shared: AssociationContext, refuseAs?: Denial) {
    super(socket, { pduMs: shared.limits.pduMs, graceMs: shared.limits.graceMs }, shared.buffers)
    this.#shared = shared
    this.#remoteAddress = remoteAddress
    this.#refuseAs = refuseAs
    this.#log = shared.log.child({ remoteAddress })
    this.watch()
  }

  /** Resolves when the socket is gone and nothing staged is left. */
  get closed(): Promise<void> {
    return this.#whenClosed.promise
  }

  /** True until the association request has come: such a connection may be given up for another one. */
  get isUnassociated(): boolean {
    return this.#state === 'new'
  }

  /** Ends the association as soon as no message is under way. */
  drain(): void {
    this.#isDraining = true
    if (!this.#incoming && !this.#answering && this.#commandParts.length === 0) this.abortNow()
  }

  /** Ends the association now. */
  abortNow(): void {
    if (this.#state === 'associated' && this.isOpen) this.abortAndEnd(abortSource.provider, abortReason.notSpecified)
    else this.socket.destroy()
  }

  protected override admit(type: number, length: number): Violation | undefined {
    switch (type) {
      case pduType.associateRequest:
        if (this.#state !== 'new') return unexpected('association request on an association')
        return length > maxAssociationPduBytes ? invalid('association request is longer than 1 MiB') : undefined
      case pduType.data:
        if (this.#state !== 'associated') return unexpected('data before the association')
        return length > this.#shared.limits.maxPduLength ? invalid('data PDU is longer than we allow') : undefined
      case pduType.releaseRequest:
        if (this.#state !== 'associated') return unexpected('release before the association')
        return length === 4 ? undefined : invalid('release request is not four bytes')
      case pduType.abort:
        return length === 4 ? undefined : invalid('abort is not four bytes')
      case pduType.associateAccept:
      case pduType.associateReject:
      case pduType.releaseResponse:
        return unexpected('a PDU that only the accepting side sends')
      default:
        return { reason: abortReason.unrecognizedPdu, message: 'unknown PDU type' }
    }
  }

  protected override control(type: number, body: Buffer): void {
    if (type === pduType.associateRequest) this.#request(body)
    else if (type === pduType.releaseRequest) this.associationReleaseRequested()
    else this.abort(body.readUInt8(2), body.readUInt8(3))
  }

  protected override value(contextId: number, control: number, piece: Buffer, endOfValue: boolean): void {
    const isLast = endOfValue && (control & 2) !== 0
    if ((control & 1) !== 0) this.#commandPiece(contextId, piece, isLast)
    else this.#dataPiece(contextId, piece, isLast)
  }

  protected override quietUntil(quietSince: number): number {
    const { associationRequestMs, idleMs, pduMs } = this.#shared.limits
    if (this.#state !== 'associated') return this.#connectedAt + associationRequestMs
    return quietSince + (this.#incoming || this.#commandParts.length > 0 ? pduMs : idleMs)
  }

  protected override onExpired(): void {
    this.#log.info({}, this.#state === 'associated' ? 'association timed out' : 'no association request in time')
    if (this.#state === 'associated') this.#shared.counters.associationsAborted += 1
    this.abortNow()
  }

  protected override onViolation(violation: Violation): void {
    this.#log.warn({ reason: violation.reason }, `association aborted: ${violation.message}`)
    this.#shared.counters.associationsAborted += 1
    this.#discard()
  }

  protected override onFault(error: unknown): void {
    this.#log.error({ cause: error instanceof Error ? error.message : String(error) }, 'association failed')
    this.#shared.counters.associationsAborted += 1
    this.#discard()
  }

  protected override onClosed(): void {
    this.#discard()
    if (this.#state === 'associated') {
      this.#shared.counters.associationsOpen -= 1
      this.#log.debug({ instances: this.#stored }, 'association closed')
    }
    void this.#settled().then(() => this.#whenClosed.resolve())
  }

  /** Called by `#request` with the library's object, as the library's own reader would. */
  override associationRequested(association: Association): void {
    this.association = association
    this.sendAssociationAccept()
    this.#state = 'associated'
    this.#shared.counters.associationsAccepted += 1
    this.#shared.counters.associationsOpen += 1
  }

  override associationReleaseRequested(): void {
    this.#discard()
    this.sendAssociationReleaseResponse()
    this.endSoon('wait')
  }

  override abort(source: number, reason: number): void {
    this.#log.info({ source, reason }, 'association aborted by the peer')
    this.#shared.counters.associationsAborted += 1
    this.#discard()
    this.endSoon('close')
  }

  #request(body: Buffer): void {
    const request = this.decode(() => decodeAssociateRequest(body))
    if (!request) return
    if (request.maxPduLength !== 0 && request.maxPduLength < 16) {
      this.abortFor(invalid("the peer's maximum PDU length leaves no room for data"))
      return
    }
    this.#state = 'deciding'
    const { callingAe, calledAe } = request
    const peer = { callingAe, calledAe, remoteAddress: this.#remoteAddress }
    this.#peer = peer
    this.#log = this.#log.child({ callingAe, calledAe })
    this.#answer(async () => {
      const denial = this.#refuseAs ?? (await deny(request, peer, this.#shared.callers))
      if (!this.isOpen) return
      if (denial) this.#refuse(denial, peer)
      else this.#accept(request)
    })
  }

  /** Works out one answer while reading is stopped. */
  #answer(work: () => Promise<void>): void {
    this.stop('answer')
    this.#answering = work()
      .catch(error => this.fault(error))
      .then(() => {
        this.#answering = undefined
        this.start('answer')
      })
  }

  #accept(request: AssociateRequest): void {
    const answers = negotiate(request.contexts, this.#shared.privateSopClasses)
    for (const answer of answers) {
      if (answer.result === contextResult.accepted) this.#contexts.set(answer.id, answer)
    }
    this.#peerMaxPduLength = request.maxPduLength
    this.associationRequested(this.#libraryAssociation(request, answers))
    this.#log.debug({ contexts: answers.length, accepted: this.#contexts.size }, 'association accepted')
    if (this.#isDraining) this.abortNow()
  }

  /** Contexts are put in directly: `addPresentationContext` would renumber ids that do not ascend. */
  #libraryAssociation(request: AssociateRequest, answers: readonly NegotiatedContext[]): Association {
    const association = new dimse.association.Association(request.callingAe, request.calledAe)
    // sendAssociationAccept advertises this one; what the peer takes is in #peerMaxPduLength.
    association.setMaxPduLength(this.#shared.limits.maxPduLength)
    const roles = new Map(request.roles.map(role => [role.sopClassUid, role]))
    for (const answer of answers) {
      const context = new dimse.association.PresentationContext(answer.id, answer.abstractSyntaxUid)
      if (answer.result === contextResult.accepted) context.setResult(0, answer.transferSyntaxUid)
      else context.setResult(answer.result)
      const role = roles.get(answer.abstractSyntaxUid)
      // One answer for each SOP class: we never take the SCU's part on a peer's association.
      if (role && answer.result === contextResult.accepted && roles.delete(answer.abstractSyntaxUid)) {
        context.setUserRole(role.scu)
        context.setProviderRole(false)
      }
      association.getPresentationContexts().push({ id: answer.id, context })
    }
    return association
  }

  #refuse(denial: Denial, peer: AssociationPeer): void {
    this.#shared.counters.associationsRefused += 1
    this.#shared.refusals.report(peer, denial)
    const { result, source, reason }: Rejection = denial.rejection
    this.sendAssociationReject(result, source, reason)
    this.endSoon('close')
  }

  #commandPiece(contextId: number, piece: Buffer, isLast: boolean): void {
    if (!this.#contexts.has(contextId)) {
      this.abortFor(invalid('command on a context that is not accepted'))
      return
    }
    if (this.#incoming) {
      this.abortFor(unexpectedValue('command where a data set is awaited'))
      return
    }
    if (this.#commandContextId !== undefined && this.#commandContextId !== contextId) {
      this.abortFor(unexpectedValue('command goes on in another context'))
      return
    }
    this.#commandContextId = contextId
    this.#commandBytes += piece.length
    if (this.#commandBytes > maxCommandBytes) {
      this.abortFor(invalid('command set is longer than 64 KiB'))
      return
    }
    this.#commandParts.push(Buffer.from(piece))
    if (!isLast) return
    const bytes = Buffer.concat(this.#commandParts)
    this.#commandParts = []
    this.#commandBytes = 0
    this.#commandContextId = undefined
    const command = this.decode(() => decodeCommand(bytes))
    const context = this.#contexts.get(contextId)
    if (command && context) this.#perform(command, context)
  }

  #dataPiece(contextId: number, piece: Buffer, isLast: boolean): void {
    const incoming = this.#incoming
    if (!incoming) {
      this.abortFor(unexpectedValue('data set without command'))
      return
    }
    if (incoming.contextId !== contextId) {
      this.abortFor(unexpectedValue('data set in another context'))
      return
    }
    this.#shared.counters.datasetBytesReceived += piece.length
    incoming.reception?.push(piece)
    if (!isLast) return
    this.#incoming = undefined
    const { reception } = incoming
    if (!reception) {
      incoming.reply(incoming.outcome)
      return
    }
    this.#answer(async () => incoming.reply(await reception.end()))
  }

  #perform(command: Command, context: AcceptedContext): void {
    // C-CANCEL has no response (PS3.7 §9.3.2.3), and there is nothing to cancel here.
    if (command.commandField === commandField.cancelRequest) return
    if ((command.commandField & 0x8000) !== 0) {
      this.abortFor(unexpectedValue('response to no request'))
      return
    }
    const { messageId } = command
    if (messageId === undefined) {
      this.abortFor(invalid('request has no message id'))
      return
    }
    const reply = (outcome: Outcome): void => this.#reply(command, messageId, context, outcome)
    const isStore = command.commandField === commandField.storeRequest && context.service === 'storage'
    const outcome = isStore ? checkStore(command, context) : checkOther(command, context)
    if (!command.hasDataSet) {
      reply(outcome)
      return
    }
    const reception = isStore && outcome.status === status.success ? this.#receive(command, context) : undefined
    this.#incoming = { contextId: context.id, reply, outcome, reception }
  }

  #receive(command: Command, context: AcceptedContext): StoreReception | undefined {
    const { sopClassUid, sopInstanceUid } = command
    const association = this.#peer
    if (sopClassUid === undefined || sopInstanceUid === undefined || !association) return undefined
    return new StoreReception({
      service: this.#shared.store,
      request: { sopClassUid, sopInstanceUid, transferSyntaxUid: context.transferSyntaxUid, association },
      budget: this.#shared.budget,
      buffers: this.#shared.buffers,
      heldBytesLimit: this.#shared.limits.heldBytesPerAssociation,
      onFull: () => this.stop('memory'),
      onRoom: () => this.start('memory'),
    })
  }

  #reply(command: Command, messageId: number, context: AcceptedContext, outcome: Outcome): void {
    if (command.commandField === commandField.storeRequest) this.#count(command, outcome)
    const response = encodeResponse({
      commandField: command.commandField | 0x8000,
      messageId,
      sopClassUid: command.sopClassUid,
      sopInstanceUid: command.sopInstanceUid,
      status: outcome.status,
      comment: outcome.comment,
    })
    this.send(encodeCommandPdus(context.id, response, this.#peerMaxPduLength))
    if (this.#isDraining) this.abortNow()
  }

  #count(command: Command, outcome: Outcome): void {
    if (isStored(outcome.status)) {
      this.#stored += 1
      this.#shared.counters.instancesStored += 1
      return
    }
    this.#shared.counters.instancesFailed += 1
    const context = { status: outcome.status.toString(16), sopInstanceUid: command.sopInstanceUid?.slice(0, 64) }
    this.#log.warn(context, `instance not stored: ${outcome.comment ?? 'no comment'}`)
  }

  /** The message that is coming will not come whole. */
  #discard(): void {
    this.#commandParts = []
    const reception = this.#incoming?.reception
    this.#incoming = undefined
    if (!reception) return
    const answering = this.#answering
    this.#answering = reception.discard().then(() => answering)
  }

  async #settled(): Promise<void> {
    while (this.#answering) {
      const answering = this.#answering
      await answering
      if (this.#answering === answering) this.#answering = undefined
    }
  }
}

/** PS3.4 §B.2.2 and PS3.7 §9.1.1: what a C-STORE-RQ must hold, and that it fits its context. */
function checkStore(command: Command, context: AcceptedContext): Outcome {
  const { sopClassUid, sopInstanceUid } = command
  if (sopClassUid === undefined) return { status: status.missingAttribute, comment: 'no affected SOP class UID' }
  if (sopInstanceUid === undefined) return { status: status.missingAttribute, comment: 'no affected SOP instance UID' }
  if (sopClassUid !== context.abstractSyntaxUid) {
    return { status: status.sopClassNotSupported, comment: 'SOP class differs from the presentation context' }
  }
  // Leading zeros in components are tolerated: devices in the field write them.
  if (!/^[0-9.]{1,64}$/.test(sopInstanceUid)) {
    return { status: status.invalidAttributeValue, comment: 'affected SOP instance UID is not a UID' }
  }
  if (!command.hasDataSet) return { status: status.cannotUnderstand, comment: 'no data set' }
  return { status: status.success }
}

function checkOther(command: Command, context: AcceptedContext): Outcome {
  const isEcho = command.commandField === commandField.echoRequest && context.service === 'verification'
  return { status: isEcho ? status.success : status.unrecognizedOperation }
}

function unexpected(message: string): Violation {
  return { reason: abortReason.unexpectedPdu, message }
}

function unexpectedValue(message: string): Violation {
  return { reason: abortReason.unexpectedParameter, message }
}

function invalid(message: string): Violation {
  return { reason: abortReason.invalidParameter, message }
}
