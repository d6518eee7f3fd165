/** Writes a running transfer's counters to its row, at a bounded rate: nobody reads faster. */
import type { Db } from '../db/db.ts'
import { writeProgress } from './outbound-rows.ts'

export interface Progress {
  sent(bytes: number): void
  /** Bytes of the transfer that are durable at the receiver. */
  acknowledged(bytes: number): void
  /** Writes what is left. */
  stop(): Promise<void>
}

const everyMs = 500

export function startProgress(db: Db, id: string): Progress {
  let sentBytes = 0
  let acknowledgedBytes: number | undefined
  let writing: Promise<void> = Promise.resolve()

  const write = async (): Promise<void> => {
    if (sentBytes === 0 && acknowledgedBytes === undefined) return
    const now = { sentBytes, acknowledgedBytes }
    sentBytes = 0
    acknowledgedBytes = undefined
    try {
      await writeProgress(db.kysely, id, now)
    } catch {
      sentBytes += now.sentBytes // counters only: the next write, or the final state, will say it
      acknowledgedBytes ??= now.acknowledgedBytes
    }
  }
  const timer = setInterval(() => {
    writing = writing.then(write)
  }, everyMs)

  return {
    sent: bytes => {
      sentBytes += bytes
    },
    acknowledged: bytes => {
      acknowledgedBytes = bytes
    },
    async stop() {
      clearInterval(timer)
      await writing
      await write()
    },
  }
}
