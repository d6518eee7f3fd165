/** A database session of its own that hears NOTIFY; it reconnects until closed. */
import { setTimeout as delay } from 'node:timers/promises'
import pg from 'pg'
import type { Log } from '../log.ts'
import type { Db } from './db.ts'

export interface Listener {
  close(): Promise<void>
}

/**
 * Listens on a channel.
 *
 * @param options.channel    a plain SQL identifier
 * @param options.onChange   called for each notification, and after each connect, because what was
 *   notified while no session was open is lost; must not throw
 */
export async function listen(
  db: Db,
  options: { channel: string; log: Log; onChange: (payload: string | undefined) => void },
): Promise<Listener> {
  const { channel, log, onChange } = options
  const closing = new AbortController()
  let client: pg.Client | undefined
  let reconnecting: Promise<void> | undefined

  const connect = async (): Promise<void> => {
    const next = new pg.Client({
      ...db.poolConfig,
      application_name: `hanse ${process.pid} listens on ${channel}`,
      statement_timeout: 0,
      idle_in_transaction_session_timeout: 0,
      keepAlive: true,
    })
    const lost = (): void => {
      if (client !== next) return
      client = undefined
      next.end().catch(() => undefined)
      if (!closing.signal.aborted) reconnecting = reconnect()
    }
    next.on('error', lost)
    next.on('end', lost)
    next.on('notification', message => onChange(message.payload))
    try {
      await next.connect()
      await next.query(`listen ${channel}`)
    } catch (error) {
      await next.end().catch(() => undefined)
      throw error
    }
    client = next
    onChange(undefined)
  }

  const reconnect = async (): Promise<void> => {
    log.debug({ channel }, 'lost the database session that listens')
    for (let waitMs = 100; !closing.signal.aborted; waitMs = Math.min(2000, waitMs * 2)) {
      try {
        await delay(waitMs, undefined, { signal: closing.signal })
        await connect()
        return
      } catch {
        // not reachable yet, or closing: the loop's condition decides
      }
    }
  }

  await connect()
  return {
    async close() {
      closing.abort()
      await reconnecting
      const last = client
      client = undefined
      await last?.end().catch(() => undefined)
    },
  }
}
