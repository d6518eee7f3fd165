/** A folder of this machine, or a share that is mounted here. */
import { constants } from 'node:fs'
import { lstat, mkdir, open, readdir, rename, rm, stat, statfs } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import type { Readable } from 'node:stream'
import { GatewayError } from '../gateway/errors.ts'
import { errnoOf } from '../gateway/store/io-error.ts'
import type { FileEntry, FileStore } from './file-store.ts'
import { abilitiesOf, pathBelow } from './paths.ts'
import type { FolderPlace } from './place.ts'

/** @throws GatewayError ENDPOINT_UNREACHABLE when the folder is not there, ENDPOINT_DENIED */
export async function openFolder({ root, can }: FolderPlace): Promise<FileStore> {
  const at = (path: string): string => join(root, pathBelow('', path))
  const isFolder = await guarded(async () => (await stat(root)).isDirectory())
  if (!isFolder) throw new GatewayError('ENDPOINT_UNREACHABLE', 'the endpoint is no folder')
  return {
    can: abilitiesOf({ resume: true, rename: true, list: true, remove: true }, can),
    stat: path => guarded(async () => await entryOf(at(path))),
    list: path =>
      guarded(async () => {
        const entries: FileEntry[] = []
        for (const name of await readdir(at(path))) {
          const entry = await entryOf(join(at(path), name))
          if (entry) entries.push(entry)
        }
        return entries
      }),
    makeFolder: path => guarded(async () => void (await mkdir(at(path), { recursive: true }))),
    put: (path, source, { offset, onSent }, signal) =>
      guarded(async () => {
        const file = await open(at(path), offset > 0 ? 'r+' : 'w', 0o640)
        try {
          let position = offset
          for await (const chunk of source) {
            signal.throwIfAborted()
            const bytes: Uint8Array = chunk
            for (let done = 0; done < bytes.length; )
              done += (await file.write(bytes, done, bytes.length - done, position + done)).bytesWritten
            position += bytes.length
            onSent(bytes.length)
          }
          await file.truncate(position)
          await file.sync()
        } finally {
          await file.close()
        }
      }),
    get: (path, offset) =>
      guarded(async (): Promise<Readable> => {
        const { O_RDONLY, O_NOFOLLOW, O_NONBLOCK } = constants
        const file = await open(at(path), O_RDONLY | O_NOFOLLOW | O_NONBLOCK)
        return file.createReadStream({ start: offset })
      }),
    rename: (from, to) =>
      guarded(async () => {
        await rename(at(from), at(to))
        // Its new name is durable with the folder that it is in.
        const folder = await open(dirname(at(to)), 'r')
        await folder.sync().finally(() => folder.close())
      }),
    remove: path => guarded(() => rm(at(path), { force: true })),
    freeBytes: () =>
      guarded(async () => {
        const { bavail, bsize } = await statfs(root)
        return bavail * bsize
      }),
    sha256: async () => undefined,
    close: async () => {},
  }
}

async function entryOf(path: string): Promise<FileEntry | undefined> {
  try {
    const found = await lstat(path)
    const kind = found.isFile() ? 'file' : found.isDirectory() ? 'folder' : 'other'
    return {
      name: path.slice(path.lastIndexOf('/') + 1),
      kind,
      size: kind === 'file' ? found.size : 0,
      modified: found.mtime,
    }
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return undefined
    throw error
  }
}

async function guarded<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work()
  } catch (error) {
    if (error instanceof GatewayError) throw error
    switch (errnoOf(error)) {
      case 'ENOENT':
      case 'ENOTDIR':
        throw new GatewayError('ENDPOINT_UNREACHABLE', 'the folder is not there: is the share mounted?', {
          cause: error,
        })
      case 'EACCES':
      case 'EPERM':
      case 'EROFS':
        throw new GatewayError('ENDPOINT_DENIED', 'the folder may not be written: check its permissions', {
          cause: error,
        })
      case 'ENOSPC':
      case 'EDQUOT':
        throw new GatewayError('ENDPOINT_FULL', 'the folder has no room', { cause: error })
      case undefined:
        throw error
      default:
        throw new GatewayError('ENDPOINT_PROTOCOL', `the folder failed: ${errnoOf(error)}`, { cause: error })
    }
  }
}
