/**
 * The private PostgreSQL cluster: the gateway's own database server when no `database.url` is
 * configured. It is initialised, started, adopted after a crash of ours, restarted after a crash
 * of its own, and stopped with the gateway. It listens on a unix socket only.
 */
import { realpath, rmdir } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { GatewayError, isGatewayError } from '../errors.ts'
import type { Log } from '../log.ts'
import { clusterMajor, createCluster, type PostgresSettings, writeSettings } from './cluster-init.ts'
import { findCluster, openSocketDir, placeCluster } from './cluster-place.ts'
import { type DataLock, lockDataDir } from './data-lock.ts'
import { findPostgres } from './postgres-binaries.ts'
import { adminClient, ask, readPidFile, socketPort } from './postmaster.ts'
import { type ServerState, superviseServer } from './supervise.ts'

/** How to reach the gateway's database in the cluster, as `pg` and pg-boss take it. */
export interface ClusterConnection {
  readonly host: string
  readonly port: number
  readonly user: string
  readonly database: string
}

/** A running private cluster. */
export interface PrivateCluster {
  readonly connection: ClusterConnection
  /** Where the cluster lies; outside the data directory when PostgreSQL's user cannot enter that. */
  readonly home: string
  state(): ServerState
  /** Stops the server (fast shutdown: open transactions roll back) and frees the data directory. */
  close(): Promise<void>
}

const role = 'hanse'

/** What `openPrivateCluster` takes. */
export interface ClusterOptions {
  readonly dataDir: string
  readonly log: Log
  /** Keep the cluster there instead of in `<dataDir>/pg`; remembered in `<dataDir>/pg/location`. */
  readonly clusterDir?: string
  /** Directory of the socket, short; chosen when absent. */
  readonly socketDir?: string
  /** Additional postgresql.conf settings. */
  readonly settings?: PostgresSettings
}

/**
 * Opens the cluster of `dataDir` for the one gateway that may have it, making it first where there
 * is none.
 *
 * @throws GatewayError STATE_CONFLICT (another gateway holds the directory), DATABASE_MAJOR,
 *   CONFIG_INVALID, DATABASE_UNAVAILABLE
 */
export async function openPrivateCluster(options: ClusterOptions): Promise<PrivateCluster> {
  const lock = lockDataDir(options.dataDir)
  try {
    return await open(options, lock)
  } catch (error) {
    lock.release()
    throw unavailable(error)
  }
}

/**
 * Opens the cluster beside a running gateway (for the command line), or as `openPrivateCluster`
 * does when none runs. Closing leaves a running gateway's server alone.
 *
 * @throws GatewayError as `openPrivateCluster`
 */
export async function joinPrivateCluster(options: ClusterOptions): Promise<PrivateCluster> {
  const deadline = Date.now() + joinPatienceMs
  for (;;) {
    try {
      return await openPrivateCluster(options)
    } catch (error) {
      if (!isGatewayError(error, 'STATE_CONFLICT')) throw error
      const running = await findRunning(options.dataDir)
      if (running) return running
      if (Date.now() > deadline) throw error
      await delay(100)
    }
  }
}

/** How long a gateway that has just taken the directory may need to start its database. */
const joinPatienceMs = 30_000

async function findRunning(dataDir: string): Promise<PrivateCluster | undefined> {
  const found = await findCluster(resolve(dataDir))
  const home = found && (await realpath(found).catch(() => undefined))
  const known = home && (await readPidFile(join(home, 'data')))
  if (!known || (await ask(known.socketDir, join(home, 'data'))) !== 'ready') return undefined
  return {
    connection: connectionTo(known.socketDir),
    home,
    state: () => ({ phase: 'running', pid: known.pid, adopted: true, restarts: 0 }),
    close: async () => undefined,
  }
}

async function open(options: ClusterOptions, lock: DataLock): Promise<PrivateCluster> {
  const { log } = options
  const place = await placeCluster(options.dataDir, options.clusterDir)
  const major = await clusterMajor(place)
  const binaries = await findPostgres({ major, runAs: place.runAs, copyDir: place.home, env: process.env })
  if (major === undefined) {
    log.info({ version: binaries.version }, 'making the database')
    await createCluster(place, binaries, { flush: options.settings?.['fsync'] !== 'off' })
  }
  await writeSettings(place, binaries, options.settings ?? {})
  const socketDir = await openSocketDir(place, options.socketDir)
  const cleanUp = async (dir: string): Promise<void> => {
    await rmdir(dir).catch(() => undefined) // not empty: not ours alone
  }
  const server = await superviseServer({ place, binaries, log, socketDir }).catch(async error => {
    await cleanUp(socketDir)
    throw error
  })
  if (server.socketDir !== socketDir) await cleanUp(socketDir) // an adopted server has its own
  const close = async (): Promise<void> => {
    await server.close()
    await cleanUp(server.socketDir)
  }
  try {
    await ensureDatabase(server.socketDir)
  } catch (error) {
    await close()
    throw error
  }
  return {
    connection: connectionTo(server.socketDir),
    home: place.home,
    state: () => server.state(),
    close: async () => {
      await close()
      lock.release()
    },
  }
}

function connectionTo(socketDir: string): ClusterConnection {
  return { host: socketDir, port: socketPort, user: role, database: role }
}

/** The gateway's own role is no superuser: the audit tables' revokes bind it. */
async function ensureDatabase(socketDir: string): Promise<void> {
  const client = adminClient(socketDir)
  await client.connect()
  try {
    const roles = await client.query('select 1 from pg_roles where rolname = $1', [role])
    if (roles.rows.length === 0) await client.query(`create role ${role} login`)
    const databases = await client.query('select 1 from pg_database where datname = $1', [role])
    if (databases.rows.length === 0) await client.query(`create database ${role} owner ${role}`)
  } finally {
    await client.end()
  }
}

function unavailable(error: unknown): GatewayError {
  if (error instanceof GatewayError) return error
  const reason = error instanceof Error ? error.message : String(error)
  return new GatewayError('DATABASE_UNAVAILABLE', `cannot open the database: ${reason}`, { cause: error })
}
