/** Makes the private cluster's data directory and its settings. */
import { execFile } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { chmod, chown, mkdir, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { GatewayError } from '../errors.ts'
import { type ClusterPlace, syncDir, writeDurably } from './cluster-place.ts'
import type { PostgresBinaries } from './postgres-binaries.ts'
import { type RunAs, spawnIdentity } from './run-as.ts'

const run = promisify(execFile)

/** Settings by name, as in postgresql.conf, unquoted. */
export type PostgresSettings = Readonly<Record<string, string>>

/** The PostgreSQL major that made the cluster; undefined when there is none. */
export async function clusterMajor(place: ClusterPlace): Promise<number | undefined> {
  const version = await readFile(join(place.data, 'PG_VERSION'), 'utf8').catch(() => undefined)
  return version === undefined ? undefined : Number.parseInt(version, 10)
}

/**
 * Runs initdb beside the final name and renames, so that an interrupted one leaves nothing to adopt.
 * `flush: false` leaves syncing out, for clusters that need not survive (tests).
 */
export async function createCluster(
  place: ClusterPlace,
  binaries: PostgresBinaries,
  options: { flush: boolean },
): Promise<void> {
  await sweepPartial(place.home)
  // A name of its own: the initdb of a gateway that was killed lives on, and would write into ours, or empty it.
  const partial = join(place.home, `${partialPrefix}.${randomBytes(4).toString('hex')}`)
  const common = [
    '-D',
    partial,
    '-U',
    'postgres',
    '-E',
    'UTF8',
    '--data-checksums',
    '--auth-local=trust',
    '--auth-host=reject',
  ]
  if (!options.flush) common.push('--no-sync')
  // From 17 on PostgreSQL brings its own C.UTF-8, which no C library update can change under an index.
  const locales =
    binaries.major >= 17
      ? [['--no-locale', '--locale-provider=builtin', '--builtin-locale=C.UTF-8']]
      : [['--locale=C.UTF-8'], ['--no-locale']]
  let failure: unknown
  for (const locale of locales) {
    await rm(partial, { recursive: true, force: true })
    await mkdir(partial, { mode: 0o700 })
    if (place.runAs) await chown(partial, place.runAs.uid, place.runAs.gid)
    try {
      await run(join(binaries.binDir, 'initdb'), [...common, ...locale], {
        ...spawnIdentity(place.runAs),
        cwd: '/',
        env: postgresEnvironment(),
      })
      await writeFile(join(partial, 'postgresql.conf'), `include 'hanse.conf'\n`, { flush: true })
      await rename(partial, place.data)
      await syncDir(place.home)
      const record = { major: binaries.major, version: binaries.version, createdAt: new Date().toISOString() }
      await writeDurably(join(place.home, 'cluster.json'), `${JSON.stringify(record)}\n`)
      await sweepPartial(place.home)
      return
    } catch (cause) {
      failure = cause
    }
  }
  throw new GatewayError('DATABASE_UNAVAILABLE', `cannot initialise the database: ${lastLine(failure)}`, {
    cause: failure,
  })
}

const partialPrefix = 'data.partial'

/** Removes what an interrupted initdb left; one that still writes there fails without its files, and ends. */
async function sweepPartial(home: string): Promise<void> {
  for (const name of await readdir(home)) {
    if (!name.startsWith(partialPrefix)) continue
    const patience = { maxRetries: 5, retryDelay: 50 } // ENOTEMPTY: a file came while its directory was removed
    await rm(join(home, name), { recursive: true, force: true, ...patience }).catch(() => undefined)
  }
}

/** Writes `hanse.conf`, which postgresql.conf includes, where it differs; `ALTER SYSTEM` still overrides it. */
export async function writeSettings(
  place: ClusterPlace,
  binaries: PostgresBinaries,
  extra: PostgresSettings,
): Promise<void> {
  const all: PostgresSettings = { ...settings(binaries.major), ...extra }
  const lines = Object.entries(all).map(([name, value]) => `${name} = '${value.replaceAll("'", "''")}'`)
  const path = join(place.data, 'hanse.conf')
  const header = '# Written by the gateway at its start. Own settings: alter system (postgresql.auto.conf).'
  const content = `${header}\n${lines.join('\n')}\n`
  if ((await readFile(path, 'utf8').catch(() => undefined)) === content) return // a full disk need not keep us from starting
  await writeDurably(path, content)
  await giveTo(path, place.runAs)
}

function settings(major: number): PostgresSettings {
  return {
    fsync: 'on',
    synchronous_commit: 'on',
    full_page_writes: 'on',
    max_connections: '60',
    shared_buffers: '96MB',
    work_mem: '8MB',
    maintenance_work_mem: '64MB',
    effective_cache_size: '512MB',
    max_wal_size: '1GB',
    min_wal_size: '80MB',
    wal_compression: 'on',
    checkpoint_timeout: '15min',
    random_page_cost: '1.1',
    jit: 'off',
    autovacuum_max_workers: '2',
    // Parallel queries need /dev/shm, which containers keep at 64 MB.
    max_parallel_workers_per_gather: '0',
    timezone: 'UTC',
    log_timezone: 'UTC',
    datestyle: 'ISO, YMD',
    lc_messages: 'C',
    default_text_search_config: 'pg_catalog.simple',
    // Error messages and statements carry patient data: only what concerns the server is logged.
    log_min_messages: 'log',
    log_min_error_statement: 'panic',
    log_error_verbosity: 'terse',
    log_parameter_max_length_on_error: '0',
    log_checkpoints: 'off',
    log_line_prefix: '%m [%p] ',
    // A backend whose gateway was killed gives up its locks although its statement still runs.
    ...(process.platform === 'linux' ? { client_connection_check_interval: '5s' } : {}),
    // No I/O worker processes: our reads are single rows from a warm cache.
    ...(major >= 18 ? { io_method: 'sync' } : {}),
  }
}

/** The environment of PostgreSQL's programs: none of the caller's PG* variables or locale. */
export function postgresEnvironment(): NodeJS.ProcessEnv {
  return { PATH: process.env['PATH'] ?? '/usr/bin:/bin', LC_ALL: 'C', TZ: 'UTC' }
}

async function giveTo(path: string, runAs: RunAs | undefined): Promise<void> {
  await chmod(path, 0o600)
  if (runAs) await chown(path, runAs.uid, runAs.gid)
}

function lastLine(error: unknown): string {
  const stderr = error instanceof Error && 'stderr' in error ? String(error.stderr) : ''
  const text = stderr.trim() || (error instanceof Error ? error.message : String(error))
  return text.split('\n').at(-1) ?? text
}
