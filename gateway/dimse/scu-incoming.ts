/**
 * What the peer asks of us on an association that we requested: the C-STORE sub-operations of a C-GET
 * (PS3.4 §C.4.3.3) and N-EVENT-REPORT (PS3.7 §10.1.1).
 */
import { ReceiveBudget } from './budget.ts'
import { type Command, commandField, encodeResponse } from './command.ts'
import { encodeCommandPdus } from './pdu.ts'
import { ReceiveBuffers } from './receive-buffers.ts'
import { checkStore } from './requests.ts'
import type { AssociationPeer, StoreService } from './scp.ts'
import type { Proposal } from './scu-contexts.ts'
import type { Flow } from './scu-responses.ts'
import { type Outcome, outcomeOfError, status } from './status.ts'
import { StoreReception } from './store-stream.ts'

/** An N-EVENT-REPORT that the peer sends. */
export interface EventReport {
  readonly command: Command
  readonly dataset: Uint8Array | undefined
  /** The encoding of `dataset`. */
  readonly transferSyntaxUid: string
}

/** What we do for the peer on an association that we requested; what is absent is answered with 0211H. */
export interface IncomingServices {
  /** Takes the instances of a C-GET; success is answered when they are durable. */
  readonly store?: StoreService
  /** Takes an event; the outcome is its response. */
  readonly onEvent?: (report: EventReport) => Promise<Outcome>
}

/** A message whose data set is coming. */
export interface IncomingMessage {
  readonly contextId: number
  /** Takes the next piece, valid during the call; false when the data set gets too long. */
  push(piece: Buffer): boolean
  /** The data set is whole. */
  end(): void
  /** It will not come whole. */
  discard(): Promise<void> | undefined
}

/** Identifiers and event information are some hundred bytes. */
const maxGatheredBytes = 1_048_576
/** Data held in memory before the socket is paused; as at the SCP. */
const heldBytesLimit = 4_194_304

/** Gathers a data set in memory. */
export function gather(contextId: number, onWhole: (dataset: Uint8Array) => void): IncomingMessage {
  const parts: Buffer[] = []
  let bytes = 0
  return {
    contextId,
    push(piece) {
      bytes += piece.length
      if (bytes > maxGatheredBytes) return false
      parts.push(Buffer.from(piece))
      return true
    },
    end: () => onWhole(Buffer.concat(parts)),
    discard: () => undefined,
  }
}

/** What the requests need of their connection. */
export interface RequestsConnection extends Flow {
  /** Runs work for the peer while reading is stopped. */
  readonly work: (work: () => Promise<void>) => void
  /** Sends what is encoded for the peer's longest PDU. */
  readonly reply: (encode: (maxPduLength: number) => Buffer) => void
}

/** Answers the peer's requests, one after the other as they come. */
export class PeerRequests {
  readonly #services: IncomingServices
  readonly #peer: AssociationPeer
  readonly #connection: RequestsConnection
  readonly #budget = new ReceiveBudget(heldBytesLimit)
  readonly #buffers = new ReceiveBuffers()

  constructor(services: IncomingServices, peer: AssociationPeer, connection: RequestsConnection) {
    this.#services = services
    this.#peer = peer
    this.#connection = connection
  }

  /** Takes a request; the message that is to get its data set, where it has one. */
  begin(command: Command, contextId: number, context: Proposal): IncomingMessage | undefined {
    const reply = (outcome: Outcome): void => this.#reply(command, contextId, outcome)
    const { store, onEvent } = this.#services
    if (command.commandField === commandField.storeRequest && store) {
      return this.#store(store, command, contextId, context, reply)
    }
    const handle = (dataset: Uint8Array | undefined): void => {
      if (command.commandField !== commandField.eventReportRequest || !onEvent) {
        reply({ status: status.unrecognizedOperation })
        return
      }
      const { transferSyntaxUid } = context
      this.#connection.work(async () => {
        reply(await onEvent({ command, dataset, transferSyntaxUid }).catch(outcomeOfError))
      })
    }
    if (command.hasDataSet) return gather(contextId, handle)
    handle(undefined)
    return undefined
  }

  #store(
    service: StoreService,
    command: Command,
    contextId: number,
    context: Proposal,
    reply: (outcome: Outcome) => void,
  ): IncomingMessage | undefined {
    const outcome = checkStore(command, { abstractSyntaxUid: context.sopClassUid })
    const { sopClassUid, sopInstanceUid } = command
    if (outcome.status !== status.success || sopClassUid === undefined || sopInstanceUid === undefined) {
      if (!command.hasDataSet) reply(outcome)
      return command.hasDataSet ? refuse(contextId, () => reply(outcome)) : undefined
    }
    const reception = new StoreReception({
      service,
      request: {
        sopClassUid,
        sopInstanceUid,
        transferSyntaxUid: context.transferSyntaxUid,
        association: this.#peer,
      },
      budget: this.#budget,
      buffers: this.#buffers,
      heldBytesLimit,
      onFull: this.#connection.onFull,
      onRoom: this.#connection.onRoom,
    })
    return {
      contextId,
      push(piece) {
        reception.push(piece)
        return true
      },
      end: () => this.#connection.work(async () => reply(await reception.end())),
      discard: () => reception.discard(),
    }
  }

  #reply(command: Command, contextId: number, outcome: Outcome): void {
    const response = encodeResponse({
      commandField: command.commandField | 0x8000,
      messageId: command.messageId ?? 0,
      sopClassUid: command.sopClassUid,
      sopInstanceUid: command.sopInstanceUid,
      ...outcome,
    })
    this.#connection.reply(maxPduLength => encodeCommandPdus(contextId, response, maxPduLength))
  }
}

/** Lets the data set of a refused request pass. */
function refuse(contextId: number, onEnd: () => void): IncomingMessage {
  return { contextId, push: () => true, end: onEnd, discard: () => undefined }
}
