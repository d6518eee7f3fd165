/** One package as a ZIP file, while its bytes are asked for. */
import { crc32 } from 'node:zlib'
import { transferSyntax } from '../../gateway/dicom/uid.ts'
import { openZipContent } from '../../gateway/zip/zip-content.ts'
import { ZipWriter } from '../../gateway/zip/zip-writer.ts'
import { dicomDirectoryName, type PlacedObject } from './file-set.ts'
import { openObject } from './object-file.ts'

/** What is written. */
export interface Archive {
  readonly objects: readonly PlacedObject[]
  /** The DICOMDIR, which comes last. */
  readonly directory: Uint8Array | undefined
  readonly compression: 'stored' | 'deflate'
  /** The time of all files. */
  readonly created: Date
}

/**
 * The archive; each chunk is valid until the next one is asked for.
 *
 * @throws GatewayError STORAGE_CORRUPT when a prepared object is not what it was, STORAGE_IO; the reason of `signal`
 */
export async function* writeArchive(archive: Archive, signal: AbortSignal): AsyncGenerator<Uint8Array> {
  const { objects, directory, compression, created } = archive
  const writer = new ZipWriter(created)
  for (const { object, path } of objects) {
    await using opened = new AsyncDisposableStack()
    const source = opened.adopt(await openObject(object), blob => blob.close())
    const sha256 = Buffer.from(object.sha256, 'hex')
    const syntax = transferSyntax(object.transferSyntaxUid)
    const isDeflated = compression === 'deflate' && syntax?.encapsulated === false && !syntax.deflated
    const content = await openZipContent(source, { sha256, isDeflated, signal })
    yield* content.parts(writer, path)
  }
  if (directory !== undefined) {
    const { length } = directory
    const sizes = { sizeBytes: length, compressedBytes: length, crc32: crc32(directory) }
    yield writer.entry({ name: dicomDirectoryName, method: 'stored', ...sizes })
    yield directory
  }
  yield* writer.end()
}
