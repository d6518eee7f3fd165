/**
 * Room for bytes that are written once, read a few times and then forgotten: in memory while they are few, else in a
 * file of `<data>/spool` that has no name any more, so that it vanishes with its handle, however the process ends.
 */
import { randomBytes } from 'node:crypto'
import { type FileHandle, mkdir, open, readdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { type ByteSource, fileSource } from '../dicom/byte-source.ts'
import { storageError } from '../store/io-error.ts'

/** Settings of a spool. */
export interface SpoolOptions {
  readonly dir: string
  /** Called before the disk takes about so many bytes more; refuses by STORAGE_FULL. */
  readonly assertRoom?: (bytesExpected: number) => Promise<void>
  /** More goes to a file; default 4 MiB. */
  readonly memoryBytes?: number
}

/** Makes spooled files. */
export interface Spool {
  create(): SpoolFile
}

/** Bytes being written, then read. It must be closed. One writer: calls must not overlap. */
export interface SpoolFile {
  readonly sizeBytes: number
  /** @throws GatewayError STORAGE_FULL, STORAGE_IO; the file is closed then */
  append(bytes: Uint8Array): Promise<void>
  /** Overwrites bytes that were appended. @throws GatewayError STORAGE_IO; the file is closed then */
  patch(offset: number, bytes: Uint8Array): Promise<void>
  /** Ends the writing. @throws GatewayError STORAGE_FULL, STORAGE_IO; the file is closed then */
  finish(): Promise<void>
  /** The bytes that were written, after `finish`; readable until `close`. */
  source(): ByteSource
  close(): Promise<void>
}

/** Space is asked for again after so many bytes. */
const roomCheckBytes = 16 * 1024 * 1024
const gatherBytes = 1024 * 1024

/** Opens the spool and removes what a killed process left in its directory. */
export async function openSpool(options: SpoolOptions): Promise<Spool> {
  const { dir } = options
  try {
    await mkdir(dir, { recursive: true, mode: 0o700 })
    for (const name of await readdir(dir)) await rm(join(dir, name), { recursive: true, force: true })
  } catch (error) {
    throw storageError(error, 'opening the spool')
  }
  return { create: () => new GrowingFile(options) }
}

class GrowingFile implements SpoolFile {
  readonly #options: SpoolOptions
  /** Not yet in the file. */
  #held: Uint8Array[] = []
  #heldBytes = 0
  #file: FileHandle | undefined
  #fileBytes = 0
  #nextRoomCheck = 0
  #isClosed = false

  constructor(options: SpoolOptions) {
    this.#options = options
  }

  get sizeBytes(): number {
    return this.#fileBytes + this.#heldBytes
  }

  async append(bytes: Uint8Array): Promise<void> {
    this.#held.push(bytes)
    this.#heldBytes += bytes.length
    const { memoryBytes = 4 * 1024 * 1024 } = this.#options
    if (this.#file === undefined ? this.#heldBytes > memoryBytes : this.#heldBytes >= gatherBytes) await this.#flush()
  }

  async patch(offset: number, bytes: Uint8Array): Promise<void> {
    if (this.#file === undefined) {
      const all = Buffer.concat(this.#held)
      all.set(bytes, offset)
      this.#held = [all]
      return
    }
    await this.#flush()
    await this.#io(async file => {
      await file.write(bytes, 0, bytes.length, offset)
    })
  }

  source(): ByteSource {
    if (this.#file === undefined) {
      const all = this.#joined()
      this.#held = [all]
      return { sizeBytes: all.length, read: async (offset, length) => all.subarray(offset, offset + length) }
    }
    return fileSource(this.#file, this.#fileBytes)
  }

  async finish(): Promise<void> {
    if (this.#file !== undefined) await this.#flush()
  }

  async close(): Promise<void> {
    if (this.#isClosed) return
    this.#isClosed = true
    this.#held = []
    this.#heldBytes = 0
    await this.#file?.close()
  }

  async #flush(): Promise<void> {
    if (this.#heldBytes === 0) return
    await this.#checkRoom()
    await this.#io(async file => {
      const all = this.#joined()
      for (let done = 0; done < all.length; ) {
        done += (await file.write(all, done, all.length - done, this.#fileBytes + done)).bytesWritten
      }
      this.#fileBytes += all.length
      this.#held = []
      this.#heldBytes = 0
    })
  }

  async #checkRoom(): Promise<void> {
    if (this.#fileBytes < this.#nextRoomCheck) return
    this.#nextRoomCheck = this.#fileBytes + roomCheckBytes
    try {
      await this.#options.assertRoom?.(roomCheckBytes)
    } catch (error) {
      await this.close()
      throw error
    }
  }

  async #io(work: (file: FileHandle) => Promise<void>): Promise<void> {
    try {
      this.#file ??= await this.#open()
      await work(this.#file)
    } catch (error) {
      await this.close()
      throw storageError(error, 'writing to the spool')
    }
  }

  async #open(): Promise<FileHandle> {
    const path = join(this.#options.dir, randomBytes(12).toString('hex'))
    const file = await open(path, 'wx+', 0o600)
    await rm(path, { force: true })
    return file
  }

  #joined(): Buffer {
    const [first] = this.#held
    return this.#held.length === 1 && first instanceof Buffer ? first : Buffer.concat(this.#held)
  }
}
