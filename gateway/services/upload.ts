/**
 * A Part 10 file that arrives as a stream: staged as it is, with the data set's place found on the
 * way, so that its digest is computed while receiving.
 */
import { readInstanceHeader } from '../dicom/instance-header.ts'
import { GatewayError } from '../errors.ts'
import type { StagedFile } from '../store/blobs.ts'
import type { Origin } from '../store/origin.ts'
import type { Ingest, IngestResult } from './ingest.ts'
import type { RemoteInstance } from './remote.ts'

/** Group 2 of any real file is a few hundred bytes; more than this is refused. */
const maxMetaBytes = 1024 * 1024
const preambleBytes = 128

/** A file that is staged, not to be stored. */
export interface LooseFile {
  readonly instance: RemoteInstance
  /** To be discarded. */
  readonly staged: StagedFile
}

/** Stages one file and reads what it is. @throws GatewayError as `storeFile` */
export async function stageLoose(
  ingest: Pick<Ingest, 'stage'>,
  source: AsyncIterable<Uint8Array | readonly Uint8Array[]>,
  limitBytes: number,
): Promise<LooseFile> {
  const staged = await stageFile(ingest, source, { limitBytes })
  try {
    const header = await readInstanceHeader(staged)
    const { sopClassUid, sopInstanceUid, transferSyntaxUid, datasetOffset, studyInstanceUid, patientId } = header
    const ids = { sopClassUid, sopInstanceUid, transferSyntaxUid, studyInstanceUid, patientId }
    return { staged, instance: { ...ids, datasetOffset, source: staged } }
  } catch (error) {
    await staged.discard()
    throw error
  }
}

/**
 * Stores one file.
 *
 * @param limitBytes largest file that is accepted
 * @throws GatewayError DICOM_UNREADABLE, TOO_LARGE, STORAGE_FULL, and what `ingest.store` throws
 */
export async function storeFile(
  ingest: Ingest,
  source: AsyncIterable<Uint8Array | readonly Uint8Array[]>,
  origin: Origin,
  options: { readonly limitBytes: number; readonly expectedBytes?: number },
): Promise<IngestResult> {
  return await ingest.store(await stageFile(ingest, source, options), origin)
}

/** Stages one file, for `Ingest.store`. @throws GatewayError DICOM_UNREADABLE, TOO_LARGE, STORAGE_FULL, STORAGE_IO */
export async function stageFile(
  ingest: Pick<Ingest, 'stage'>,
  source: AsyncIterable<Uint8Array | readonly Uint8Array[]>,
  options: { readonly limitBytes: number; readonly expectedBytes?: number },
): Promise<StagedFile> {
  if ((options.expectedBytes ?? 0) > options.limitBytes) throw tooLarge(options.limitBytes)
  const staged = await ingest.stage(options.expectedBytes)
  try {
    let head: Uint8Array = new Uint8Array(0)
    let marked = false
    let seen = 0
    for await (const group of source) {
      const chunks = group instanceof Uint8Array ? [group] : group
      for (const chunk of chunks) seen += chunk.length
      if (seen > options.limitBytes) throw tooLarge(options.limitBytes)
      if (marked) {
        await staged.append(chunks)
        continue
      }
      head = Buffer.concat([head, ...chunks])
      const offset = datasetOffset(head)
      if (offset === undefined && head.length <= maxMetaBytes) continue
      await appendHead(staged, head, offset)
      marked = true
    }
    if (seen === 0) throw new GatewayError('DICOM_UNREADABLE', 'expected a DICOM file, got nothing')
    // Too short for any meta group: the reader names what is missing.
    if (!marked) await appendHead(staged, head, datasetOffset(head) ?? (isDicm(head, preambleBytes) ? undefined : 0))
  } catch (error) {
    await staged.discard()
    throw error
  }
  return await staged.finish()
}

interface Appendable {
  append(chunks: readonly Uint8Array[]): Promise<void>
  markDataset(): void
}

async function appendHead(staged: Appendable, head: Uint8Array, offset: number | undefined): Promise<void> {
  if (offset === undefined)
    throw new GatewayError('DICOM_UNREADABLE', 'expected a DICOM file: its meta group does not end')
  if (offset > 0) await staged.append([head.subarray(0, offset)])
  staged.markDataset()
  if (offset < head.length) await staged.append([head.subarray(offset)])
}

const tooLarge = (limitBytes: number): GatewayError =>
  new GatewayError('TOO_LARGE', `expected at most ${limitBytes} bytes`)

/**
 * Where the data set begins: after preamble, `DICM` and group 2 (PS3.10 §7.1), which is always in
 * explicit VR little endian; 0 when there is none of them; undefined while more bytes are needed.
 */
export function datasetOffset(head: Uint8Array): number | undefined {
  if (head.length < preambleBytes + 4) return undefined
  const view = new DataView(head.buffer, head.byteOffset, head.byteLength)
  const hasPreamble = isDicm(head, preambleBytes)
  let at = hasPreamble ? preambleBytes + 4 : isDicm(head, 0) ? 4 : 0
  for (;;) {
    if (at + 8 > head.length) return undefined
    if (view.getUint16(at, true) !== 0x0002) return at
    const vr = String.fromCharCode(head[at + 4] ?? 0, head[at + 5] ?? 0)
    const isLong = /^(OB|OD|OF|OL|OV|OW|SQ|SV|UC|UN|UR|UT|UV)$/.test(vr)
    // Some writers use implicit VR for group 2 although PS3.10 forbids it: then no VR stands there.
    const header = /^[A-Z]{2}$/.test(vr) ? (isLong ? 12 : 8) : 8
    if (at + header > head.length) return undefined
    const length =
      header === 12 || !/^[A-Z]{2}$/.test(vr) ? view.getUint32(at + header - 4, true) : view.getUint16(at + 6, true)
    if (length > maxMetaBytes)
      throw new GatewayError('DICOM_UNREADABLE', 'expected a DICOM file: a meta element is too long')
    at += header + length
  }
}

const isDicm = (head: Uint8Array, at: number): boolean =>
  head[at] === 0x44 && head[at + 1] === 0x49 && head[at + 2] === 0x43 && head[at + 3] === 0x4d
