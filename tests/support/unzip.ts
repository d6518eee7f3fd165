/** Reads ZIP files in tests, by a library that is not ours. */
import { buffer } from 'node:stream/consumers'
import { type Entry, fromBuffer, type ZipFile } from 'yauzl'

/** A file of an archive. */
export interface UnzippedFile {
  readonly name: string
  readonly bytes: Buffer
  /** 0 is stored, 8 deflated. */
  readonly method: number
}

/** All files in the order of the central directory; their CRC-32 is checked. */
export async function unzip(zip: Buffer): Promise<UnzippedFile[]> {
  const opened = await new Promise<ZipFile>((resolve, reject) =>
    fromBuffer(zip, { lazyEntries: false, autoClose: false }, (error, file) => (error ? reject(error) : resolve(file))),
  )
  const entries = await new Promise<Entry[]>((resolve, reject) => {
    const found: Entry[] = []
    opened.on('entry', (entry: Entry) => found.push(entry))
    opened.once('end', () => resolve(found))
    opened.once('error', reject)
  })
  const files: UnzippedFile[] = []
  for (const entry of entries) {
    const bytes = await new Promise<Buffer>((resolve, reject) =>
      opened.openReadStream(entry, (error, stream) => (error ? reject(error) : buffer(stream).then(resolve, reject))),
    )
    files.push({ name: entry.fileName, bytes, method: entry.compressionMethod })
  }
  return files
}
