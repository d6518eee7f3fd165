/**
 * The bytes of a file that goes into a ZIP archive, read by range: twice, once for the checksums that stand before them
 * and once to be written, so that a file that is not what it should be is found before its first byte leaves.
 */
import { createHash } from 'node:crypto'
import { constants, crc32, createDeflateRaw } from 'node:zlib'
import type { ByteSource } from '../dicom/byte-source.ts'
import { GatewayError } from '../errors.ts'
import type { ZipWriter } from './zip-writer.ts'

/** A source that can read into memory that is used again. */
export interface ReusingSource extends ByteSource {
  read(offset: number, length: number, into?: Buffer): Promise<Uint8Array>
}

/** What a file has to be, and how it is written. */
export interface ZipContentOptions {
  /** What the bytes must have; undefined where that is not known. */
  readonly sha256: Buffer | undefined
  readonly isDeflated: boolean
  readonly signal: AbortSignal
}

/** A file whose checksums were read. */
export interface ZipContent {
  /** Header and bytes; each part is valid until the next one is asked for. */
  parts(writer: ZipWriter, name: string): AsyncIterable<Uint8Array>
}

/** Deflates at the level that costs least. */
export const fastest = { level: constants.Z_BEST_SPEED }
const partBytes = 1_048_576

/**
 * Reads the checksums of a file.
 *
 * @throws GatewayError STORAGE_CORRUPT when it is not what `sha256` says; the reason of the signal
 */
export async function openZipContent(source: ReusingSource, options: ZipContentOptions): Promise<ZipContent> {
  const { sizeBytes } = source
  const { isDeflated, signal } = options
  const checked = await checksums(source, options)
  return {
    async *parts(writer, name) {
      if (!isDeflated) {
        yield writer.entry({ name, method: 'stored', sizeBytes, compressedBytes: sizeBytes, crc32: checked })
        yield* chunksOf(source, signal)
        return
      }
      const { header, ending } = writer.deflating(name, sizeBytes)
      yield header
      let compressedBytes = 0
      for await (const chunk of deflated(chunksOf(source, signal))) {
        compressedBytes += chunk.length
        yield chunk
      }
      yield ending(checked, compressedBytes)
    },
  }
}

/** CRC-32 of the bytes, which have the digest where there is one. @throws GatewayError STORAGE_CORRUPT */
export async function checksums(
  source: ReusingSource,
  { sha256, signal }: Pick<ZipContentOptions, 'sha256' | 'signal'>,
): Promise<number> {
  const hash = sha256 && createHash('sha256')
  let crc = 0
  for await (const chunk of chunksOf(source, signal)) {
    crc = crc32(chunk, crc)
    hash?.update(chunk)
  }
  if (sha256 && !hash?.digest().equals(sha256)) throw damagedFile()
  return crc
}

/** A stored file is not what its digest or size says. */
export function damagedFile(): GatewayError {
  return new GatewayError('STORAGE_CORRUPT', 'a stored file is not what was stored')
}

/** The bytes of a source, through one buffer. @throws GatewayError STORAGE_CORRUPT when they end early */
async function* chunksOf(source: ReusingSource, signal: AbortSignal): AsyncGenerator<Uint8Array> {
  const buffer = Buffer.allocUnsafe(Math.min(partBytes, source.sizeBytes))
  for (let at = 0; at < source.sizeBytes; ) {
    signal.throwIfAborted()
    const chunk = await source.read(at, Math.min(partBytes, source.sizeBytes - at), buffer)
    if (chunk.length === 0) throw damagedFile()
    yield chunk
    at += chunk.length
  }
}

/** Deflates chunks, each of which may be used again when the next one is asked for. @throws what `chunks` throws */
export async function* deflated(chunks: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  const deflate = createDeflateRaw({ ...fastest, chunkSize: 262_144 })
  const feeding = (async () => {
    for await (const chunk of chunks) {
      // The chunk's memory is used again: wait until it has been read.
      await new Promise<void>((resolve, reject) => deflate.write(chunk, error => (error ? reject(error) : resolve())))
    }
    deflate.end()
  })()
  feeding.catch((error: unknown) => deflate.destroy(error instanceof Error ? error : undefined))
  try {
    for await (const chunk of deflate) if (chunk instanceof Uint8Array) yield chunk
    await feeding
  } finally {
    deflate.destroy()
    await feeding.catch(() => undefined)
  }
}
