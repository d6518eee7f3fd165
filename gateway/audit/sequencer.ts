/** The background sequencer: appends committed audit events to the Merkle log and signs its head now and then. */
import { setTimeout as delay } from 'node:timers/promises'
import type { Db } from '../db/db.ts'
import type { Log } from '../log.ts'
import { type Checkpoint, checkpoint } from './checkpoint.ts'
import { appendRound, type Marker, roundSize } from './leaves.ts'
import type { NoteSigner } from './note.ts'

export interface Sequencer {
  /** Appends everything committed so far and signs the tree head. */
  checkpoint(): Promise<Checkpoint>
  /** Stops after the round under way. */
  close(): Promise<void>
}

/**
 * Starts the background sequencer: it looks every `intervalMs` while events come, every 5 s while
 * none do, and signs a checkpoint every `checkpointEveryMs` when the log has grown.
 */
export function startSequencer(options: {
  db: Db
  log: Log
  signer: NoteSigner
  intervalMs?: number
  checkpointEveryMs?: number
}): Sequencer {
  const { db, signer, intervalMs = 500, checkpointEveryMs = 600_000 } = options
  const log = options.log.child({ part: 'audit' })
  const closing = new AbortController()
  const marker: Marker = {}
  let signedAt = Date.now()

  const run = async (): Promise<void> => {
    while (!closing.signal.aborted) {
      let waitMs = intervalMs
      try {
        const appended = await db.inTransaction(tx => appendRound(tx, marker, { whenBusy: 'skip' }))
        if (appended === roundSize) continue
        if (Date.now() - signedAt >= checkpointEveryMs) {
          await checkpoint({ db, signer })
          signedAt = Date.now()
        }
        if (appended === 0) waitMs = Math.max(intervalMs, 5000)
      } catch (error) {
        // The database is away: the events wait there.
        log.debug({ error: error instanceof Error ? error.name : 'unknown' }, 'cannot sequence audit events')
        waitMs = Math.max(intervalMs, 2000)
      }
      await delay(waitMs, undefined, { signal: closing.signal }).catch(() => undefined)
    }
  }
  const running = run()

  return {
    checkpoint: () => checkpoint({ db, signer }),
    async close() {
      closing.abort()
      await running
    },
  }
}
