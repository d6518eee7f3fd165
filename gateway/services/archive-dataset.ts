/** An instance as it goes to the archive: the stored bytes, or a copy with other identifiers. */
import type { ByteSource } from '../dicom/byte-source.ts'
import { type Coercion, type CoercionRecord, coercionEdits } from '../dicom/coerce.ts'
import { findLayout } from '../dicom/part10-layout.ts'
import { spliceEdits } from '../dicom/part10-splice.ts'
import type { Blobs } from '../store/blobs.ts'
import type { ArchiveItem } from './archive-rows.ts'

/** Bytes to send, with the place of the data set in them. */
export interface ArchiveDataset {
  readonly source: ByteSource
  readonly datasetOffset: number
  close(): Promise<void>
}

/**
 * Opens an instance. A coerced copy lies in staging while it is being sent; the stored bytes never change.
 *
 * @throws GatewayError STORAGE_CORRUPT, STORAGE_FULL, STORAGE_IO, DICOM_UNREADABLE, DICOM_LIMIT, BAD_REQUEST for a
 *   value that the instance's character set cannot represent
 */
export async function openArchiveDataset(
  blobs: Pick<Blobs, 'open' | 'stageFrom'>,
  item: ArchiveItem,
  coercion: Coercion,
  record: Omit<CoercionRecord, 'source'>,
): Promise<ArchiveDataset> {
  const blob = await blobs.open(item.fileSha256)
  try {
    const { datasetOffset } = await findLayout(blob)
    const edits =
      coercion.size === 0 ? [] : await coercionEdits(blob, coercion, { ...record, source: item.source.slice(0, 64) })
    if (edits.length === 0) return { source: blob, datasetOffset, close: () => blob.close() }
    const copy = await blobs.stageFrom(spliceEdits(blob, edits), { expectedBytes: item.sizeBytes })
    await blob.close()
    return { source: copy, datasetOffset, close: () => copy.discard() }
  } catch (error) {
    await blob.close().catch(() => undefined)
    throw error
  }
}
