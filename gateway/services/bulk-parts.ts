/** Bulk data that came beside metadata: small ones in memory, others in staging, until their data sets are written. */
import { GatewayError } from '../errors.ts'
import type { StagedFile } from '../store/blobs.ts'
import type { Ingest } from './ingest.ts'

/** One value, or one frame of compressed pixel data. */
export interface BulkPart {
  readonly sizeBytes: number
  /** The media type's transfer syntax; undefined for native values. */
  readonly transferSyntaxUid: string | undefined
  /** The whole value, where it is in memory. */
  readonly bytes: Uint8Array | undefined
  chunks(): AsyncIterable<Uint8Array>
}

/** Keeps bulk data by their URIs; must be closed. */
export interface BulkParts {
  /** @throws GatewayError TOO_LARGE, DICOM_LIMIT, STORAGE_FULL, STORAGE_IO and what `content` throws */
  add(uri: string, content: AsyncIterable<Uint8Array>, transferSyntaxUid: string | undefined): Promise<void>
  /** All that came under a URI, in order. */
  get(uri: string): readonly BulkPart[]
  close(): Promise<void>
}

const smallBytes = 65_536
/** In memory together; what is more is staged. */
const memoryBytes = 32 * 1024 * 1024
const maxParts = 100_000
const chunkBytes = 1024 * 1024

/** Opens an empty collection. */
export function openBulkParts(ingest: Pick<Ingest, 'stage'>, limitBytes: number): BulkParts {
  const parts = new Map<string, BulkPart[]>()
  const files: StagedFile[] = []
  let count = 0
  let heldBytes = 0
  let totalBytes = 0

  async function keep(content: AsyncIterable<Uint8Array>, transferSyntaxUid: string | undefined): Promise<BulkPart> {
    const head: Uint8Array[] = []
    let headBytes = 0
    const iterator = content[Symbol.asyncIterator]()
    let next = await nextOf(iterator)
    while (next && headBytes + next.length <= smallBytes && heldBytes + headBytes + next.length <= memoryBytes) {
      head.push(next)
      headBytes += next.length
      next = await nextOf(iterator)
    }
    if (!next) {
      const bytes = Buffer.concat(head)
      heldBytes += bytes.length
      return { sizeBytes: bytes.length, transferSyntaxUid, bytes, chunks: () => only(bytes) }
    }
    const staged = await ingest.stage()
    try {
      if (head.length > 0) await staged.append([Buffer.concat(head)])
      for (let chunk: Uint8Array | undefined = next; chunk; chunk = await nextOf(iterator)) await staged.append([chunk])
    } catch (error) {
      await staged.discard()
      throw error
    }
    const file = await staged.finish()
    files.push(file)
    return { sizeBytes: file.sizeBytes, transferSyntaxUid, bytes: undefined, chunks: () => read(file) }
  }

  /** The next bytes, counted. */
  async function nextOf(iterator: AsyncIterator<Uint8Array>): Promise<Uint8Array | undefined> {
    const { done, value } = await iterator.next()
    if (done) return undefined
    totalBytes += value.length
    if (totalBytes > limitBytes)
      throw new GatewayError('TOO_LARGE', `expected at most ${limitBytes} bytes of bulk data`)
    return value
  }

  return {
    async add(uri, content, transferSyntaxUid) {
      count += 1
      if (count > maxParts) throw new GatewayError('DICOM_LIMIT', `expected at most ${maxParts} parts of bulk data`)
      const part = await keep(content, transferSyntaxUid)
      const known = parts.get(uri)
      if (known) known.push(part)
      else parts.set(uri, [part])
    },
    get: uri => parts.get(uri) ?? [],
    async close() {
      for (const file of files) await file.discard()
    },
  }
}

async function* only(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield bytes
}

async function* read(file: StagedFile): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < file.sizeBytes; at += chunkBytes) {
    yield await file.read(at, Math.min(chunkBytes, file.sizeBytes - at))
  }
}
