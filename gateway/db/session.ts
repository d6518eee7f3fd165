/**
 * A database session of its own: it hears NOTIFY, and its advisory lock says that this process lives.
 * The job queue has one.
 *
 * Every gateway process holds the lock shared for as long as its session lives. PostgreSQL drops it the
 * moment the process dies, SIGKILL included, so a process that can take the lock exclusively knows
 * that no other lives, and that every job still marked active without being its own is an orphan.
 */
import { setTimeout as delay } from 'node:timers/promises'
import pg from 'pg'
import type { Log } from '../log.ts'

/** How to reach the database, as `pg` and pg-boss take it. */
export interface Connection {
  readonly connectionString?: string
  readonly host?: string
  readonly port?: number
  readonly user?: string
  readonly database?: string
  readonly password?: string | (() => string | Promise<string>)
  readonly ssl?: Exclude<pg.ClientConfig['ssl'], undefined>
}

export interface Session {
  readonly connected: boolean
  /** True when no other process holds a session on this database; rejects while not connected. */
  isAlone(): Promise<boolean>
  close(): Promise<void>
}

/** 'HNS' and the job queue's number among the gateway's advisory locks. */
const lock = '1212896051, 1'

/** Opens the session and keeps it open: it reconnects until closed. */
export async function openSession(options: {
  connection: Connection
  channel: string
  log: Log
  onNotification: (payload: string) => void
  /** After each connect, first and later ones, when listening and holding the lock. */
  onConnected: () => void
}): Promise<Session> {
  const { connection, channel, log, onNotification, onConnected } = options
  const closing = new AbortController()
  let client: pg.Client | undefined
  let reconnecting: Promise<void> | undefined

  const connect = async (): Promise<void> => {
    const next = new pg.Client({ ...connection, application_name: 'hanse jobs', keepAlive: true })
    const lost = (): void => {
      if (client !== next) return
      client = undefined
      next.end().catch(() => undefined)
      if (closing.signal.aborted) return
      log.warn({}, 'lost the database session of the job queue')
      reconnecting = reconnect()
    }
    next.on('error', lost)
    next.on('end', lost)
    next.on('notification', message => onNotification(message.payload ?? ''))
    try {
      await next.connect()
      await next.query(`listen ${channel}`)
      await next.query(`select pg_advisory_lock_shared(${lock})`)
    } catch (error) {
      await next.end().catch(() => undefined)
      throw error
    }
    client = next
    onConnected()
  }

  const reconnect = async (): Promise<void> => {
    for (let waitMs = 100; !closing.signal.aborted; waitMs = Math.min(2000, waitMs * 2)) {
      try {
        await delay(waitMs, undefined, { signal: closing.signal })
        await connect()
        log.info({}, 'the job queue has its database session again')
        return
      } catch {
        // not reachable yet, or closing: the loop's condition decides
      }
    }
  }

  await connect()
  return {
    get connected() {
      return client !== undefined
    },
    async isAlone() {
      if (!client) throw new Error('not connected')
      // One's own shared lock does not stand in the way; any other session's does.
      const { rows } = await client.query<{ alone: boolean }>(`select pg_try_advisory_lock(${lock}) as alone`)
      const alone = rows[0]?.alone === true
      if (alone) await client.query(`select pg_advisory_unlock(${lock})`)
      return alone
    },
    async close() {
      closing.abort()
      await reconnecting
      const last = client
      client = undefined
      await last?.end().catch(() => undefined)
    },
  }
}
