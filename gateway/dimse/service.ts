/** Services of our SCP beside storage and verification: what a handler gets and gives. */
import type { Principal } from '../principal.ts'
import type { Command } from './command.ts'
import type { OutgoingDataset } from './dataset-writer.ts'
import type { AssociationPeer } from './scp.ts'
import type { Proposal } from './scu-contexts.ts'
import type { Outcome } from './status.ts'

export interface ServiceRequest {
  readonly command: Command
  readonly sopClassUid: string
  readonly transferSyntaxUid: string
  readonly dataset: Uint8Array | undefined
  readonly association: AssociationPeer
  readonly principal: Principal
  readonly signal: AbortSignal
}

export interface ServiceResponse {
  readonly status: number
  readonly comment?: string | undefined
  readonly dataset?: Uint8Array | undefined
  readonly counts?: { remaining?: number; completed: number; failed: number; warning: number } | undefined
}

export interface ServiceChannel {
  send(pending: ServiceResponse): Promise<void>
  accepts(proposal: Proposal): boolean
  store(
    instance: Proposal & { readonly sopInstanceUid: string },
    dataset: OutgoingDataset,
    firstBlock: Uint8Array,
  ): Promise<Outcome>
}

export type ServiceHandler = (request: ServiceRequest, channel: ServiceChannel) => Promise<ServiceResponse>

export interface ServiceClass {
  readonly sopClassUids: readonly string[]
  readonly transferSyntaxes: readonly string[]
  readonly commandFields: readonly number[]
  readonly handle: ServiceHandler
}
