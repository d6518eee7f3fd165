/**
 * One association that we open: to verify, to send instances as they are stored, to query, to retrieve,
 * to ask for commitment. One request is outstanding at a time, and its responses are a stream.
 *
 * Data sets leave as they are stored: PDU headers and views of the read blocks are written corked,
 * nothing is parsed or encoded. dcmjs-dimse's own client reads every file into objects and manages
 * 22 instances a second where this loop manages 900.
 */
import { encodeCancelRequest, encodeEchoRequest, encodeStoreRequest, type StoreFields } from './command.ts'
import { verificationSopClass } from './contexts.ts'
import { type OutgoingDataset, writeDataset } from './dataset-writer.ts'
import { dial } from './dial.ts'
import { encodeCommandPdus, encodeDatasetPdus } from './pdu.ts'
import { type Outstanding, ScuConnection, type ScuTarget } from './scu-connection.ts'
import type { ContextProposal, Proposal } from './scu-contexts.ts'
import type { IncomingServices } from './scu-incoming.ts'
import type { ScuResponse } from './scu-responses.ts'
import { isPending, type Outcome } from './status.ts'

export type { ScuTarget } from './scu-connection.ts'

/** One request of ours; `command` encodes its command set with the message id it gets. */
export interface ScuRequest {
  /** The context in which it goes. */
  readonly context: Proposal
  readonly command: (messageId: number) => Buffer
  /** Encoded in the transfer syntax of the context. */
  readonly dataset?: Uint8Array | undefined
  /** Ends the request by C-CANCEL (PS3.7 §9.3.2.3); its final response still comes. */
  readonly cancel?: AbortSignal | undefined
  /** How long the peer may be silent before a response; default that of the target. */
  readonly quietMs?: number | undefined
  /** The next one unless given. */
  readonly messageId?: number | undefined
}

/** Default of the standard for whoever has no better idea; every node that verifies takes it. */
const implicitLittleEndian = '1.2.840.10008.1.2'

/** The proposal of an association that only verifies. */
export const verificationProposal: ContextProposal = {
  sopClassUid: verificationSopClass,
  transferSyntaxUids: [implicitLittleEndian],
}

/**
 * Opens an association.
 *
 * @param proposals  at most 128
 * @param services   what we do for the peer on it
 * @throws GatewayError PEER_UNREACHABLE, ASSOCIATION_REFUSED, PEER_PROTOCOL
 */
export async function openAssociation(
  target: ScuTarget,
  proposals: readonly ContextProposal[],
  services: IncomingServices = {},
): Promise<RequestedAssociation> {
  const socket = await dial(target)
  const connection = new ScuConnection(socket, target, services)
  socket.on('data', (chunk: Buffer) => connection.receive(chunk))
  await connection.open(proposals)
  return new RequestedAssociation(connection)
}

/** The requestor's side of one association, one request at a time. */
export class RequestedAssociation {
  readonly #connection: ScuConnection

  constructor(connection: ScuConnection) {
    this.#connection = connection
  }

  /** Resolves when the socket is gone and what was being received is removed. */
  get closed(): Promise<void> {
    return this.#connection.closed
  }

  /** True until somebody has ended the association. */
  get isOpen(): boolean {
    return this.#connection.isOpen
  }

  /** True where the peer takes this class in this transfer syntax. */
  accepts(proposal: Proposal): boolean {
    return this.#connection.contexts.accepts(proposal)
  }

  /** The transfer syntaxes in which the peer takes a SOP class; none when it does not. */
  syntaxesOf(sopClassUid: string): string[] {
    return this.#connection.contexts.syntaxesOf(sopClassUid)
  }

  /** Sends a C-ECHO and returns its status. */
  async echo(): Promise<Outcome> {
    const context = { sopClassUid: verificationSopClass, transferSyntaxUid: implicitLittleEndian }
    return outcomeOf(
      await this.ask({ context, command: messageId => encodeEchoRequest(messageId, verificationSopClass) }),
    )
  }

  /** Sends a request that has one response, and returns it. */
  async ask(request: ScuRequest): Promise<ScuResponse> {
    const outstanding = this.#connection.begin(request.context, request)
    this.#write(request, outstanding)
    return await outstanding.responses.next()
  }

  /**
   * Sends a request and gives its responses: pending ones, and the final one, which is the last. Who stops
   * reading before that cancels the request.
   *
   * @throws GatewayError ASSOCIATION_REFUSED when the context was not accepted, PEER_UNREACHABLE, PEER_PROTOCOL
   */
  async *request(request: ScuRequest): AsyncGenerator<ScuResponse, void, void> {
    const outstanding = this.#connection.begin(request.context, request)
    const cancel = (): void => this.#cancel(outstanding)
    request.cancel?.addEventListener('abort', cancel, { once: true })
    let isFinal = false
    const next = async (): Promise<ScuResponse> => {
      const response = await outstanding.responses.next()
      isFinal = !isPending(response.status)
      return response
    }
    try {
      this.#write(request, outstanding)
      if (request.cancel?.aborted) cancel()
      while (!isFinal) yield await next()
    } finally {
      request.cancel?.removeEventListener('abort', cancel)
      if (!isFinal && !this.#connection.hasFailed) {
        if (!request.cancel?.aborted) cancel()
        while (!isFinal) await next()
      }
    }
  }

  /**
   * Sends one instance and returns the peer's verdict.
   *
   * @param dataset     stays open
   * @param firstBlock  the data set's first bytes, read ahead by `readBlock`
   * @throws whatever reading the data set throws (the association is aborted then), and GatewayError
   *   PEER_UNREACHABLE, PEER_PROTOCOL
   */
  async store(instance: Proposal & StoreFields, dataset: OutgoingDataset, firstBlock: Uint8Array): Promise<Outcome> {
    const { contextId, messageId, responses } = this.#connection.begin(instance)
    const { socket, peerMaxPduLength } = this.#connection
    const command = encodeStoreRequest(messageId, instance)
    try {
      socket.cork()
      socket.write(encodeCommandPdus(contextId, command, peerMaxPduLength))
      await writeDataset(this.#connection.datasetTarget(contextId), dataset, firstBlock)
    } catch (error) {
      this.#connection.abortNow(error)
    }
    return outcomeOf(await responses.next())
  }

  /** Ends the association in order; a peer that does not answer is left after the time-out. */
  async release(): Promise<void> {
    await this.#connection.release()
  }

  /** Ends the association by A-ABORT; what is pending rejects with `reason`. */
  abortNow(reason: unknown): void {
    this.#connection.abortNow(reason)
  }

  /** Command and data set in one write, so that no small segment waits for a delayed acknowledgement. */
  #write({ command, dataset }: ScuRequest, { contextId, messageId }: Outstanding): void {
    const { peerMaxPduLength } = this.#connection
    const pdus = encodeCommandPdus(contextId, command(messageId), peerMaxPduLength)
    const data = dataset && encodeDatasetPdus(contextId, dataset, peerMaxPduLength)
    this.#connection.write(data ? Buffer.concat([pdus, data]) : pdus)
  }

  #cancel({ contextId, messageId }: Outstanding): void {
    const { peerMaxPduLength } = this.#connection
    this.#connection.write(encodeCommandPdus(contextId, encodeCancelRequest(messageId), peerMaxPduLength))
    this.#connection.hurry()
  }
}

function outcomeOf({ status, command }: ScuResponse): Outcome {
  return command.errorComment === undefined ? { status } : { status, comment: command.errorComment }
}
