/**
 * Writes a data set to an association as it is stored: PDU headers and views of the blocks that are
 * read, corked, so that each block is one gathering write.
 */
import type { Socket } from 'node:net'
import type { ByteSource } from '../dicom/byte-source.ts'
import { GatewayError } from '../errors.ts'
import { encodeDataHeader, fragmentBytes } from './pdu.ts'

/** A data set inside of a Part 10 file or other bytes. */
export interface OutgoingDataset {
  readonly source: ByteSource
  /** Where the data set starts, after preamble and file meta information. */
  readonly datasetOffset: number
  close?(): Promise<void>
  /** All of it is with the kernel: memory that was read into may be used again. Not called when that never happens. */
  onFlushed?(): void
}

const blockBytes = 1_048_576

/** Reads the next block of a data set, short only at its end. */
export async function readBlock(dataset: OutgoingDataset, offset: number): Promise<Uint8Array> {
  return await dataset.source.read(offset, Math.min(blockBytes, dataset.source.sizeBytes - offset))
}

/** Where and how a data set is written. */
export interface DatasetTarget {
  readonly socket: Socket
  readonly contextId: number
  /** The peer's limit, 0 for none. */
  readonly maxPduLength: number
  /** Waits until the socket takes more. */
  readonly whenDrained: () => Promise<void>
  /** Something was written: the peer's time to answer begins anew. */
  readonly onProgress: () => void
}

/**
 * Writes a whole data set after what the socket has corked already.
 *
 * @param firstBlock  its first bytes, read ahead
 * @throws GatewayError STORAGE_IO when it ends before its size, and what `read` throws
 */
export async function writeDataset(
  target: DatasetTarget,
  dataset: OutgoingDataset,
  firstBlock: Uint8Array,
): Promise<void> {
  const { socket } = target
  const end = dataset.source.sizeBytes
  let offset = dataset.datasetOffset
  let block = firstBlock
  for (;;) {
    if (block.length === 0 && offset < end) throw new GatewayError('STORAGE_IO', 'data set ended early')
    offset += block.length
    writeBlock(target, block, offset >= end ? { last: true, onFlushed: () => dataset.onFlushed?.() } : { last: false })
    socket.uncork()
    if (offset >= end) return
    if (socket.writableNeedDrain) await target.whenDrained()
    block = await readBlock(dataset, offset)
    target.onProgress()
    socket.cork()
  }
}

function writeBlock(target: DatasetTarget, block: Uint8Array, flags: { last: boolean; onFlushed?: () => void }): void {
  const { socket, contextId } = target
  const room = fragmentBytes(target.maxPduLength)
  let offset = 0
  do {
    const fragment = block.subarray(offset, offset + room)
    offset += fragment.length
    const last = flags.last && offset >= block.length
    socket.write(encodeDataHeader(contextId, { command: false, last }, fragment.length))
    if (last) socket.write(fragment, error => error || flags.onFlushed?.())
    else socket.write(fragment)
  } while (offset < block.length)
}
