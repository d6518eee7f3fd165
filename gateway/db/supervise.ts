/** Keeps one PostgreSQL server running: adopt it, start it, start it again when it dies, stop it. */
import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { GatewayError } from '../errors.ts'
import type { Log } from '../log.ts'
import { type ClusterPlace, openSocketDir } from './cluster-place.ts'
import type { PostgresBinaries } from './postgres-binaries.ts'
import { ask, boundLog, hasSocket, readPidFile, startServer } from './postmaster.ts'
import { hasAnyServer, isServerOf } from './server-process.ts'

/** What the server is doing. */
export interface ServerState {
  readonly phase: 'running' | 'restarting' | 'closed'
  readonly pid: number
  /** True when the running server was started by an earlier gateway process. */
  readonly adopted: boolean
  /** Times the server had to be started again since we opened it. */
  readonly restarts: number
}

/** A supervised server. */
export interface Supervised {
  readonly socketDir: string
  state(): ServerState
  close(): Promise<void>
}

interface Server {
  readonly pid: number
  readonly socketDir: string
  readonly adopted: boolean
}

interface Options {
  readonly place: ClusterPlace
  readonly binaries: PostgresBinaries
  readonly socketDir: string
  readonly log: Log
}

const pollMs = 250
/** How long a dying predecessor (zombie, orphaned backends) may hold its lock file. */
const lockPatienceMs = 30_000
/** From here on a lock file whose processes are all provably gone counts as left behind. */
const staleAfterMs = 2_000
/** Crash recovery replays at most `max_wal_size` and ends well before. */
const startPatienceMs = 600_000
/** A server listens long before it has recovered; one that is silent for so long has lost its socket. */
const silencePatienceMs = 20_000
const stopPatienceMs = 60_000

/**
 * Adopts or starts the server and watches it until `close`.
 *
 * @throws GatewayError DATABASE_UNAVAILABLE when it cannot be started the first time
 */
export async function superviseServer(options: Options): Promise<Supervised> {
  const { log } = options
  const stopping = new AbortController()
  let server = await ensureServer(options, stopping.signal)
  let restarts = 0
  let phase: ServerState['phase'] = 'running'
  log.info({ pid: server.pid, adopted: server.adopted }, server.adopted ? 'database adopted' : 'database started')

  const watch = async (): Promise<void> => {
    let backOffMs = 100
    let upSince = Date.now()
    while (!stopping.signal.aborted) {
      await pause(pollMs, stopping.signal)
      if (stopping.signal.aborted) return
      await boundLog(options.place.logFile).catch(() => undefined) // a disk in trouble: the server's own errors tell
      if ((await isServerOf(server.pid, options.place.data)) && (await hasSocket(server.socketDir))) {
        if (Date.now() - upSince > 60_000) backOffMs = 100
        continue
      }
      phase = 'restarting'
      log.warn({ pid: server.pid }, 'database server died or lost its socket, starting it again')
      try {
        await openSocketDir(options.place, server.socketDir) // the directory may be gone too
        server = await ensureServer({ ...options, socketDir: server.socketDir }, stopping.signal)
        restarts += 1
        phase = 'running'
        upSince = Date.now()
        log.info({ pid: server.pid, restarts }, 'database started again')
      } catch (error) {
        if (stopping.signal.aborted) return
        log.error({ reason: error instanceof Error ? error.message : String(error), backOffMs }, 'database not started')
      }
      await pause(backOffMs, stopping.signal)
      backOffMs = Math.min(backOffMs * 2, 5_000)
    }
  }
  const watching = watch()

  return {
    socketDir: server.socketDir,
    state: () => ({ phase, pid: server.pid, adopted: server.adopted, restarts }),
    close: async () => {
      stopping.abort()
      await watching
      if (phase === 'closed') return
      await stopServer(options.place.data, log)
      phase = 'closed'
    },
  }
}

/** Finds the living server or starts one, and waits until it answers. */
async function ensureServer(options: Options, signal: AbortSignal): Promise<Server> {
  const { place, log } = options
  let refusedSince: number | undefined
  let reason = 'stopped while starting'
  while (!signal.aborted) {
    const known = await readPidFile(place.data)
    if (known && (await isServerOf(known.pid, place.data))) {
      const ready = await waitForAnswer(place, known.pid, { signal, alive: () => isServerOf(known.pid, place.data) })
      if (ready) return { ...ready, adopted: true }
      continue
    }
    const { child, tail } = await startServer(place, options.binaries.binDir, options.socketDir)
    const alive = async (): Promise<boolean> => child.exitCode === null && child.signalCode === null
    const ready = await waitForAnswer(place, child.pid ?? 0, { signal, alive })
    if (ready) return { ...ready, adopted: false }
    if (signal.aborted) await stopPid(child.pid ?? 0, place.data)
    reason = fatalLine(await tail()) ?? 'it ended without a message'
    refusedSince ??= Date.now()
    if (!/lock file|shared memory block/.test(reason) || Date.now() - refusedSince > lockPatienceMs) break
    if (Date.now() - refusedSince > staleAfterMs && !(await hasAnyServer(place.data))) {
      // PostgreSQL takes a zombie, or a stranger with the old server's pid, for a living server. No process works in
      // the data directory and we hold the directory's lock, so nobody can be using it.
      log.warn({ pid: known?.pid }, 'removing the lock file of a database server that is gone')
      await rm(join(place.data, 'postmaster.pid'), { force: true })
    }
    await delay(pollMs)
  }
  throw new GatewayError('DATABASE_UNAVAILABLE', `the database server does not start: ${reason}`, {
    context: { logFile: place.logFile },
  })
}

/** Waits while the server `pid` comes up; undefined when it died, or lost its socket and was stopped. */
async function waitForAnswer(
  place: ClusterPlace,
  pid: number,
  options: { signal: AbortSignal; alive: () => Promise<boolean> },
): Promise<{ pid: number; socketDir: string } | undefined> {
  const deadline = Date.now() + startPatienceMs
  let silentSince = Date.now()
  while (!options.signal.aborted && Date.now() < deadline) {
    const known = await readPidFile(place.data)
    const socketDir = known?.pid === pid ? known.socketDir : ''
    const answer = socketDir ? await ask(socketDir, place.data) : 'silent'
    if (answer === 'ready') return { pid, socketDir }
    if (answer === 'starting') silentSince = Date.now()
    if (!(await options.alive())) return undefined
    const isCutOff = known?.pid === pid && known.isReady && !(await hasSocket(socketDir))
    if (isCutOff || Date.now() - silentSince > silencePatienceMs) {
      // Alive, but its socket is gone (a cleaned run-time directory): only a new start makes one.
      await stopPid(pid, place.data)
      return undefined
    }
    await delay(30)
  }
  return undefined
}

async function stopServer(data: string, log: Log): Promise<void> {
  const known = await readPidFile(data)
  if (!known || !(await isServerOf(known.pid, data))) return
  if (!(await stopPid(known.pid, data))) log.error({ pid: known.pid }, 'database server did not stop')
}

/** SIGINT is PostgreSQL's fast shutdown, SIGQUIT its immediate one. */
async function stopPid(pid: number, data: string): Promise<boolean> {
  for (const kind of ['SIGINT', 'SIGQUIT'] as const) {
    try {
      process.kill(pid, kind)
    } catch {
      return true
    }
    const deadline = Date.now() + stopPatienceMs
    while (Date.now() < deadline) {
      if (!(await isServerOf(pid, data))) return true
      await delay(20)
    }
  }
  return false
}

/** The watcher's pause: it ends with `close` and does not keep the process alive. */
async function pause(ms: number, signal: AbortSignal): Promise<void> {
  await delay(ms, undefined, { signal, ref: false }).catch(() => undefined)
}

function fatalLine(log: string): string | undefined {
  return log
    .split('\n')
    .findLast(line => /FATAL|PANIC|error/i.test(line))
    ?.replace(/^.*?(FATAL|PANIC):\s*/, '')
}
