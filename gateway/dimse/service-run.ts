/**
 * One service request at work: its handler runs while reading goes on for C-CANCEL and for the responses to the
 * C-STORE sub-operations of a C-GET. Its own message ids are the association's only ones, since nothing else is
 * asked of the requester.
 */
import { GatewayError } from '../errors.ts'
import { type Command, commandField, encodeResponse, encodeStoreRequest, type StoreFields } from './command.ts'
import { type DatasetTarget, type OutgoingDataset, writeDataset } from './dataset-writer.ts'
import { encodeCommandPdus, encodeDatasetPdus } from './pdu.ts'
import type { Proposal } from './scu-contexts.ts'
import type { ServiceChannel, ServiceResponse } from './service.ts'
import type { Outcome } from './status.ts'

/** What a run needs of its association. */
export interface RunConnection {
  readonly contextId: number
  readonly request: Command
  /** The context in which the requester takes instances; undefined when it takes none such. */
  storageContext(proposal: Proposal): number | undefined
  readonly peerMaxPduLength: number
  readonly datasetTarget: (contextId: number) => DatasetTarget
  /** Sends whole messages; resolves when the socket has room. */
  send(bytes: Buffer): Promise<void>
  /** The requester owes us a response, or owes it no more. */
  onOwed(isOwed: boolean): void
}

/** A running service request. */
export class ServiceRun implements ServiceChannel {
  readonly #connection: RunConnection
  readonly #abort = new AbortController()
  #messageId = 0
  #pending: PromiseWithResolvers<Outcome> | undefined

  constructor(connection: RunConnection) {
    this.#connection = connection
  }

  /** Aborts by C-CANCEL and with the association. */
  get signal(): AbortSignal {
    return this.#abort.signal
  }

  /** Takes a C-CANCEL for this request, or the response to a sub-operation; false for everything else. */
  take(command: Command): boolean {
    if (command.commandField === commandField.cancelRequest) {
      if (command.respondedMessageId === this.#connection.request.messageId) this.cancel('cancelled by the requester')
      return true
    }
    const pending = this.#pending
    if (command.commandField !== commandField.storeResponse || !pending || command.hasDataSet) return false
    const { respondedMessageId, status, errorComment } = command
    if (respondedMessageId !== this.#messageId || status === undefined) return false
    this.#settle()
    pending.resolve(errorComment === undefined ? { status } : { status, comment: errorComment })
    return true
  }

  /** Ends the handler's work. */
  cancel(reason: string): void {
    this.#abort.abort(new GatewayError('TRANSFER_CANCELLED', reason))
  }

  /** The association is gone: nothing of this can go on. */
  fail(error: unknown): void {
    this.#abort.abort(error)
    const pending = this.#pending
    this.#settle()
    pending?.reject(error)
  }

  accepts(proposal: Proposal): boolean {
    return this.#connection.storageContext(proposal) !== undefined
  }

  async send(response: ServiceResponse): Promise<void> {
    await this.#connection.send(this.encode(response))
  }

  async store(instance: Proposal & StoreFields, dataset: OutgoingDataset, firstBlock: Uint8Array): Promise<Outcome> {
    const contextId = this.#connection.storageContext(instance)
    if (contextId === undefined) throw new GatewayError('ASSOCIATION_REFUSED', 'presentation context was not accepted')
    this.#messageId = (this.#messageId % 0xffff) + 1
    const pending = Promise.withResolvers<Outcome>()
    pending.promise.catch(() => undefined)
    this.#pending = pending
    this.#connection.onOwed(true)
    const target = this.#connection.datasetTarget(contextId)
    const command = encodeStoreRequest(this.#messageId, instance)
    target.socket.cork()
    target.socket.write(encodeCommandPdus(contextId, command, this.#connection.peerMaxPduLength))
    await writeDataset(target, dataset, firstBlock)
    return await pending.promise
  }

  /** A response to the request, with its data set. */
  encode({ dataset, ...response }: ServiceResponse): Buffer {
    const { contextId, request, peerMaxPduLength } = this.#connection
    const command = encodeResponse({
      commandField: request.commandField | 0x8000,
      messageId: request.messageId ?? 0,
      sopClassUid: request.sopClassUid,
      ...response,
      hasDataSet: dataset !== undefined,
    })
    const pdus = encodeCommandPdus(contextId, command, peerMaxPduLength)
    return dataset ? Buffer.concat([pdus, encodeDatasetPdus(contextId, dataset, peerMaxPduLength)]) : pdus
  }

  #settle(): void {
    this.#pending = undefined
    this.#connection.onOwed(false)
  }
}
