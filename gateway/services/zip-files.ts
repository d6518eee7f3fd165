/**
 * The bytes of stored instances for a ZIP archive: read ahead, a few at a time, into memory that is used again, and
 * compared with their digest before the first one leaves, so that a damaged instance is never part of an archive.
 */
import { webcrypto } from 'node:crypto'
import { promisify } from 'node:util'
import { crc32, deflateRaw } from 'node:zlib'
import type { ByteSource } from '../dicom/byte-source.ts'
import { transferSyntax } from '../dicom/uid.ts'
import { isGatewayError } from '../errors.ts'
import type { Blobs } from '../store/blobs.ts'
import {
  checksums,
  damagedFile,
  fastest,
  openZipContent,
  type ReusingSource,
  type ZipContentOptions,
} from '../zip/zip-content.ts'
import type { ZipWriter } from '../zip/zip-writer.ts'
import { derivedFrom, type NamedPixels } from './named-syntax.ts'
import type { ZipInstance } from './zip-plan.ts'

/** How the files of an archive are written. */
export interface ZipFileOptions {
  /** `fast` deflates what is not compressed already, at the level that costs least, where that gains something. */
  readonly compression: 'stored' | 'fast'
  /**
   * Instances that can be had in this transfer syntax leave in it, the others as they are. One that is compressed with
   * loss is another object, with a new UID.
   */
  readonly transcodeTo?: string
  /** Of JPEG with loss, 1 to 100. */
  readonly lossyQuality?: number | undefined
}

/** A file of an archive, ready to be written. It must be closed. */
export interface ZipFile {
  readonly transferSyntaxUid: string
  readonly sopInstanceUid: string
  /** Header and bytes; each part is valid until the next one is asked for. */
  parts(writer: ZipWriter, name: string): AsyncIterable<Uint8Array>
  close(): Promise<void>
}

/** Files up to this size are read whole. */
const wholeBytes = 1_048_576
const buffersKept = 16

/** Opens the files of archives. */
export class ZipFiles {
  readonly #blobs: Pick<Blobs, 'open'>
  readonly #pixels: NamedPixels
  readonly #free: Buffer[] = []

  constructor(blobs: Pick<Blobs, 'open'>, pixels: NamedPixels) {
    this.#blobs = blobs
    this.#pixels = pixels
  }

  /**
   * Reads and verifies an instance.
   *
   * @throws GatewayError STORAGE_CORRUPT, STORAGE_IO, UNAVAILABLE; the reason of `signal`
   */
  async open(instance: ZipInstance, options: ZipFileOptions, signal: AbortSignal): Promise<ZipFile> {
    const { fileSha256, sizeBytes, transferSyntaxUid, sopInstanceUid } = instance
    const blob = await this.#blobs.open(fileSha256)
    try {
      if (blob.sizeBytes !== sizeBytes) throw damagedFile()
      const transcoded = await this.#transcoded(blob, instance, options, signal)
      const from = transcoded ?? {
        transferSyntaxUid,
        sopInstanceUid,
        sizeBytes,
        source: blob,
        close: async () => undefined,
      }
      try {
        const sha256 = transcoded ? undefined : fileSha256
        const isPlain = transferSyntax(from.transferSyntaxUid)?.encapsulated === false
        const isDeflated = options.compression === 'fast' && isPlain && !isDeflatedSyntax(from.transferSyntaxUid)
        const whole = sizeBytes <= wholeBytes && from.sizeBytes <= wholeBytes
        const file = whole
          ? await this.#whole(from.source, { sha256, isDeflated })
          : { ...(await openZipContent(from.source, { sha256, isDeflated, signal })), release: () => undefined }
        const close = async (): Promise<void> => {
          file.release()
          await from.close()
          await blob.close()
        }
        return {
          transferSyntaxUid: from.transferSyntaxUid,
          sopInstanceUid: from.sopInstanceUid,
          parts: file.parts,
          close,
        }
      } catch (error) {
        await from.close()
        throw error
      }
    } catch (error) {
      await blob.close()
      throw error
    }
  }

  async #transcoded(
    blob: ByteSource,
    instance: ZipInstance,
    { transcodeTo, lossyQuality: quality }: ZipFileOptions,
    signal: AbortSignal,
  ): Promise<Source | undefined> {
    const { transferSyntaxUid: from, fileSha256, sopInstanceUid } = instance
    if (transcodeTo === undefined || transcodeTo === from) return undefined
    const derived = derivedFrom(sopInstanceUid, from, transcodeTo)
    await checksums(blob, { sha256: fileSha256, signal })
    try {
      const made = await this.#pixels.recodeAsNamed(blob, { from, to: transcodeTo, quality, ...derived }, signal)
      const { transferSyntaxUid, sizeBytes } = made
      const uid = derived.sopInstanceUid ?? sopInstanceUid
      return { transferSyntaxUid, sopInstanceUid: uid, sizeBytes, source: made.open(), close: () => made.close() }
    } catch (error) {
      const isKept = ['TRANSCODE_UNSUPPORTED', 'PIXELS_UNREADABLE', 'DICOM_UNREADABLE', 'DICOM_LIMIT'] as const
      if (isKept.some(code => isGatewayError(error, code))) return undefined
      throw error
    }
  }

  async #whole(source: ReusingSource, { sha256, isDeflated }: Omit<ZipContentOptions, 'signal'>): Promise<Opened> {
    const buffer = this.#free.pop() ?? Buffer.allocUnsafeSlow(wholeBytes)
    const release = (): void => {
      if (this.#free.length < buffersKept) this.#free.push(buffer)
    }
    try {
      const bytes = await source.read(0, source.sizeBytes, buffer)
      if (bytes.length !== source.sizeBytes) throw damagedFile()
      if (sha256 && !(await sha256Of(bytes)).equals(sha256)) throw damagedFile()
      const deflated = isDeflated ? await deflateFast(bytes, fastest) : bytes
      const isSmaller = deflated.length < bytes.length
      const written = isSmaller ? deflated : bytes
      return {
        release,
        async *parts(writer, name) {
          yield writer.entry({
            name,
            method: isSmaller ? 'deflated' : 'stored',
            sizeBytes: bytes.length,
            compressedBytes: written.length,
            crc32: crc32(bytes),
          })
          yield written
        },
      }
    } catch (error) {
      release()
      throw error
    }
  }
}

interface Source {
  readonly transferSyntaxUid: string
  readonly sopInstanceUid: string
  readonly sizeBytes: number
  readonly source: ReusingSource
  close(): Promise<void>
}

interface Opened {
  readonly parts: ZipFile['parts']
  /** Its memory may be used again. */
  release(): void
}

const deflateFast = promisify(deflateRaw)

const isDeflatedSyntax = (uid: string): boolean => transferSyntax(uid)?.deflated === true

/** On a thread of the pool, so that the next file is hashed while this one is sent. */
const sha256Of = async (bytes: Uint8Array): Promise<Buffer> =>
  Buffer.from(await webcrypto.subtle.digest('SHA-256', bytes))
