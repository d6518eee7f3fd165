/**
 * The finished files of one delivery on our disk. Each is written once, hashed on the way and synced; a note beside it,
 * written last, says what it is. After a crash what has a note is used again, if its bytes are still what the note says.
 */
import { createHash } from 'node:crypto'
import { mkdir, open, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { decode, integer, object, text } from '../../gateway/decode.ts'
import { DirSync } from '../../gateway/store/dir-sync.ts'
import { errnoOf, storageError } from '../../gateway/store/io-error.ts'
import { sha256Hex } from '../../peers/envelope.ts'
import { sha256 } from '../../peers/fields.ts'
import type { PackageFile } from '../package.ts'
import { readFrom } from './object-file.ts'

/** What a file is to be. */
export interface WantedFile extends Pick<PackageFile, 'name' | 'role'> {
  /** Digest of everything that its content is made of: another one, another file. */
  readonly key: string
}

interface Note {
  readonly key: string
  readonly size: number
  readonly sha256: string
}

const note = object({ key: text({ max: 64 }), size: integer({ min: 0 }), sha256 })

/** Files of one delivery; nobody else works in the folder. */
export class WorkFolder {
  readonly #dir: string
  readonly #used = new Set<string>()

  private constructor(dir: string) {
    this.#dir = dir
  }

  /** @throws GatewayError STORAGE_IO, STORAGE_FULL */
  static async open(dir: string): Promise<WorkFolder> {
    await mkdir(dir, { recursive: true, mode: 0o700 }).catch((error: unknown) => {
      throw storageError(error, 'making the folder of a package')
    })
    return new WorkFolder(dir)
  }

  /**
   * A file that is there already, or is written now.
   *
   * @param content  its bytes; each chunk may be overwritten once the next one is asked for
   * @throws GatewayError STORAGE_IO, STORAGE_FULL; what `content` throws; the reason of `signal`
   */
  async file(wanted: WantedFile, content: () => AsyncIterable<Uint8Array>, signal: AbortSignal): Promise<PackageFile> {
    const stem = join(this.#dir, sha256Hex(Buffer.from(wanted.name)).slice(0, 32))
    const [path, notePath] = [`${stem}.bin`, `${stem}.json`]
    this.#used.add(path).add(notePath)
    let made = await readNote(notePath)
    if (made?.key !== wanted.key || !(await isWhole(path, made, signal))) {
      made = { key: wanted.key, ...(await this.#write(path, content, signal)) }
      await writeFile(`${notePath}.part`, JSON.stringify(made), { mode: 0o600 })
      await rename(`${notePath}.part`, notePath)
    }
    const { name, role } = wanted
    return { name, role, size: made.size, sha256: made.sha256, open: start => readFrom(path, start) }
  }

  /**
   * Removes what was not asked for, files of a delivery that has changed since, and makes the names durable. A note that a
   * power cut takes before costs its file once more, nothing else.
   *
   * @throws GatewayError STORAGE_IO
   */
  async finish(): Promise<void> {
    try {
      for (const name of await readdir(this.#dir)) {
        const path = join(this.#dir, name)
        if (!this.#used.has(path)) await rm(path, { recursive: true, force: true })
      }
      await new DirSync().sync(this.#dir)
    } catch (error) {
      throw storageError(error, 'finishing a package')
    }
  }

  async #write(
    path: string,
    content: () => AsyncIterable<Uint8Array>,
    signal: AbortSignal,
  ): Promise<Omit<Note, 'key'>> {
    const hash = createHash('sha256')
    let size = 0
    try {
      const file = await open(path, 'w', 0o600)
      try {
        for await (const chunk of content()) {
          signal.throwIfAborted()
          hash.update(chunk)
          for (let at = 0; at < chunk.length; ) at += (await file.write(chunk, at)).bytesWritten
          size += chunk.length
        }
        await file.sync()
      } finally {
        await file.close()
      }
    } catch (error) {
      signal.throwIfAborted()
      throw errnoOf(error) === undefined ? error : storageError(error, 'writing a package')
    }
    return { size, sha256: hash.digest('hex') }
  }
}

/** Undefined where there is none, or none that can be read: the file is then made anew. */
async function readNote(path: string): Promise<Note | undefined> {
  try {
    const found = decode(note, JSON.parse(await readFile(path, 'utf8')))
    return found.ok ? found.value : undefined
  } catch {
    return undefined
  }
}

async function isWhole(path: string, { size, sha256: expected }: Note, signal: AbortSignal): Promise<boolean> {
  const hash = createHash('sha256')
  let seen = 0
  try {
    for await (const chunk of readFrom(path, 0)) {
      signal.throwIfAborted()
      if (!(chunk instanceof Uint8Array)) return false
      hash.update(chunk)
      seen += chunk.length
    }
  } catch {
    signal.throwIfAborted()
    return false
  }
  return seen === size && hash.digest('hex') === expected
}
