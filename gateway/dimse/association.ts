/**
 * One association that a peer opened: negotiation, then its messages one at a time in the order in
 * which they came. While a message is answered nothing of the next one is parsed, so a peer that
 * does not wait for responses costs no memory (no asynchronous operations are negotiated, PS3.7
 * §D.3.3.3).
 */

import type { Socket } from 'node:net'
import { errorLine } from '../errors.ts'
import type { Log } from '../log.ts'
import type { Principal, Rights } from '../principal.ts'
import type { ReceptionTerms } from '../services/reception-terms.ts'
import type { ReceiveBudget } from './budget.ts'
import type { CallerCounts } from './caller-counts.ts'
import { type Admission, admit, type CallerPolicy, type Denial, denial } from './callers.ts'
import { type Command, commandField, decodeCommand, encodeResponse } from './command.ts'
import { CommandParts } from './command-parts.ts'
import { type AcceptedContext, contextResult, negotiate } from './contexts.ts'
import { DatasetCollector } from './dataset-collector.ts'
import { libraryAssociation, mayProvide } from './library-association.ts'
import { type NoticeHost, Notices } from './notices.ts'
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
import { mayAsk, permit, refusalOf } from './permissions.ts'
import type { ReceiveBuffers } from './receive-buffers.ts'
import type { RefusalReports } from './refusals.ts'
import { checkRequest } from './requests.ts'
import type { AssociationPeer, ScpCounters, ScpLimits, StoreService } from './scp.ts'
import { keyOf, type Proposal } from './scu-contexts.ts'
import type { ServiceClass, ServiceResponse } from './service.ts'
import { Serving, type ServingAssociation } from './serving.ts'
import { isStored, type Outcome, outcomeOfFailure, status } from './status.ts'
import { StoreReception } from './store-stream.ts'
import { type Association, maxAssociationPduBytes, UpperLayer } from './upper-layer.ts'
import { invalidParameter, unexpectedParameter, unexpectedPdu, unrecognizedPdu } from './violations.ts'

/** What all associations of a listener share. */
export interface AssociationContext {
  readonly rights: Rights
  readonly callers: CallerPolicy
  /** Accepted associations by `Admission.countedAs`. */
  readonly perAe: CallerCounts
  readonly privateSopClasses: ReadonlySet<string>
  readonly terms: ReceptionTerms
  readonly services: ReadonlyMap<string, ServiceClass>
  readonly store: StoreService
  readonly budget: ReceiveBudget
  readonly buffers: ReceiveBuffers
  readonly limits: ScpLimits
  readonly counters: ScpCounters
  readonly refusals: RefusalReports
  readonly log: Log
}

/** The other end of the connection. */
type Remote = Pick<AssociationPeer, 'remoteAddress' | 'certificate'>

/** A message whose data set is coming. */
interface Incoming {
  readonly contextId: number
  readonly reply: (outcome: Outcome) => void
  /** Where the data set goes; it is thrown away when `outcome` is already known. */
  readonly reception: StoreReception | undefined
  /** Gathers the data set of a request for a service. */
  readonly collector: DatasetCollector | undefined
  readonly outcome: Outcome
}

/** The acceptor's side of one association. */
export class AcceptedAssociation extends UpperLayer {
  readonly #shared: AssociationContext
  readonly #refuseAs: Denial | undefined
  readonly #remote: Remote
  readonly #connectedAt = performance.now()
  readonly #whenClosed = Promise.withResolvers<void>()
  #log: Log
  #state: 'new' | 'deciding' | 'associated' = 'new'
  #peer: AssociationPeer | undefined
  #admission: Admission | undefined
  #peerMaxPduLength = 0
  #contexts = new Map<number, AcceptedContext>()
  /** Contexts in which the peer takes instances. */
  readonly #storeContexts = new Map<string, number>()
  readonly #command = new CommandParts()
  readonly #notices = new Notices(this.#noticeHost())
  #incoming: Incoming | undefined
  /** The request that a service works on; reading goes on meanwhile. */
  #serving: Serving | undefined
  /** A request that came meanwhile; reading is stopped until its turn. */
  #postponed: (() => void) | undefined
  /** Since when the peer owes that service something. */
  #owedSince: number | undefined
  /** The answer that is being worked out; reading is stopped meanwhile. */
  #answering: Promise<void> | undefined
  #isDraining = false
  #stored = 0

  /** @param refuseAs  set when the listener is over a limit: the request is read and refused */
  constructor(socket: Socket, remote: Remote, shared: AssociationContext, refuseAs?: Denial) {
    super(socket, { pduMs: shared.limits.pduMs, graceMs: shared.limits.graceMs }, shared.buffers)
    this.#shared = shared
    this.#remote = remote
    this.#refuseAs = refuseAs
    this.#log = shared.log.child({ remoteAddress: remote.remoteAddress })
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
    if (!this.#incoming && !this.#answering && !this.#command.isUnderWay) this.abortNow()
  }

  /** Ends the association now. */
  abortNow(): void {
    if (this.#state === 'associated' && this.isOpen) this.abortAndEnd(abortSource.provider, abortReason.notSpecified)
    else this.socket.destroy()
  }

  protected override admit(type: number, length: number): Violation | undefined {
    switch (type) {
      case pduType.associateRequest:
        if (this.#state !== 'new') return unexpectedPdu('association request on an association')
        return length > maxAssociationPduBytes
          ? invalidParameter('association request is longer than 1 MiB')
          : undefined
      case pduType.data:
        if (this.#state !== 'associated') return unexpectedPdu('data before the association')
        return length > this.#shared.limits.maxPduLength
          ? invalidParameter('data PDU is longer than we allow')
          : undefined
      case pduType.releaseRequest:
        if (this.#state !== 'associated') return unexpectedPdu('release before the association')
        return length === 4 ? undefined : invalidParameter('release request is not four bytes')
      case pduType.abort:
        return length === 4 ? undefined : invalidParameter('abort is not four bytes')
      case pduType.associateAccept:
      case pduType.associateReject:
      case pduType.releaseResponse:
        return unexpectedPdu('a PDU that only the accepting side sends')
      default:
        return unrecognizedPdu(type)
    }
  }

  protected override control(type: number, body: Buffer): void {
    if (type === pduType.associateRequest) this.#requested(body)
    else if (type === pduType.releaseRequest) this.associationReleaseRequested()
    else this.abort(body.readUInt8(2), body.readUInt8(3))
  }

  protected override value(contextId: number, control: number, piece: Buffer, endOfValue: boolean): void {
    const isLast = endOfValue && (control & 2) !== 0
    if ((control & 1) !== 0) this.#commandPiece(contextId, piece, isLast)
    else this.#dataPiece(contextId, piece, isLast)
  }

  protected override quietUntil(quietSince: number): number {
    const { associationRequestMs, pduMs } = this.#shared.limits
    if (this.#state !== 'associated') return this.#connectedAt + associationRequestMs
    if (this.#incoming || this.#command.isUnderWay) return quietSince + pduMs
    // While a service works it is we who keep the peer waiting.
    return this.#serving ? Number.POSITIVE_INFINITY : quietSince + this.#idleMs
  }

  /** How long the peer may be silent between messages. */
  get #idleMs(): number {
    const ownSeconds = this.#admission?.modality?.limits?.idleSeconds
    return ownSeconds === undefined ? this.#shared.limits.idleMs : ownSeconds * 1000
  }

  protected override owedUntil(): number {
    return this.#owedSince === undefined ? Number.POSITIVE_INFINITY : this.#owedSince + this.#shared.limits.pduMs
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
    this.#log.error({ cause: errorLine(error) }, 'association failed')
    this.#shared.counters.associationsAborted += 1
    this.#discard()
  }

  protected override onClosed(): void {
    this.#discard()
    if (this.#state === 'associated') {
      this.#shared.counters.associationsOpen -= 1
      if (this.#admission) this.#shared.perAe.remove(this.#admission.countedAs)
      this.#log.debug({ instances: this.#stored }, 'association closed')
    }
    void Promise.all([this.#settled(), this.#notices.end()]).then(() => this.#whenClosed.resolve())
  }

  /** Called by `#requested` with the library's object, as the library's own reader would. */
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

  #requested(body: Buffer): void {
    const request = this.decode(() => decodeAssociateRequest(body))
    if (!request) return
    if (request.maxPduLength !== 0 && request.maxPduLength < 16) {
      this.abortFor(invalidParameter("the peer's maximum PDU length leaves no room for data"))
      return
    }
    this.#state = 'deciding'
    const { callingAe, calledAe } = request
    const peer = { callingAe, calledAe, ...this.#remote }
    this.#peer = peer
    this.#log = this.#log.child({ callingAe, calledAe })
    this.#answer(async () => {
      const decision = this.#refuseAs ?? (await admit(request, peer, this.#shared.callers))
      if (!this.isOpen) return
      const outcome = decision.kind === 'admitted' ? this.#limit(decision) : decision
      if (outcome.kind === 'denied') this.#refuse(outcome, peer)
      else this.#accept(request, outcome, peer)
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

  #limit(admission: Admission): Admission | Denial {
    const { perAe, limits } = this.#shared
    if (perAe.of(admission.countedAs) < (admission.modality?.limits?.associations ?? limits.associationsPerAe))
      return admission
    return denial('localLimit', 'limit', 'association refused: too many associations of this AE title are open')
  }

  #accept(request: AssociateRequest, admission: Admission, peer: AssociationPeer): void {
    const providers = new Set(request.roles.filter(role => role.scp).map(role => role.sopClassUid))
    const { contexts: answers, refused } = permit(negotiate(request.contexts, this.#shared), admission, providers)
    if (refused.size > 0) {
      const message = `association accepted in part: ${refusalOf(refused, admission)}`
      this.#shared.refusals.report(peer, { reason: 'not-permitted', message })
    }
    this.#admission = admission
    this.#shared.perAe.add(admission.countedAs)
    for (const answer of answers) {
      if (answer.result !== contextResult.accepted) continue
      this.#contexts.set(answer.id, answer)
      const { abstractSyntaxUid: sopClassUid, transferSyntaxUid } = answer
      if (providers.has(sopClassUid) && mayProvide(answer)) {
        this.#storeContexts.set(keyOf({ sopClassUid, transferSyntaxUid }), answer.id)
      }
    }
    this.#peerMaxPduLength = request.maxPduLength
    this.associationRequested(libraryAssociation(request, answers, this.#shared.limits.maxPduLength))
    this.#log.debug({ contexts: answers.length, accepted: this.#contexts.size }, 'association accepted')
    if (this.#isDraining) this.abortNow()
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
      this.abortFor(invalidParameter('command on a context that is not accepted'))
      return
    }
    if (this.#incoming) {
      this.abortFor(unexpectedParameter('command where a data set is awaited'))
      return
    }
    if (!this.#command.fits(contextId)) {
      this.abortFor(unexpectedParameter('command goes on in another context'))
      return
    }
    if (!this.#command.add(contextId, piece)) {
      this.abortFor(invalidParameter('command set is longer than 64 KiB'))
      return
    }
    if (!isLast) return
    const bytes = this.#command.take()
    const command = this.decode(() => decodeCommand(bytes))
    const context = this.#contexts.get(contextId)
    if (command && context) this.#perform(command, context)
  }

  #dataPiece(contextId: number, piece: Buffer, isLast: boolean): void {
    const incoming = this.#incoming
    if (!incoming) {
      this.abortFor(unexpectedParameter('data set without command'))
      return
    }
    if (incoming.contextId !== contextId) {
      this.abortFor(unexpectedParameter('data set in another context'))
      return
    }
    this.#shared.counters.datasetBytesReceived += piece.length
    incoming.reception?.push(piece)
    incoming.collector?.push(piece)
    if (!isLast) return
    this.#incoming = undefined
    const { reception, collector } = incoming
    if (reception) this.#answer(async () => incoming.reply(await reception.end()))
    else if (collector) collector.end()
    else incoming.reply(incoming.outcome)
  }

  #perform(command: Command, context: AcceptedContext): void {
    if (command.commandField === commandField.cancelRequest) {
      // C-CANCEL has no response (PS3.7 §9.3.2.3); often it crosses the last one.
      this.#serving?.cancel(command.respondedMessageId)
      return
    }
    if ((command.commandField & 0x8000) !== 0) {
      if (!this.#serving?.takeResponse(command) && !this.#notices.takeResponse(command))
        this.abortFor(unexpectedParameter('response to no request'))
      return
    }
    const { messageId } = command
    if (messageId === undefined) {
      this.abortFor(invalidParameter('request has no message id'))
      return
    }
    if (this.#serving) this.#postpone(this.#serving, () => this.#request(command, messageId, context))
    else this.#request(command, messageId, context)
  }

  /**
   * No asynchronous operations are negotiated (PS3.7 §D.3.3.3), yet some peers do not wait. Nothing more is
   * read until it is the request's turn, so it must not come where responses of the peer are awaited.
   */
  #postpone(serving: Serving, perform: () => void): void {
    if (!serving.stopStoring()) {
      this.abortFor(unexpectedParameter('request where the response to a sub-operation is awaited'))
      return
    }
    this.#postponed = perform
    this.stop('answer')
  }

  #request(command: Command, messageId: number, context: AcceptedContext): void {
    const reply = (outcome: Outcome): void => this.#reply(command, messageId, context, outcome)
    const outcome = this.#mayAsk(context) ? checkRequest(command, context) : { status: status.notAuthorized }
    const isGood = outcome.status === status.success
    const { service } = context
    const serve = (dataset: Uint8Array | undefined): void => {
      if (typeof service === 'object') this.#serve(service, command, messageId, context, dataset)
    }
    if (!command.hasDataSet) {
      if (isGood && typeof service === 'object') serve(undefined)
      else reply(outcome)
      return
    }
    const isStore = isGood && command.commandField === commandField.storeRequest
    this.#incoming = {
      contextId: context.id,
      reply,
      outcome,
      reception: isStore ? this.#receive(command, context) : undefined,
      collector: isGood && typeof service === 'object' ? new DatasetCollector(serve, reply) : undefined,
    }
  }

  #mayAsk({ abstractSyntaxUid }: AcceptedContext): boolean {
    return this.#admission !== undefined && mayAsk(abstractSyntaxUid, this.#admission)
  }

  /** The caller, with a role for each service that is permitted to it. */
  #principal({ callingAe, remoteAddress }: AssociationPeer): Principal {
    const roles = [...(this.#admission?.services ?? [])].map(service => `dicom.${service}`)
    return { id: callingAe, address: remoteAddress, roles, rights: this.#shared.rights }
  }

  /** Has a service work on a request while reading goes on. */
  #serve(
    service: ServiceClass,
    command: Command,
    messageId: number,
    context: AcceptedContext,
    dataset: Uint8Array | undefined,
  ): void {
    const association = this.#peer
    if (!association) return
    const serving = new Serving(this.#channelHost(), command, messageId, context)
    this.#serving = serving
    const request = {
      command,
      sopClassUid: context.abstractSyntaxUid,
      transferSyntaxUid: context.transferSyntaxUid,
      dataset,
      association,
      principal: this.#principal(association),
      signal: serving.signal,
    }
    const answering = service
      .handle(request, serving)
      .catch((error): ServiceResponse => {
        if (!serving.signal.aborted) this.#log.warn({ cause: errorLine(error) }, 'a request could not be served')
        return outcomeOfFailure(error, command.commandField)
      })
      .then(response => {
        this.#finish(serving, response)
        if (response.after && this.isOpen) this.#notices.begin(context.id, response.after, error => this.#untold(error))
      })
      .catch(error => this.fault(error))
      .then(() => {
        if (this.#answering === answering) this.#answering = undefined
      })
    this.#answering = answering
  }

  #noticeHost(): NoticeHost {
    const peerMaxPduLength = (): number => this.#peerMaxPduLength
    const isIdle = (): boolean => !this.#serving
    const socket = (): Socket => this.socket
    return {
      get socket() {
        return socket()
      },
      get peerMaxPduLength() {
        return peerMaxPduLength()
      },
      get isIdle() {
        return isIdle()
      },
    }
  }

  #untold(error: unknown): void {
    this.#log.info({ cause: errorLine(error) }, 'the peer could not be told on its association')
  }

  #finish(serving: Serving, response: ServiceResponse): void {
    if (this.#serving !== serving) return
    this.#serving = undefined
    this.#owedSince = undefined
    serving.finish(response)
    // The next request waits until the peer has read enough.
    if (this.socket.writableNeedDrain) this.stop('unread')
    this.watch()
    if (this.#isDraining) this.abortNow()
    const postponed = this.#postponed
    this.#postponed = undefined
    if (this.isOpen) postponed?.()
    this.start('answer')
  }

  #channelHost(): ServingAssociation {
    const isOpen = (): boolean => this.isOpen
    return {
      socket: this.socket,
      peerMaxPduLength: this.#peerMaxPduLength,
      get isOpen() {
        return isOpen()
      },
      storeContextId: (proposal: Proposal) => this.#storeContexts.get(keyOf(proposal)),
      onOwed: owed => {
        this.#owedSince = owed ? performance.now() : undefined
        this.watch()
      },
      abortNow: () => this.abortNow(),
    }
  }

  #receive(command: Command, context: AcceptedContext): StoreReception | undefined {
    const { sopClassUid, sopInstanceUid } = command
    const association = this.#peer
    if (sopClassUid === undefined || sopInstanceUid === undefined || !association) return undefined
    return new StoreReception({
      service: this.#shared.store,
      request: {
        sopClassUid,
        sopInstanceUid,
        transferSyntaxUid: context.transferSyntaxUid,
        association,
        originator: command.originator,
      },
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
    this.#command.clear()
    this.#serving?.end()
    this.#serving = undefined
    this.#postponed = undefined
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
