/**
 * One PostgreSQL server process: is it alive, does it answer, start it, stop it. The process
 * outlives us on purpose: killing the gateway must not tear the database down, and the next
 * gateway adopts it.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { open, readFile, realpath, stat, truncate } from 'node:fs/promises'
import { join } from 'node:path'
import pg from 'pg'
import { postgresEnvironment } from './cluster-init.ts'
import type { ClusterPlace } from './cluster-place.ts'
import { spawnIdentity } from './run-as.ts'
import { codeOf } from './server-process.ts'

/** The port only names the socket file; nothing listens on TCP. */
export const socketPort = 5432

/** What postmaster.pid says (PostgreSQL's pidfile.h). */
export interface PidFile {
  readonly pid: number
  readonly socketDir: string
  /** The server said that it accepts connections, so its socket was there. */
  readonly isReady: boolean
}

/** Reads postmaster.pid; undefined when there is none or it is not complete yet. */
export async function readPidFile(data: string): Promise<PidFile | undefined> {
  const text = await readFile(join(data, 'postmaster.pid'), 'utf8').catch(() => '')
  const lines = text.split('\n')
  const pid = Number.parseInt(lines[0] ?? '', 10)
  return pid > 0 ? { pid, socketDir: lines[4] ?? '', isReady: /^ready/.test(lines[7] ?? '') } : undefined
}

/** What the server behind a socket says. */
export type Answer = 'ready' | 'starting' | 'silent' | 'foreign'

/** Connects and checks that the server behind the socket serves this data directory. */
export async function ask(socketDir: string, data: string): Promise<Answer> {
  const client = adminClient(socketDir)
  client.on('error', () => undefined) // the outcome of the query below tells
  try {
    await client.connect()
    const { rows } = await client.query({ text: `select current_setting('data_directory')`, rowMode: 'array' })
    const served = await realpath(String(rows[0]?.[0])).catch(() => undefined)
    return served === data ? 'ready' : 'foreign'
  } catch (error) {
    // 57P03 cannot_connect_now: starting up, shutting down, or in recovery
    return codeOf(error) === '57P03' ? 'starting' : 'silent'
  } finally {
    await client.end().catch(() => undefined)
  }
}

/** Is the server's socket file there? A run-time directory may be cleaned away under it. */
export async function hasSocket(socketDir: string): Promise<boolean> {
  return (await stat(join(socketDir, `.s.PGSQL.${socketPort}`)).catch(() => undefined)) !== undefined
}

/** A connection as the cluster's superuser. */
export function adminClient(socketDir: string, database = 'postgres'): pg.Client {
  return new pg.Client({
    host: socketDir,
    port: socketPort,
    user: 'postgres',
    database,
    application_name: 'hanse-admin',
    connectionTimeoutMillis: 10_000,
  })
}

/** A started server; `tail` gives what it has written to its log since. */
export interface Started {
  readonly child: ChildProcess
  tail(): Promise<string>
}

/** Starts the server in a session of its own, so that Ctrl-C at our terminal does not reach it. */
export async function startServer(place: ClusterPlace, binDir: string, socketDir: string): Promise<Started> {
  const log = await open(place.logFile, 'a', 0o600)
  try {
    const { size } = await log.stat()
    const child = spawn(join(binDir, 'postgres'), serverArguments(place.data, socketDir), {
      ...spawnIdentity(place.runAs),
      cwd: '/',
      detached: true,
      stdio: ['ignore', log.fd, log.fd],
      env: postgresEnvironment(),
    })
    child.unref()
    await new Promise<void>((resolve, reject) => {
      child.once('spawn', () => resolve())
      child.once('error', reject)
    })
    return { child, tail: () => readFrom(place.logFile, size) }
  } finally {
    await log.close()
  }
}

function serverArguments(data: string, socketDir: string): string[] {
  const sockets = `"${socketDir.replaceAll('"', '""')}"`
  return [
    ['-D', data],
    ['-c', `unix_socket_directories=${sockets}`],
    ['-c', 'unix_socket_permissions=0700'],
    ['-c', 'listen_addresses='],
    ['-c', `port=${socketPort}`],
    ['-c', 'logging_collector=off'],
    ['-c', 'log_destination=stderr'],
  ].flat()
}

async function readFrom(path: string, start: number): Promise<string> {
  const handle = await open(path, 'r')
  try {
    const buffer = Buffer.alloc(16_384)
    const { bytesRead } = await handle.read(buffer, 0, buffer.length, start)
    return buffer.toString('utf8', 0, bytesRead)
  } finally {
    await handle.close()
  }
}

const longestLogBytes = 8 * 1024 * 1024

/** Empties the server's log when it has grown long; the server appends, so it goes on at the start. */
export async function boundLog(logFile: string): Promise<void> {
  const found = await stat(logFile).catch(() => undefined)
  if (found && found.size > longestLogBytes) await truncate(logFile, 0)
}
