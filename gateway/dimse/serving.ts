/**
 * One request that a service handler is working on: its responses, its sub-operations, its end by
 * C-CANCEL. Reading goes on meanwhile, for C-CANCEL and the responses to sub-operations.
 */

import type { Socket } from 'node:net'
import { GatewayError } from '../errors.ts'
import { type Command, encodeResponse, encodeStoreRequest } from './command.ts'
import type { AcceptedContext } from './contexts.ts'
import { type OutgoingDataset, writeDataset } from './dataset-writer.ts'
import { encodeCommandPdus, encodeDatasetPdus } from './pdu.ts'
import type { Proposal } from './scu-contexts.ts'
import type { ServiceChannel, ServiceResponse } from './service.ts'
import type { Outcome } from './status.ts'

/** The association that the request came on. */
export interface ServingAssociation {
  readonly socket: Socket
  readonly peerMaxPduLength: number
  readonly isOpen: boolean
  /** Contexts in which the peer takes instances as the SCP, by SOP class and transfer syntax. */
  storeContextId(proposal: Proposal): number | undefined
  /** The peer owes us something from now on, or no longer. */
  onOwed(owed: boolean): void
  abortNow(): void
}

/** Pending responses are written together until so many bytes wait. */
const batchBytes = 65_536

/** The channel of one request. */
export class Serving implements ServiceChannel {
  readonly #association: ServingAssociation
  readonly #command: Command
  readonly #messageId: number
  readonly #context: AcceptedContext
  readonly #cancelled = new AbortController()
  #storeMessageId = 0
  #outcome: PromiseWithResolvers<Outcome> | undefined
  /** Responses that are not written yet. */
  #batch: Uint8Array[] = []
  #batchedBytes = 0
  #flushing: NodeJS.Immediate | undefined
  /** The last pending response without anything of its own, encoded. */
  #plain: { readonly status: number; readonly hasDataSet: boolean; readonly pdus: Buffer } | undefined
  #mayStore = true

  constructor(association: ServingAssociation, command: Command, messageId: number, context: AcceptedContext) {
    this.#association = association
    this.#command = command
    this.#messageId = messageId
    this.#context = context
  }

  get signal(): AbortSignal {
    return this.#cancelled.signal
  }

  /** C-CANCEL for this message has come (PS3.7 §9.3.2.3). */
  cancel(messageId: number | undefined): void {
    if (messageId === this.#messageId) this.#cancelled.abort()
  }

  /**
   * Nothing more is read until the final response, so that no sub-operation can be answered.
   *
   * @returns false when one is under way
   */
  stopStoring(): boolean {
    this.#mayStore = false
    return this.#outcome === undefined
  }

  /** The association is gone. */
  end(): void {
    const gone = connectionGone()
    this.#cancelled.abort(gone)
    this.#outcome?.reject(gone)
    this.#outcome = undefined
  }

  async send(pending: ServiceResponse): Promise<void> {
    this.#assertOpen()
    this.#add(pending)
    if (this.#batchedBytes < batchBytes) {
      this.#flushing ??= setImmediate(() => this.#flush())
      return
    }
    this.#flush()
    if (this.#association.socket.writableNeedDrain) await this.#whenDrained()
    // A turn of the event loop, in which a C-CANCEL is read.
    else await new Promise(setImmediate)
  }

  /** Sends the last response. */
  finish(response: ServiceResponse): void {
    this.#add(response)
    this.#flush()
  }

  accepts(proposal: Proposal): boolean {
    return this.#association.storeContextId(proposal) !== undefined
  }

  async store(
    instance: Proposal & { readonly sopInstanceUid: string },
    dataset: OutgoingDataset,
    firstBlock: Uint8Array,
  ): Promise<Outcome> {
    const { socket, peerMaxPduLength: maxPduLength } = this.#association
    const contextId = this.#association.storeContextId(instance)
    if (contextId === undefined) throw new GatewayError('BAD_REQUEST', 'the peer does not take this SOP class')
    this.#assertOpen()
    if (!this.#mayStore) {
      this.#association.abortNow()
      throw new GatewayError('PEER_PROTOCOL', 'the peer sends requests where it owes responses')
    }
    this.#storeMessageId = (this.#storeMessageId % 0xffff) + 1
    const answer = Promise.withResolvers<Outcome>()
    answer.promise.catch(() => undefined)
    this.#outcome = answer
    const { sopClassUid, sopInstanceUid } = instance
    const command = encodeStoreRequest(this.#storeMessageId, {
      sopClassUid,
      sopInstanceUid,
      priority: this.#command.priority,
    })
    this.#flush()
    socket.cork()
    socket.write(encodeCommandPdus(contextId, command, maxPduLength))
    const whenDrained = (): Promise<void> => this.#whenDrained()
    const onProgress = (): void => this.#association.onOwed(true)
    try {
      await writeDataset({ socket, contextId, maxPduLength, whenDrained, onProgress }, dataset, firstBlock)
    } catch (error) {
      // Half a message is out: nothing that followed could be understood.
      this.#association.abortNow()
      throw error
    }
    this.#association.onOwed(true)
    try {
      return await answer.promise
    } finally {
      this.#association.onOwed(false)
    }
  }

  /** A response has come; false when it answers nothing of ours. */
  takeResponse(command: Command): boolean {
    if (!this.#outcome || command.respondedMessageId !== this.#storeMessageId || command.status === undefined)
      return false
    const { status, errorComment } = command
    this.#outcome.resolve({ status, ...(errorComment !== undefined && { comment: errorComment }) })
    this.#outcome = undefined
    return true
  }

  #add(response: ServiceResponse): void {
    const { peerMaxPduLength } = this.#association
    this.#put(this.#commandPdus(response))
    if (response.dataset) this.#put(encodeDatasetPdus(this.#context.id, response.dataset, peerMaxPduLength))
  }

  #put(pdus: Uint8Array): void {
    this.#batch.push(pdus)
    this.#batchedBytes += pdus.length
  }

  /** Most pending responses of a query have nothing of their own but their data set. */
  #commandPdus(response: ServiceResponse): Buffer {
    const { status, dataset, ...fields } = response
    const hasDataSet = dataset !== undefined
    const isPlain = Object.values(fields).every(field => field === undefined)
    const known = this.#plain
    if (isPlain && known?.status === status && known.hasDataSet === hasDataSet) return known.pdus
    const encoded = this.#encode(response)
    const pdus = encodeCommandPdus(this.#context.id, encoded, this.#association.peerMaxPduLength)
    if (isPlain) this.#plain = { status, hasDataSet, pdus }
    return pdus
  }

  #encode(response: ServiceResponse): Buffer {
    const { dataset, after: _, ...fields } = response
    const { commandField, sopClassUid, sopInstanceUid, eventTypeId, actionTypeId } = this.#command
    return encodeResponse({
      sopClassUid: sopClassUid ?? this.#context.abstractSyntaxUid,
      sopInstanceUid,
      eventTypeId,
      actionTypeId,
      ...fields,
      commandField: commandField | 0x8000,
      messageId: this.#messageId,
      hasDataSet: dataset !== undefined,
    })
  }

  #flush(): void {
    clearImmediate(this.#flushing)
    this.#flushing = undefined
    const bytes = Buffer.concat(this.#batch)
    this.#batch = []
    this.#batchedBytes = 0
    const { isOpen, socket } = this.#association
    if (bytes.length > 0 && isOpen && !socket.destroyed) socket.write(bytes)
  }

  async #whenDrained(): Promise<void> {
    const { socket } = this.#association
    this.#association.onOwed(true)
    const { promise, resolve } = Promise.withResolvers<void>()
    socket.once('drain', resolve).once('close', resolve)
    await promise
    socket.off('drain', resolve).off('close', resolve)
    this.#association.onOwed(false)
    this.#assertOpen()
  }

  #assertOpen(): void {
    if (!this.#association.isOpen || this.#association.socket.destroyed) throw connectionGone()
  }
}

function connectionGone(): GatewayError {
  return new GatewayError('PEER_UNREACHABLE', 'the association has ended')
}
