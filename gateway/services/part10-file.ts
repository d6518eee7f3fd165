/** Stored instances as Part 10 files, in the transfer syntax that somebody takes. */
import { fileMeta } from '../dicom/part10-writer.ts'
import { GatewayError, isGatewayError } from '../errors.ts'
import type { Pixels } from '../pixels/pixels.ts'
import type { OpenDataset, Retrieve, ReusingSource } from './retrieve.ts'
import type { PlannedInstance } from './retrieve-plan.ts'

/** A Part 10 file, open; it must be closed. */
export interface Part10File {
  readonly instance: PlannedInstance
  readonly transferSyntaxUid: string
  readonly source: ReusingSource
  /** Nobody may use what was read of `source` any more. */
  close(): Promise<void>
}

/** What files are opened with. */
export interface FileTools {
  readonly retrieve: Pick<Retrieve, 'openDataset'>
  readonly pixels: Pick<Pixels, 'transcode'>
}

/**
 * Opens an instance of a plan that has begun.
 *
 * @param transferSyntaxUids  what it may be in, best first
 * @throws GatewayError NOT_ACCEPTABLE when it can be had in none of them; those of `openDataset` and `transcode`
 */
export async function openPart10(
  { retrieve, pixels }: FileTools,
  instance: PlannedInstance,
  transferSyntaxUids: readonly string[],
  signal: AbortSignal,
): Promise<Part10File> {
  for (const uid of transferSyntaxUids) {
    const stored = await retrieve.openDataset(instance)
    try {
      if (uid === instance.transferSyntaxUid) return await asStored(instance, stored)
      return await transcoded(
        instance,
        stored,
        await pixels.transcode(stored.source, instance.transferSyntaxUid, uid, signal),
      )
    } catch (error) {
      await release(stored)
      // A single object may refuse one transfer syntax and still be had in another one.
      if (!isGatewayError(error, 'TRANSCODE_UNSUPPORTED')) throw error
    }
  }
  throw new GatewayError('NOT_ACCEPTABLE', 'the instance cannot be had in an accepted transfer syntax')
}

async function release(stored: OpenDataset): Promise<void> {
  await stored.close()
  stored.onFlushed()
}

async function asStored(instance: PlannedInstance, stored: OpenDataset): Promise<Part10File> {
  const { source, datasetOffset } = stored
  const marker = await source.read(128, 4)
  const isFile = datasetOffset > 132 && Buffer.from(marker).toString('latin1') === 'DICM'
  return {
    instance,
    transferSyntaxUid: instance.transferSyntaxUid,
    source: isFile ? source : withMeta(fileMeta(instance), source, datasetOffset),
    close: () => release(stored),
  }
}

async function transcoded(
  instance: PlannedInstance,
  stored: OpenDataset,
  made: Awaited<ReturnType<Pixels['transcode']>>,
): Promise<Part10File> {
  // What was read is spooled: the stored file is not needed any more.
  await release(stored)
  return {
    instance,
    transferSyntaxUid: made.transferSyntaxUid,
    source: made.open(),
    close: () => made.close(),
  }
}

/** A data set that was stored without file meta information, with it. */
function withMeta(meta: Uint8Array, source: ReusingSource, datasetOffset: number): ReusingSource {
  const shift = datasetOffset - meta.length
  return {
    sizeBytes: source.sizeBytes - shift,
    async read(offset, length, into) {
      if (offset >= meta.length) return await source.read(offset + shift, length, into)
      const head = meta.subarray(offset, offset + length)
      if (head.length === length) return head
      return Buffer.concat([head, await source.read(datasetOffset, length - head.length)])
    },
  }
}
