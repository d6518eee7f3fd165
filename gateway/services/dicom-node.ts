/** Other DICOM nodes as the services see them; `dimse/remote-node.ts` speaks to them. */
import type { ByteSource } from '../dicom/byte-source.ts'
import type { DicomJson } from '../dicom/json.ts'
import type { NewElement } from '../dicom/part10-writer.ts'
import type { Retrieve } from './retrieve.ts'
import type { RetrieveKeys, RetrievePlan } from './retrieve-plan.ts'

/** How a registered node is called. */
export interface NodeTarget {
  /** Its symbolic name, for logs. */
  readonly name: string
  readonly host: string
  readonly port: number
  readonly callingAe: string
  readonly calledAe: string
  readonly timeoutMs?: number
  /** It is outside of the hospital: instances go there by a transfer only. */
  readonly isOutside?: true
}

/**
 * Finds a registered node by its name or AE title.
 *
 * @throws GatewayError NOT_FOUND when it is not registered, STATE_CONFLICT when it cannot be called
 */
export type FindNode = (nameOrAeTitle: string) => NodeTarget

/** Who asked by C-MOVE for what is stored now (PS3.7 §9.3.1.1). */
export interface MoveOriginator {
  readonly aeTitle: string
  readonly messageId: number
}

/** A status of PS3.7 Annex C and PS3.4, with the node's comment where it is one of ours to show. */
export interface NodeOutcome {
  readonly status: number
}

/** Sub-operations of a retrieval or a send so far. */
export interface NodeProgress {
  readonly remaining: number | undefined
  readonly completed: number
  readonly failed: number
  readonly warning: number
}

/** How a retrieval or a send ended. */
export interface NodeResult extends NodeProgress {
  readonly status: number
  readonly failedSopInstanceUids: readonly string[]
}

/** A query of the Study Root model, of the Patient Root model at patient level, or of the worklist. */
export interface NodeQuery {
  readonly level: RetrieveKeys['level'] | 'worklist'
  /** Matching and return keys; Query/Retrieve Level is added where there is one. */
  readonly keys: readonly NewElement[]
}

/** A move of instances between two other nodes, or from one to us. */
export interface NodeMove {
  readonly level: RetrieveKeys['level']
  /** Unique keys; Query/Retrieve Level is added. */
  readonly keys: readonly NewElement[]
  /** AE title under which the node knows the receiver. */
  readonly destination: string
}

/** An instance that is in no store. */
export interface LooseInstance {
  readonly sopClassUid: string
  readonly sopInstanceUid: string
  readonly transferSyntaxUid: string
  readonly source: ByteSource
  readonly datasetOffset: number
}

/** By which service instances are retrieved. */
export type RetrieveMethod = 'get' | 'move'

/** What a retrieval is for: what came for a prefetch is sent on to nobody. */
export type RetrievePurpose = 'manual' | 'prefetch'

/** Asks other nodes. Every call opens an association of its own and ends it. */
export interface DicomNode {
  /** @throws GatewayError PEER_UNREACHABLE, ASSOCIATION_REFUSED, PEER_PROTOCOL */
  echo(to: NodeTarget, signal: AbortSignal): Promise<NodeOutcome>
  /** Matches as they come, with the character set that the node said they had; who stops reading cancels. @throws also REMOTE_STATUS */
  find(to: NodeTarget, query: NodeQuery, signal: AbortSignal): AsyncIterable<DicomJson>
  /**
   * Retrieves into our own store, by C-GET or by C-MOVE to ourselves.
   *
   * @throws GatewayError ASSOCIATION_REFUSED where the node does not offer the service
   */
  retrieve(
    from: NodeTarget,
    request: { readonly keys: RetrieveKeys; readonly method: RetrieveMethod; readonly purpose: RetrievePurpose },
    onProgress: (progress: NodeProgress) => void,
    signal: AbortSignal,
  ): Promise<NodeResult>
  /** Has a node send instances to whom it knows by a title. @throws GatewayError ASSOCIATION_REFUSED */
  move(
    from: NodeTarget,
    request: NodeMove,
    onProgress: (progress: NodeProgress) => void,
    signal: AbortSignal,
  ): Promise<NodeResult>
  /** Sends one instance; the node's status (PS3.4 Table B.2-1). @throws GatewayError ASSOCIATION_REFUSED */
  send(to: NodeTarget, instance: LooseInstance, signal: AbortSignal): Promise<NodeOutcome>
  /** Sends the instances of a plan that has begun. */
  store(
    to: NodeTarget,
    what: {
      readonly retrieve: Retrieve
      readonly plan: RetrievePlan
      readonly originator?: MoveOriginator | undefined
    },
    onProgress: (progress: NodeProgress) => void,
    signal: AbortSignal,
  ): Promise<NodeResult & { /** Arrived instances by study of the plan. */ readonly sent: ReadonlyMap<number, number> }>
}
