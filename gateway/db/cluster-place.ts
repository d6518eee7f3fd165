/**
 * Where the private cluster lives: `<data>/pg`, or a system directory that `<data>/pg/location`
 * names when the user that runs PostgreSQL cannot enter the data directory; and its socket, in a
 * short run-time directory, because long socket paths fail with EINVAL.
 */
import { createHash, randomBytes } from 'node:crypto'
import { chmod, chown, lstat, mkdir, open, readFile, realpath, rename, stat, writeFile } from 'node:fs/promises'
import { dirname, join, resolve } from 'node:path'
import { GatewayError } from '../errors.ts'
import { canEnter, chooseRunAs, type RunAs } from './run-as.ts'

/** The directories of one private cluster. */
export interface ClusterPlace {
  /** Ours: holds `data`, the log, perhaps a copy of the programs. */
  readonly home: string
  /** PostgreSQL's data directory, owned by the user that runs it, without symbolic links in its path. */
  readonly data: string
  readonly logFile: string
  readonly runAs: RunAs | undefined
}

/** Where a cluster of `dataDir` is, or undefined when there is none yet. */
export async function findCluster(dataDir: string): Promise<string | undefined> {
  const base = join(dataDir, 'pg')
  const pointer = await readFile(join(base, 'location'), 'utf8').catch(() => undefined)
  if (pointer !== undefined) return pointer.trim()
  return (await isDirectory(join(base, 'data'))) ? base : undefined
}

/**
 * Finds or chooses the cluster's place and creates its directories.
 *
 * @param clusterDir  asked for by configuration; remembered in `<data>/pg/location`
 * @throws GatewayError CONFIG_INVALID when it was asked for elsewhere than it is, or the place is lost
 */
export async function placeCluster(dataDir: string, clusterDir: string | undefined): Promise<ClusterPlace> {
  const base = join(resolve(dataDir), 'pg')
  await mkdir(base, { recursive: true, mode: 0o711 })
  const known = await findCluster(resolve(dataDir))
  if (known && clusterDir && resolve(clusterDir) !== known) {
    throw new GatewayError('CONFIG_INVALID', `the database of this data directory is in ${known}, not in ${clusterDir}`)
  }
  if (known && known !== base && !(await isDirectory(known))) {
    throw new GatewayError('CONFIG_INVALID', `the database directory ${known}, named by ${base}/location, is missing`)
  }
  const runAs = await chooseRunAs(join(known ?? clusterDir ?? base, 'data'))
  const home = known ?? (clusterDir ? resolve(clusterDir) : await chooseHome(base, runAs))
  await mkdir(home, { recursive: true, mode: 0o711 })
  if (runAs && !(await canEnter(home, runAs))) {
    throw new GatewayError('CONFIG_INVALID', `user ${runAs.uid}, who runs PostgreSQL, cannot enter ${home}`)
  }
  if (home !== base && home !== known) await writeDurably(join(base, 'location'), `${home}\n`)
  const real = await realpath(home)
  return { home: real, data: join(real, 'data'), logFile: join(real, 'postgres.log'), runAs }
}

async function chooseHome(base: string, runAs: RunAs | undefined): Promise<string> {
  if (!runAs || (await canEnter(base, runAs))) return base
  await letGroupEnter(dirname(base), runAs)
  if (await canEnter(base, runAs)) return base
  // A random name, not one derived from the path: a new data directory at an old path must not find old rows.
  return join('/var/lib/hanse', randomBytes(8).toString('hex'))
}

/** Lets the cluster's group pass through our own closed data directory; never through its parents. */
async function letGroupEnter(dataDir: string, runAs: RunAs): Promise<void> {
  const { uid, mode } = await stat(dataDir)
  if (uid !== 0 || (mode & 0o070) !== 0) return
  await chown(dataDir, 0, runAs.gid)
  await chmod(dataDir, (mode & 0o7777) | 0o010)
}

/** Replaces a small file so that a crash leaves the old or the new one. */
export async function writeDurably(path: string, content: string): Promise<void> {
  const partial = `${path}.partial`
  await writeFile(partial, content, { flush: true })
  await rename(partial, path)
  await syncDir(dirname(path))
}

/** Makes renames within `dir` durable. */
export async function syncDir(dir: string): Promise<void> {
  const handle = await open(dir, 'r')
  try {
    await handle.sync()
  } finally {
    await handle.close()
  }
}

/** The last byte of `sun_path` is the terminator: 104 on macOS, 108 on Linux. */
const longestSocketPath = 103

/**
 * The directory of the cluster's socket, 0700 and owned by the user that runs PostgreSQL. One that
 * somebody else planted under the name is passed over.
 *
 * @throws GatewayError CONFIG_INVALID
 */
export async function openSocketDir(place: ClusterPlace, asked: string | undefined): Promise<string> {
  const name = `hanse-${createHash('sha256').update(place.home).digest('hex').slice(0, 12)}`
  const xdg = process.env['XDG_RUNTIME_DIR']
  const parents = place.runAs ? ['/run', '/tmp'] : xdg ? [xdg, '/tmp'] : ['/tmp']
  const candidates = asked
    ? [resolve(asked)]
    : parents.flatMap(parent => [join(parent, name), join(parent, `${name}-1`), join(parent, `${name}-2`)])
  for (const dir of candidates) {
    if (Buffer.byteLength(join(dir, '.s.PGSQL.5432')) <= longestSocketPath && (await claim(dir, place.runAs)))
      return dir
  }
  throw new GatewayError(
    'CONFIG_INVALID',
    `no directory for the database socket: ${candidates.join(', ')} cannot be made, belong to others, or are too long`,
  )
}

async function claim(dir: string, runAs: RunAs | undefined): Promise<boolean> {
  const self = process.getuid?.() ?? 0
  try {
    await mkdir(dir, { recursive: true, mode: 0o700 })
    const found = await lstat(dir)
    if (!found.isDirectory()) return false
    if (runAs && found.uid === self) await chown(dir, runAs.uid, runAs.gid)
    else if (found.uid !== (runAs?.uid ?? self)) return false
    if ((found.mode & 0o777) !== 0o700) await chmod(dir, 0o700)
    return await canEnter(dir, runAs)
  } catch {
    return false
  }
}

async function isDirectory(path: string): Promise<boolean> {
  return (await stat(path).catch(() => undefined))?.isDirectory() ?? false
}
