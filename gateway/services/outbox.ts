/**
 * What is ready to be sent in the place of stored instances: `<data>/outbox/<transfer id>/<place of the object>`. Names
 * say nothing; everything here can be made again.
 */
import { mkdir, readdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { DirSync } from '../store/dir-sync.ts'
import { errnoOf, storageError } from '../store/io-error.ts'

export interface Outbox {
  /** Where an object's bytes are. */
  path(transfer: string, ordinal: number): string
  /** Where packages of the transfer are made; goes with its objects. */
  workFolder(transfer: string): string
  /** Makes the transfer's directory. @throws GatewayError STORAGE_FULL, STORAGE_IO */
  create(transfer: string): Promise<void>
  /** Makes the names in it durable. @throws GatewayError STORAGE_IO */
  sync(transfer: string): Promise<void>
  /** Removes the transfer's objects; harmless when there are none. */
  remove(transfer: string): Promise<void>
  /** Transfers that have a directory. */
  list(): Promise<readonly string[]>
}

/** Opens the outbox of a data directory. */
export function openOutbox(dataDir: string): Outbox {
  const root = join(dataDir, 'outbox')
  const dirs = new DirSync()
  const guarded = async <T>(doing: string, work: () => Promise<T>): Promise<T> => {
    try {
      return await work()
    } catch (error) {
      throw storageError(error, doing)
    }
  }
  return {
    path: (transfer, ordinal) => join(root, transfer, String(ordinal)),
    workFolder: transfer => join(root, transfer, 'package'),
    create: transfer =>
      guarded('making room in the outbox', async () => {
        await mkdir(join(root, transfer), { recursive: true, mode: 0o700 })
        await dirs.sync(root)
      }),
    sync: transfer => guarded('writing to the outbox', () => dirs.sync(join(root, transfer))),
    remove: transfer =>
      guarded('emptying the outbox', () => rm(join(root, transfer), { recursive: true, force: true })),
    list: () =>
      guarded('reading the outbox', async () => {
        try {
          return await readdir(root)
        } catch (error) {
          if (errnoOf(error) === 'ENOENT') return []
          throw error
        }
      }),
  }
}
