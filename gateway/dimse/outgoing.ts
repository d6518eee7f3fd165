/**
 * Instances on their way out: each is opened while the one before it is being sent, and converted where the
 * receiver does not take it as it is stored.
 */
import { isGatewayError } from '../errors.ts'
import { type OutgoingDataset, readBlock } from './dataset-writer.ts'
import type { Proposal } from './scu-contexts.ts'
import type { Outcome } from './status.ts'

/** An instance to send. `open` is called shortly before its turn. */
export interface OutgoingInstance extends Proposal {
  readonly sopInstanceUid: string
  open(): Promise<OutgoingDataset> | OutgoingDataset
}

/** What became of one instance. */
export type StoreResult =
  /** The peer's status (PS3.4 Table B.2-1) and error comment. */
  | ({ readonly kind: 'responded' } & Outcome)
  /** The peer does not take this SOP class in this transfer syntax, nor in one that we can make of it. */
  | { readonly kind: 'not-accepted' }
  /** It could not be opened, read or converted; nothing was sent. */
  | { readonly kind: 'unreadable'; readonly error: unknown }

/** Makes data sets of other transfer syntaxes, without loss. */
export interface Converter {
  /** What `from` can be converted to, the preferred one first. */
  targets(from: string): readonly string[]
  /** @returns the converted data set; closing it does not close `dataset` */
  convert(dataset: OutgoingDataset, from: string, to: string): Promise<OutgoingDataset>
}

/** Who receives: an association, in either role. */
export interface Acceptor {
  /** True where the peer takes this class in this transfer syntax. */
  accepts(proposal: Proposal): boolean
}

/** An open data set with its first bytes, or why there is none. */
export type Prepared =
  | {
      readonly kind: 'ready'
      /** In which it goes. */
      readonly transferSyntaxUid: string
      readonly dataset: OutgoingDataset
      readonly firstBlock: Uint8Array
    }
  | Exclude<StoreResult, { readonly kind: 'responded' }>

/** The transfer syntaxes in which an instance can go to a receiver, the best one first. */
function syntaxesFor(acceptor: Acceptor, instance: Proposal, converter?: Converter): string[] {
  const { sopClassUid, transferSyntaxUid: stored } = instance
  const isTaken = (transferSyntaxUid: string): boolean => acceptor.accepts({ sopClassUid, transferSyntaxUid })
  return [stored, ...(converter?.targets(stored) ?? [])].filter(isTaken)
}

/** Opens each data set while the one before it is in use; the user closes those that are ready. */
export async function* prepareAhead<T extends OutgoingInstance>(
  acceptor: Acceptor,
  instances: AsyncIterable<T> | Iterable<T>,
  converter?: Converter,
): AsyncGenerator<[T, Prepared]> {
  let current: { readonly instance: T; readonly prepared: Promise<Prepared> } | undefined
  try {
    for await (const instance of instances) {
      const following = { instance, prepared: prepare(acceptor, instance, converter) }
      const ready = current
      current = following
      if (ready) yield [ready.instance, await ready.prepared]
    }
    const last = current
    current = undefined
    if (last) yield [last.instance, await last.prepared]
  } finally {
    const unsent = await current?.prepared
    if (unsent?.kind === 'ready') await unsent.dataset.close?.()
  }
}

/** Opens a data set and reads its first block. Never rejects. */
async function prepare(
  acceptor: Acceptor,
  instance: OutgoingInstance,
  converter: Converter | undefined,
): Promise<Prepared> {
  let result: Prepared = { kind: 'not-accepted' }
  for (const transferSyntaxUid of syntaxesFor(acceptor, instance, converter)) {
    result = await prepareIn(transferSyntaxUid, instance, converter)
    // A single object may refuse one conversion and still take another one.
    if (result.kind !== 'unreadable' || !isGatewayError(result.error, 'TRANSCODE_UNSUPPORTED')) return result
  }
  return result
}

async function prepareIn(
  transferSyntaxUid: string,
  instance: OutgoingInstance,
  converter: Converter | undefined,
): Promise<Prepared> {
  let dataset: OutgoingDataset | undefined
  try {
    const stored = await instance.open()
    dataset = stored
    if (converter && transferSyntaxUid !== instance.transferSyntaxUid) {
      dataset = closingBoth(await converter.convert(stored, instance.transferSyntaxUid, transferSyntaxUid), stored)
    }
    return { kind: 'ready', transferSyntaxUid, dataset, firstBlock: await readBlock(dataset, dataset.datasetOffset) }
  } catch (error) {
    await dataset?.close?.().catch(() => undefined)
    return { kind: 'unreadable', error }
  }
}

function closingBoth(converted: OutgoingDataset, stored: OutgoingDataset): OutgoingDataset {
  return {
    source: converted.source,
    datasetOffset: converted.datasetOffset,
    async close() {
      await converted.close?.()
      await stored.close?.()
    },
  }
}
