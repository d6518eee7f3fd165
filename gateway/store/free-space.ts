/**
 * The free-space watermark: receptions are refused while there is still room for the database and
 * for what is already on its way, and accepted again only when clearly more is free.
 */
import { statfs } from 'node:fs/promises'
import { GatewayError } from '../errors.ts'
import { storageError } from './io-error.ts'

/** Bytes on the volume of a directory, as available to this process. */
export interface VolumeSpace {
  readonly freeBytes: number
  readonly totalBytes: number
}

/** Settings of the watermark; sizes in bytes. */
export interface FreeSpaceOptions {
  /** Refuse below this (default: 5 % of the volume, at most 2 GiB, which holds PostgreSQL's WAL). */
  readonly lowWatermarkBytes?: number
  /** Once refusing, accept again from this on (default: a quarter above the watermark). */
  readonly resumeBytes?: number
  /** Other directories whose volumes count, such as the database's. */
  readonly alsoWatch?: readonly string[]
  /** How the volume is asked; tests give a full one. */
  readonly measure?: (dir: string) => Promise<VolumeSpace>
}

/** How much is free, and whether receptions are refused. */
export interface FreeSpaceState {
  readonly freeBytes: number
  readonly lowWatermarkBytes: number
  readonly resumeBytes: number
  readonly refusing: boolean
}

/** An answer older than this is asked for again, ms. */
const freshMs = 250

/** The watermark over the volumes of some directories. */
export class FreeSpace {
  readonly #dirs: readonly string[]
  readonly #options: FreeSpaceOptions
  readonly #measure: (dir: string) => Promise<VolumeSpace>
  #measured: Promise<VolumeSpace> | undefined
  #measuredAt = 0
  #writtenSince = 0
  #reserved = 0
  #refusing = false

  constructor(dirs: readonly string[], options: FreeSpaceOptions) {
    this.#dirs = [...dirs, ...(options.alsoWatch ?? [])]
    this.#options = options
    this.#measure = options.measure ?? measureVolume
  }

  /**
   * Refuses a reception of about `bytesExpected` more bytes where it would cross the watermark.
   *
   * @throws GatewayError STORAGE_FULL, STORAGE_IO
   */
  async assertRoom(bytesExpected: number): Promise<void> {
    const { freeBytes, lowWatermarkBytes, refusing } = await this.state()
    if (refusing || freeBytes - bytesExpected < lowWatermarkBytes) {
      throw new GatewayError('STORAGE_FULL', 'free space is below the watermark', {
        context: { freeBytes, lowWatermarkBytes, bytesExpected },
      })
    }
  }

  /** The same, and sets the bytes aside until `unreserve`. */
  async reserve(bytesExpected: number): Promise<void> {
    await this.assertRoom(bytesExpected)
    this.#reserved += bytesExpected
  }

  /** Gives back bytes that were reserved: they were written, or will not be. */
  unreserve(bytes: number): void {
    this.#reserved -= bytes
  }

  /** The state now; `freeBytes` is less what receptions on their way will still take. */
  async state(): Promise<FreeSpaceState> {
    const { freeBytes: measured, totalBytes } = await this.#current()
    const freeNow = Math.max(0, measured - this.#writtenSince)
    const lowWatermarkBytes = this.#options.lowWatermarkBytes ?? Math.min(2 * 1024 ** 3, Math.floor(totalBytes / 20))
    const resumeBytes = this.#options.resumeBytes ?? Math.floor(lowWatermarkBytes * 1.25)
    // What is only announced refuses others, but it must not start the long refusal.
    this.#refusing = freeNow < (this.#refusing ? resumeBytes : lowWatermarkBytes)
    const freeBytes = Math.max(0, freeNow - this.#reserved)
    return { freeBytes, lowWatermarkBytes, resumeBytes, refusing: this.#refusing }
  }

  /** Counts bytes written since the volume was asked. */
  wrote(bytes: number): void {
    this.#writtenSince += bytes
  }

  #current(): Promise<VolumeSpace> {
    const now = performance.now()
    if (!this.#measured || now - this.#measuredAt > freshMs) {
      this.#measuredAt = now
      this.#writtenSince = 0
      this.#measured = this.#smallest()
      this.#measured.catch(() => {
        this.#measured = undefined
      })
    }
    return this.#measured
  }

  async #smallest(): Promise<VolumeSpace> {
    try {
      const volumes = await Promise.all(this.#dirs.map(dir => this.#measure(dir)))
      return volumes.reduce((least, volume) => (volume.freeBytes < least.freeBytes ? volume : least))
    } catch (error) {
      throw storageError(error, 'measuring free space')
    }
  }
}

async function measureVolume(dir: string): Promise<VolumeSpace> {
  const { bavail, blocks, bsize } = await statfs(dir)
  return { freeBytes: bavail * bsize, totalBytes: blocks * bsize }
}
