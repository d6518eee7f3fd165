/**
 * One gateway per data directory.
 *
 * Node has no flock. SQLite's exclusive transaction is an fcntl lock on the inode: the kernel drops
 * it with the process (kill -9 included), and it also holds between containers that share a volume,
 * where a pid file lies. Nothing is ever stored in the file.
 */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { GatewayError } from '../errors.ts'

/** A held data directory. */
export interface DataLock {
  /** Lets go; harmless when repeated. */
  release(): void
}

/**
 * Takes `dataDir` for this process, creating it where it is missing.
 *
 * @throws GatewayError STATE_CONFLICT, naming the pid of the gateway that holds it; STORAGE_IO
 */
export function lockDataDir(dataDir: string): DataLock {
  const pidFile = join(dataDir, 'gateway.pid')
  let lock: DatabaseSync | undefined
  try {
    mkdirSync(dataDir, { recursive: true, mode: 0o700 })
    lock = new DatabaseSync(join(dataDir, 'gateway.lock'))
    lock.exec('pragma journal_mode = memory; pragma busy_timeout = 0; begin exclusive')
  } catch (cause) {
    lock?.close()
    if (isBusy(cause)) {
      const pid = readPid(pidFile)
      throw new GatewayError('STATE_CONFLICT', `the data directory is in use by another gateway (pid ${pid})`, {
        cause,
        context: { dataDir, pid },
      })
    }
    throw new GatewayError('STORAGE_IO', `cannot lock the data directory: ${reason(cause)}`, {
      cause,
      context: { dataDir },
    })
  }
  writePid(pidFile)
  const held = lock
  return {
    release: () => {
      if (held.isOpen) held.close()
    },
  }
}

const sqliteBusy = 5

function isBusy(error: unknown): boolean {
  return error instanceof Error && 'errcode' in error && error.errcode === sqliteBusy
}

function reason(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}

function readPid(path: string): number | 'unknown' {
  try {
    const pid = Number.parseInt(readFileSync(path, 'utf8'), 10)
    return Number.isInteger(pid) ? pid : 'unknown'
  } catch {
    return 'unknown'
  }
}

/** The pid only serves the error message: a full disk must not keep the gateway from starting. */
function writePid(path: string): void {
  try {
    writeFileSync(path, `${process.pid}\n`)
  } catch {
    return
  }
}
