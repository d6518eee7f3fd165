/**
 * The private PostgreSQL cluster: the gateway's own database server when no `database.url` is
 * configured. It is initialised, started, adopted after a crash of ours, restarted after a crash
 * of its own, and stopped with the gateway. It listens on a unix socket only.
 */
import type { Log } from '../log.ts'
import { clusterMajor, createCluster, type PostgresSettings, writeSettings } from './cluster-init.ts'
import { openSocketDir, placeCluster } from './cluster-place.ts'
import { type DataLock, lockDataDir } from './data-lock.ts'
import { findPostgres } from './postgres-binaries.ts'
import { adminClient, socketPort } from './postmaster.ts'
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
  readonly version: string
  state(): ServerState
  /** Stops the server (fast shutdown: open transactions roll back) and frees the data directory. */
  close(): Promise<void>
}

const role = 'hanse'

/**
 * Opens the cluster of `dataDir`, making it first where there is none.
 *
 * @param clusterDir  keep the cluster there instead of in `<dataDir>/pg`; remembered
 * @param socketDir  directory of the socket, short; chosen when absent
 * @param settings  additional postgresql.conf settings
 * @throws GatewayError STATE_CONFLICT (another gateway holds the directory), DATABASE_MAJOR,
 *   CONFIG_INVALID, DATABASE_UNAVAILABLE
 */
export async function openPrivateCluster(options: {
  dataDir: string
  log: Log
  clusterDir?: string
  socketDir?: string
  settings?: PostgresSettings
}): Promise<PrivateCluster> {
  const lock = lockDataDir(options.dataDir)
  try {
    return await open(options, lock)
  } catch (error) {
    lock.release()
    throw error
  }
}

async function open(options: Parameters<typeof openPrivateCluster>[0], lock: DataLock): Promise<PrivateCluster> {
  const { log } = options
  const place = await placeCluster(options.dataDir, options.clusterDir)
  const major = await clusterMajor(place)
  const binaries = await findPostgres({ major, runAs: place.runAs, copyDir: place.home, env: process.env })
  if (major === undefined) {
    log.info({ version: binaries.version }, 'making the database')
    await createCluster(place, binaries, { flush: options.settings?.['fsync'] !== 'off' })
  }
  await writeSettings(place, binaries, options.settings ?? {})
  const server = await superviseServer({
    place,
    binaries,
    log,
    socketDir: await openSocketDir(place, options.socketDir),
  })
  try {
    await ensureDatabase(server.socketDir)
  } catch (error) {
    await server.close()
    throw error
  }
  return {
    connection: { host: server.socketDir, port: socketPort, user: role, database: role },
    home: place.home,
    version: binaries.version,
    state: () => server.state(),
    close: async () => {
      await server.close()
      lock.release()
    },
  }
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
