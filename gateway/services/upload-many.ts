/** Uploads of several files: what is DICOM among them is stored, the rest passed over, as Orthanc does. */
import { GatewayError, isGatewayError } from '../errors.ts'
import type { Origin } from '../store/origin.ts'
import type { Ingest, IngestResult } from './ingest.ts'
import { storeFile } from './upload.ts'
import { isZip, readZip } from './zip-upload.ts'

/** Where files go and how large they may be. */
export interface ManyOptions {
  readonly ingest: Ingest
  readonly origin: Origin
  /** The largest file, bytes. */
  readonly limitBytes: number
}

type Bytes = AsyncIterable<Uint8Array | readonly Uint8Array[]>

/** An upload with its first bytes looked at. */
export interface Peeked {
  readonly isZip: boolean
  /** All of it. */
  readonly bytes: Bytes
}

const zipHeadBytes = 4
const dicmAt = 128
/** Files of one archive. */
export const mostEntries = 100_000
/** So many times the largest file may all files of an archive have together. */
export const mostTimes = 4

/** Reads the first bytes to see what it is. */
export async function peek(source: Bytes): Promise<Peeked> {
  const { head, bytes } = await headOf(source, zipHeadBytes)
  return { isZip: isZip(head), bytes }
}

/** Stores every DICOM file of an archive. @throws GatewayError BAD_REQUEST, DICOM_LIMIT, STORAGE_FULL, DATABASE_UNAVAILABLE */
export async function storeArchive(source: Bytes, options: ManyOptions): Promise<IngestResult[]> {
  const { ingest, limitBytes } = options
  const results: IngestResult[] = []
  const staged = await ingest.stage()
  let path: string
  let discard = (): Promise<void> => staged.discard()
  try {
    let seen = 0
    for await (const group of source) {
      const chunks = group instanceof Uint8Array ? [group] : group
      for (const { length } of chunks) seen += length
      if (seen > limitBytes) throw new GatewayError('TOO_LARGE', `expected at most ${limitBytes} bytes`)
      await staged.append(chunks)
    }
    const file = await staged.finish()
    discard = () => file.discard()
    path = file.path
    await file.sync()
    for await (const { content } of readZip(path, { entries: mostEntries, totalBytes: limitBytes * mostTimes })) {
      const result = await storeIfDicom(content, options)
      if (result) results.push(result)
    }
  } finally {
    await discard()
  }
  return results
}

/** Stores one file; undefined when it is no DICOM file that can be read. @throws GatewayError what is not the file's fault */
export async function storeIfDicom(source: Bytes, options: ManyOptions): Promise<IngestResult | undefined> {
  const { ingest, origin, limitBytes } = options
  const { head, bytes } = await headOf(source, dicmAt + 4)
  if (Buffer.from(head).toString('latin1', dicmAt, dicmAt + 4) !== 'DICM') return undefined
  try {
    return await storeFile(ingest, bytes, origin, { limitBytes })
  } catch (error) {
    if (isGatewayError(error, 'DICOM_UNREADABLE') || isGatewayError(error, 'DICOM_MISMATCH')) return undefined
    throw error
  }
}

async function headOf(source: Bytes, length: number): Promise<{ readonly head: Uint8Array; readonly bytes: Bytes }> {
  const rest = source[Symbol.asyncIterator]()
  let head: Uint8Array = new Uint8Array(0)
  let isEnded = false
  while (head.length < length && !isEnded) {
    const next = await rest.next()
    if (next.done) isEnded = true
    else head = Buffer.concat([head, ...(next.value instanceof Uint8Array ? [next.value] : next.value)])
  }
  const bytes = (async function* () {
    if (head.length > 0) yield head
    if (!isEnded) yield* { [Symbol.asyncIterator]: () => rest }
  })()
  return { head, bytes }
}
