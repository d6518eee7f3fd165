/** Files of a ZIP archive, one after the other, within bounds: an archive of kilobytes may inflate to anything. */
import type { Readable } from 'node:stream'
import { crc32 } from 'node:zlib'
import { type Entry, open, type ZipFile } from 'yauzl'
import { GatewayError, isGatewayError } from '../errors.ts'

/** Bounds of an archive. */
export interface ZipLimits {
  readonly entries: number
  /** Of all files together, inflated. */
  readonly totalBytes: number
}

/** A file of an archive. */
export interface ZipEntry {
  /** As it stands in the archive: nothing to make a path of before it was looked at. */
  readonly name: string
  /** To be read before the next one is asked for, or not at all. */
  readonly content: AsyncIterable<Uint8Array>
  /** Entries of the archive, directories included. */
  readonly count: number
}

/** How an archive begins (a local file header), and one without files (an end of central directory). */
const signatures = ['PK\x03\x04', 'PK\x05\x06']

/** True for bytes with which a ZIP archive begins. */
export const isZip = (head: Uint8Array): boolean =>
  signatures.includes(Buffer.from(head.subarray(0, 4)).toString('latin1'))

/**
 * Reads an archive that lies in a file.
 *
 * @throws GatewayError DICOM_LIMIT for too many files or bytes, BAD_REQUEST for an archive that cannot be read
 */
export async function* readZip(path: string, limits: ZipLimits): AsyncGenerator<ZipEntry, void, void> {
  const archive = await openArchive(path)
  let total = 0
  const count = (bytes: number): void => {
    total += bytes
    if (total > limits.totalBytes)
      throw new GatewayError('DICOM_LIMIT', `expected at most ${limits.totalBytes} bytes in the archive`)
  }
  try {
    if (archive.entryCount > limits.entries)
      throw new GatewayError('DICOM_LIMIT', `expected at most ${limits.entries} files in the archive`)
    for await (const entry of entriesOf(archive)) {
      // Directories, and what nobody has given us a password for.
      if (entry.fileName.endsWith('/') || (entry.generalPurposeBitFlag & 1) !== 0) continue
      yield { content: contentOf(archive, entry, count), name: entry.fileName, count: archive.entryCount }
    }
  } finally {
    archive.close()
  }
}

const unreadable = (cause: unknown): GatewayError =>
  new GatewayError('BAD_REQUEST', 'expected a ZIP archive that can be read', { cause })

function openArchive(path: string): Promise<ZipFile> {
  const { promise, resolve, reject } = Promise.withResolvers<ZipFile>()
  // Uploads use no names; who writes files by them looks at them first.
  const options = { lazyEntries: true, autoClose: false, validateEntrySizes: true, strictFileNames: false }
  open(path, options, (error, archive) => (archive ? resolve(archive) : reject(unreadable(error))))
  return promise
}

async function* entriesOf(archive: ZipFile): AsyncGenerator<Entry, void, void> {
  for (;;) {
    const { promise, resolve, reject } = Promise.withResolvers<Entry | undefined>()
    const onEnd = (): void => resolve(undefined)
    const onError = (error: unknown): void => reject(unreadable(error))
    archive.once('entry', resolve).once('end', onEnd).once('error', onError)
    archive.readEntry()
    const entry = await promise.finally(() => {
      archive.off('entry', resolve).off('end', onEnd).off('error', onError)
    })
    if (!entry) return
    yield entry
  }
}

async function* contentOf(
  archive: ZipFile,
  entry: Entry,
  count: (bytes: number) => void,
): AsyncGenerator<Uint8Array, void, void> {
  const { promise, resolve, reject } = Promise.withResolvers<Readable>()
  archive.openReadStream(entry, (error, stream) => (stream ? resolve(stream) : reject(unreadable(error))))
  const stream = await promise
  let seen = 0
  try {
    for await (const chunk of stream) {
      count(chunk.length)
      seen = crc32(chunk, seen)
      yield chunk
    }
    if (seen !== entry.crc32) throw unreadable(undefined)
  } catch (error) {
    throw isGatewayError(error) ? error : unreadable(error)
  }
}
