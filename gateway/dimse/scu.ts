/**
 * Storage and verification SCU: sends instances as they are stored, over as few associations as
 * their classes and transfer syntaxes allow.
 */
import type { MoveOriginator } from '../services/dicom-node.ts'
import { type Converter, type OutgoingInstance, prepareAhead, type StoreResult } from './outgoing.ts'
import { openAssociation, type RequestedAssociation, type ScuTarget, verificationProposal } from './scu-association.ts'
import { type ContextProposal, contextOf, keyOf, maxContexts, type Proposal } from './scu-contexts.ts'
import type { Outcome } from './status.ts'

export type { OutgoingDataset } from './dataset-writer.ts'
export type { Converter, OutgoingInstance, StoreResult } from './outgoing.ts'
export type { ScuTarget } from './scu-association.ts'

/** How to send. */
export interface StoreOptions {
  /** No further instance is begun once it is aborted; the association ends in order. */
  readonly stop?: AbortSignal | undefined
  /** The C-MOVE on whose behalf the instances are sent (PS3.7 §9.3.1.1). */
  readonly originator?: MoveOriginator | undefined
  /** 0 medium, 1 high, 2 low. */
  readonly priority?: number | undefined
  /** For what the peer does not take as it is stored. */
  readonly converter?: Converter | undefined
}

/** Counts of a finished send. */
export interface StoreSummary {
  readonly responded: number
  readonly notAccepted: number
  readonly unreadable: number
  readonly associations: number
}

/** Instances that are looked at ahead of sending, so that one association proposes what all of them need. */
const lookAhead = 256

/**
 * Sends instances one after the other; the next data set is opened while the peer works on the
 * last one.
 *
 * @param onResult  called for each instance, in order
 * @throws GatewayError PEER_UNREACHABLE, ASSOCIATION_REFUSED, PEER_PROTOCOL, or the signal's reason;
 *   instances without a result have to be sent again
 */
export async function storeScu<T extends OutgoingInstance>(
  target: ScuTarget,
  instances: AsyncIterable<T> | Iterable<T>,
  onResult: (instance: T, result: StoreResult) => Promise<void> | void,
  options: StoreOptions = {},
): Promise<StoreSummary> {
  const sender = new Sender(target, options)
  const counts = { responded: 0, notAccepted: 0, unreadable: 0 }
  try {
    for await (const batch of batches(instances, options.converter)) {
      if (options.stop?.aborted) break
      for await (const [instance, result] of sender.send(batch)) {
        if (result.kind === 'responded') counts.responded += 1
        else if (result.kind === 'not-accepted') counts.notAccepted += 1
        else counts.unreadable += 1
        await onResult(instance, result)
        if (options.stop?.aborted) break
      }
    }
    await sender.end()
  } catch (error) {
    sender.abort(error)
    throw error
  }
  return { ...counts, associations: sender.associations }
}

/**
 * Verifies that a node answers (C-ECHO).
 *
 * @throws GatewayError PEER_UNREACHABLE, ASSOCIATION_REFUSED, PEER_PROTOCOL
 */
export async function echoScu(target: ScuTarget): Promise<Outcome> {
  const association = await openAssociation(target, [verificationProposal])
  try {
    return await association.echo()
  } finally {
    await association.release()
  }
}

/** Keeps the association between batches. */
class Sender {
  readonly #target: ScuTarget
  readonly #options: StoreOptions
  #association: RequestedAssociation | undefined
  #proposals: ReadonlyMap<string, ContextProposal> = new Map()
  associations = 0

  constructor(target: ScuTarget, options: StoreOptions) {
    this.#target = target
    this.#options = options
  }

  /** Sends a batch that needs at most 128 contexts. */
  async *send<T extends OutgoingInstance>(batch: readonly T[]): AsyncGenerator<[T, StoreResult]> {
    const association = await this.#associationFor(batch)
    const { originator, priority, converter } = this.#options
    for await (const [instance, prepared] of prepareAhead(association, batch, converter)) {
      if (prepared.kind !== 'ready') {
        yield [instance, prepared]
        continue
      }
      const { sopClassUid, sopInstanceUid } = instance
      const { transferSyntaxUid, dataset, firstBlock } = prepared
      const request = { sopClassUid, sopInstanceUid, transferSyntaxUid, originator, priority }
      try {
        yield [instance, { kind: 'responded', ...(await association.store(request, dataset, firstBlock)) }]
      } finally {
        await dataset.close?.()
      }
    }
  }

  async end(): Promise<void> {
    await this.#association?.release()
    this.#association = undefined
  }

  abort(reason: unknown): void {
    this.#association?.abortNow(reason)
    this.#association = undefined
  }

  async #associationFor(batch: readonly Proposal[]): Promise<RequestedAssociation> {
    const needed = proposalsFor(batch, this.#options.converter)
    const all = new Map([...this.#proposals, ...needed])
    if (this.#association?.isOpen && all.size === this.#proposals.size) return this.#association
    await this.end()
    this.#proposals = all.size <= maxContexts ? all : needed
    this.#association = await openAssociation(this.#target, [...this.#proposals.values()])
    this.associations += 1
    return this.#association
  }
}

/**
 * The contexts that instances need, by name: one for each class in each stored syntax, and one for each class
 * with the syntaxes that we can make of them.
 */
function proposalsFor(instances: readonly Proposal[], converter: Converter | undefined): Map<string, ContextProposal> {
  const proposals = new Map<string, ContextProposal>()
  for (const instance of instances) {
    proposals.set(keyOf(instance), contextOf(instance))
    const { sopClassUid, transferSyntaxUid } = instance
    const known = proposals.get(sopClassUid)?.transferSyntaxUids ?? []
    const targets = new Set([...known, ...(converter?.targets(transferSyntaxUid) ?? [])])
    if (targets.size > 0) proposals.set(sopClassUid, { sopClassUid, transferSyntaxUids: [...targets] })
  }
  return proposals
}

/** Groups instances so that each group fits one association. */
async function* batches<T extends OutgoingInstance>(
  instances: AsyncIterable<T> | Iterable<T>,
  converter: Converter | undefined,
): AsyncGenerator<T[]> {
  let batch: T[] = []
  let names = new Set<string>()
  for await (const instance of instances) {
    const isKnown = names.has(keyOf(instance))
    const all = isKnown ? names : new Set([...names, ...proposalsFor([instance], converter).keys()])
    if (batch.length >= lookAhead || all.size > maxContexts) {
      yield batch
      batch = []
      names = new Set(proposalsFor([instance], converter).keys())
    } else names = all
    batch.push(instance)
  }
  if (batch.length > 0) yield batch
}
