/** Services of our SCP beside storage and verification: what a handler gets and gives. */
import type { Principal } from '../principal.ts'
import type { Command, SubOperationCounts } from './command.ts'
import type { OutgoingDataset } from './dataset-writer.ts'
import type { Notifier } from './notices.ts'
import type { AssociationPeer } from './scp.ts'
import type { Proposal } from './scu-contexts.ts'
import type { Outcome } from './status.ts'

/** One request, its data set read. */
export interface ServiceRequest {
  readonly command: Command
  /** Of the presentation context. */
  readonly sopClassUid: string
  /** Of the presentation context: of `dataset` and of the data sets of all responses. */
  readonly transferSyntaxUid: string
  /** As received; undefined when the command announced none. */
  readonly dataset: Uint8Array | undefined
  readonly association: AssociationPeer
  readonly principal: Principal
  /** Aborts on C-CANCEL, and when the association ends. */
  readonly signal: AbortSignal
}

/** A response. UIDs are the request's where they are not given. */
export interface ServiceResponse {
  readonly status: number
  /** Error Comment (0000,0902). */
  readonly comment?: string | undefined
  readonly errorId?: number | undefined
  readonly dataset?: Uint8Array | undefined
  readonly counts?: Partial<SubOperationCounts> | undefined
  readonly sopClassUid?: string | undefined
  readonly sopInstanceUid?: string | undefined
  readonly eventTypeId?: number | undefined
  readonly actionTypeId?: number | undefined
  /** Goes on after the response, while the association lasts: what the service has to tell the peer. */
  readonly after?: ((notifier: Notifier) => Promise<void>) | undefined
}

/** The association as a handler uses it while it serves a request. */
export interface ServiceChannel {
  /** Sends a pending response; resolves when the socket has room for the next one. Rejects when the association has ended. */
  send(pending: ServiceResponse): Promise<void>
  /** True where the peer takes this class in this transfer syntax as the SCP of a C-GET's sub-operations. */
  accepts(proposal: Proposal): boolean
  /**
   * Sends one instance as a sub-operation of a C-GET (PS3.7 §9.1.3) and returns the peer's verdict.
   *
   * @throws GatewayError PEER_UNREACHABLE when the association has ended, PEER_PROTOCOL when the peer sends requests
   *   in place of responses, and what reading `dataset` throws; the association is aborted in the last two cases
   */
  store(
    instance: Proposal & { readonly sopInstanceUid: string },
    dataset: OutgoingDataset,
    firstBlock: Uint8Array,
  ): Promise<Outcome>
}

/** Serves a request and gives its final response. What it throws becomes a failure status. */
export type ServiceHandler = (request: ServiceRequest, channel: ServiceChannel) => Promise<ServiceResponse>

/** A service and what is negotiated for it. */
export interface ServiceClass {
  readonly sopClassUids: readonly string[]
  readonly transferSyntaxes: readonly string[]
  /** Requests that it serves; others are "unrecognized operation". */
  readonly commandFields: readonly number[]
  /** The peer may be the SCP, and send us N-EVENT-REPORT requests, where it proposes that role. */
  readonly peerMayProvide?: boolean
  readonly handle: ServiceHandler
}

/** The longest data set of a request that is gathered for a handler, in bytes. */
export const maxServiceDatasetBytes = 1_048_576
