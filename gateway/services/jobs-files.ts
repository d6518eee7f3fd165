/** The files that jobs make, in `<data>/jobs/<job>/<key>`: written by the job, read by its key, swept with its row. */
import { mkdir, open, readdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { GatewayError } from '../errors.ts'
import { type OpenBlob, openBlob } from '../store/blob-reader.ts'
import { storageError } from '../store/io-error.ts'

/** The directory of all jobs' files. */
export class JobFiles {
  readonly #root: string

  /** @param dataDir  the data directory of the gateway */
  constructor(dataDir: string) {
    this.#root = join(dataDir, 'jobs')
  }

  /**
   * Where a job writes an output; its directory is there then.
   *
   * @param key  `[a-z0-9-]`, as in the URL
   * @throws GatewayError STORAGE_IO, STORAGE_FULL
   */
  async place(job: string, key: string): Promise<string> {
    try {
      await mkdir(join(this.#root, job), { recursive: true, mode: 0o700 })
    } catch (error) {
      throw storageError(error, 'making the directory of a job')
    }
    return this.#path(job, key)
  }

  /** Makes outputs durable, before a row names them. @throws GatewayError STORAGE_IO when one is missing */
  async sync(job: string, keys: readonly string[]): Promise<void> {
    try {
      for (const path of [
        ...keys.map(key => this.#path(job, key)),
        ...(keys.length > 0 ? [join(this.#root, job)] : []),
      ]) {
        const handle = await open(path, 'r')
        await handle.sync().finally(() => handle.close())
      }
    } catch (error) {
      throw storageError(error, 'making an output durable')
    }
  }

  /** Opens an output, which the caller closes. @throws GatewayError NOT_FOUND */
  async open(job: string, key: string): Promise<OpenBlob> {
    try {
      return await openBlob(this.#path(job, key))
    } catch (error) {
      throw new GatewayError('NOT_FOUND', 'the job has no such output', { cause: error })
    }
  }

  /** Removes one output, or everything of a job. */
  async remove(job: string, key?: string): Promise<void> {
    await rm(key === undefined ? join(this.#root, job) : this.#path(job, key), { recursive: true, force: true })
  }

  /** Removes what is of none of the jobs that `isWanted` says are there. */
  async sweep(isWanted: (job: string) => boolean): Promise<void> {
    const found = await readdir(this.#root).catch(() => [])
    for (const job of found) if (!isWanted(job)) await this.remove(job)
  }

  #path(job: string, key: string): string {
    if (!/^[a-z0-9-]{1,64}$/.test(key) || !/^[0-9a-f-]{36}$/.test(job)) {
      throw new GatewayError('NOT_FOUND', 'the job has no such output')
    }
    return join(this.#root, job, key)
  }
}
