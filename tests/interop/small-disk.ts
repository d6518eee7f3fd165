/** Small real file systems: memory ones in a mount namespace of a test process of their own. */
import { execFile } from 'node:child_process'
import { open, rm, statfs } from 'node:fs/promises'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { promisify } from 'node:util'
import { temporaryDir } from '../support/blobs.ts'

const run = promisify(execFile)
const MiB = 1024 ** 2

/** Names the directories of the disks to the process that runs with them. */
const variable = 'HANSE_SMALL_DISKS'

/** The disks of this process, in the order in which `runWithDisks` made them; none outside of it. */
export function smallDisks(): readonly SmallDisk[] {
  const dirs = process.env[variable]
  return dirs === undefined ? [] : dirs.split(':').map(dir => new SmallDisk(dir))
}

/**
 * Runs a test file once more where each of `count` directories is a file system of `sizeMiB`. They vanish with the
 * last process that sees them, whatever happens. As an ordinary user this takes a user namespace too.
 *
 * @throws Error with the output when a test fails
 */
export async function runWithDisks(
  t: TestContext,
  file: string,
  disks: { readonly count: number; readonly sizeMiB: number },
): Promise<void> {
  const dirs = await Promise.all(Array.from({ length: disks.count }, () => temporaryDir(t)))
  const [uid, gid] = [process.getuid?.() ?? 0, process.getgid?.() ?? 0]
  const asRoot = uid === 0 ? [] : ['--user', '--map-root-user']
  const asBefore = uid === 0 ? '' : `unshare --user --map-user=${uid} --map-group=${gid} `
  // Under root PostgreSQL runs as another user, who has to pass through.
  const mounts = dirs.map(dir => `mount -t tmpfs -o mode=755,size=${disks.sizeMiB}m tmpfs '${dir}'`)
  const command = `${mounts.join(' && ')} && exec ${asBefore}"$@"`
  const node = [process.execPath, '--test', '--test-reporter=spec', file]
  const env = { ...process.env, [variable]: dirs.join(':'), NODE_TEST_CONTEXT: undefined }
  try {
    const options = { env, maxBuffer: 100 * MiB, signal: t.signal }
    const { stdout } = await run('unshare', [...asRoot, '--mount', 'sh', '-c', command, 'sh', ...node], options)
    for (const line of stdout.split('\n')) if (/✔|^ +ℹ/.test(line)) t.diagnostic(line)
  } catch (error) {
    const { stdout = '', stderr = '' } = Object(error)
    throw new Error(`${stdout}\n${stderr}`.slice(-10_000))
  }
}

/** Why small disks cannot be made here, or false; in CI never. */
export async function missingNamespaces(): Promise<string | false> {
  const asRoot = process.getuid?.() === 0 ? [] : ['--user', '--map-root-user']
  try {
    await run('unshare', [...asRoot, '--mount', 'true'])
    return false
  } catch {
    return process.env['CI'] ? false : 'this machine gives no mount namespaces (unshare)'
  }
}

/** A file system that can be filled. */
export class SmallDisk {
  readonly dir: string
  readonly #filler: string

  constructor(dir: string) {
    this.dir = dir
    this.#filler = join(dir, 'somebody-else')
  }

  async freeBytes(): Promise<number> {
    const { bavail, bsize } = await statfs(this.dir)
    return bavail * bsize
  }

  /** Somebody else's data grows until so much is free; 0 is really the last byte. */
  async fillTo(freeBytes: number): Promise<void> {
    await using file = await open(this.#filler, 'a')
    const block = Buffer.alloc(MiB, 1)
    for (let free = await this.freeBytes(); free > freeBytes; free = await this.freeBytes()) {
      try {
        await file.write(block, 0, Math.min(block.length, free - freeBytes))
      } catch (error) {
        if (Object(error).code !== 'ENOSPC' || freeBytes > 0) throw error
      }
    }
  }

  /** Somebody else's data goes away. */
  async free(): Promise<void> {
    await rm(this.#filler, { force: true })
  }
}
