/**
 * Storage and verification SCU: sends instances as they are stored, over as few associations as
 * their classes and transfer syntaxes allow.
 */
import { type OutgoingDataset, readBlock } from './dataset-writer.ts'
import { openAssociation, type RequestedAssociation, type ScuTarget, verificationProposal } from './scu-association.ts'
import { contextOf, keyOf, maxContexts, type Proposal } from './scu-contexts.ts'
import type { Outcome } from './status.ts'

export type { OutgoingDataset } from './dataset-writer.ts'
export type { ScuTarget } from './scu-association.ts'

/** An instance to send. `open` is called shortly before its turn. */
export interface OutgoingInstance extends Proposal {
  readonly sopInstanceUid: string
  open(): Promise<OutgoingDataset> | OutgoingDataset
}

/** What became of one instance. */
export type StoreResult =
  /** The peer's status (PS3.4 Table B.2-1) and error comment. */
  | ({ readonly kind: 'responded' } & Outcome)
  /** The peer does not take this SOP class in this transfer syntax. */
  | { readonly kind: 'not-accepted' }
  /** It could not be opened or its first bytes could not be read; nothing was sent. */
  | { readonly kind: 'unreadable'; readonly error: unknown }

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
): Promise<StoreSummary> {
  const sender = new Sender(target)
  const counts = { responded: 0, notAccepted: 0, unreadable: 0 }
  try {
    for await (const batch of batches(instances)) {
      for await (const [instance, result] of sender.send(batch)) {
        if (result.kind === 'responded') counts.responded += 1
        else if (result.kind === 'not-accepted') counts.notAccepted += 1
        else counts.unreadable += 1
        await onResult(instance, result)
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

type Prepared =
  | { readonly kind: 'ready'; readonly dataset: OutgoingDataset; readonly firstBlock: Uint8Array }
  | Exclude<StoreResult, { readonly kind: 'responded' }>

/** Keeps the association between batches. */
class Sender {
  readonly #target: ScuTarget
  #association: RequestedAssociation | undefined
  #proposals: ReadonlyMap<string, Proposal> = new Map()
  associations = 0

  constructor(target: ScuTarget) {
    this.#target = target
  }

  /** Sends a batch that needs at most 128 contexts. */
  async *send<T extends OutgoingInstance>(batch: readonly T[]): AsyncGenerator<[T, StoreResult]> {
    const association = await this.#associationFor(batch)
    for await (const [instance, prepared] of prepareAhead(association, batch)) {
      if (prepared.kind !== 'ready') {
        yield [instance, prepared]
        continue
      }
      try {
        const outcome = await association.store(instance, prepared.dataset, prepared.firstBlock)
        yield [instance, { kind: 'responded', ...outcome }]
      } finally {
        await prepared.dataset.close?.()
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
    const needed = new Map(batch.map(each => [keyOf(each), each]))
    const all = new Map([...this.#proposals, ...needed])
    if (this.#association?.isOpen && all.size === this.#proposals.size) return this.#association
    await this.end()
    this.#proposals = all.size <= maxContexts ? all : needed
    this.#association = await openAssociation(this.#target, [...this.#proposals.values()].map(contextOf))
    this.associations += 1
    return this.#association
  }
}

/** Groups instances so that each group fits one association. */
async function* batches<T extends OutgoingInstance>(instances: AsyncIterable<T> | Iterable<T>): AsyncGenerator<T[]> {
  let batch: T[] = []
  let keys = new Set<string>()
  for await (const instance of instances) {
    const key = keyOf(instance)
    if (batch.length >= lookAhead || (keys.size >= maxContexts && !keys.has(key))) {
      yield batch
      batch = []
      keys = new Set()
    }
    batch.push(instance)
    keys.add(key)
  }
  if (batch.length > 0) yield batch
}

/** Opens each data set while the one before it is being sent. */
async function* prepareAhead<T extends OutgoingInstance>(
  association: RequestedAssociation,
  batch: readonly T[],
): AsyncGenerator<[T, Prepared]> {
  let next: Promise<Prepared> | undefined
  try {
    for (const [index, instance] of batch.entries()) {
      const prepared = await (next ?? prepare(association, instance))
      const following = batch[index + 1]
      next = following && prepare(association, following)
      yield [instance, prepared]
    }
  } finally {
    const unsent = await next
    if (unsent?.kind === 'ready') await unsent.dataset.close?.()
  }
}

/** Opens a data set and reads its first block. Never rejects. */
async function prepare(association: RequestedAssociation, instance: OutgoingInstance): Promise<Prepared> {
  if (!association.accepts(instance)) return { kind: 'not-accepted' }
  let dataset: OutgoingDataset | undefined
  try {
    dataset = await instance.open()
    return { kind: 'ready', dataset, firstBlock: await readBlock(dataset, dataset.datasetOffset) }
  } catch (error) {
    await dataset?.close?.().catch(() => undefined)
    return { kind: 'unreadable', error }
  }
}
