/** The feed of changes for readers: whoever asks finds everything that was committed before. */

import { setTimeout as delay } from 'node:timers/promises'
import { authorize } from '../../policy/authorize.ts'
import { eventTypes, securityAlert } from '../audit/event.ts'
import { appendAudit } from '../audit/log.ts'
import type { Db } from '../db/db.ts'
import type { Log } from '../log.ts'
import type { Principal } from '../principal.ts'
import {
  type Change,
  type ChangeWindow,
  clearChanges,
  loadChanges,
  loadLastChange,
  sequenceChanges,
} from '../store/changes.ts'

/** A page of the feed. */
export interface ChangePage {
  readonly changes: readonly Change[]
  /** There is nothing more in that direction. */
  readonly isLast: boolean
  /** The last position that was given. */
  readonly last: number
}

/** Reads and empties the feed. */
export interface ChangeFeed {
  /** @throws GatewayError DATABASE_UNAVAILABLE */
  list(window: ChangeWindow): Promise<ChangePage>
  /** The newest change alone. */
  newest(): Promise<ChangePage>
  /** Forgets all changes until now; audited. Positions go on from where they are. */
  clear(principal: Principal): Promise<void>
  close(): Promise<void>
}

const idleMs = 5_000
const busyMs = 1_000

/** Opens the feed; changes get their positions when somebody asks, and every few seconds so that few wait. */
export function openChangeFeed(options: {
  readonly db: Db
  readonly log: Log
  readonly background?: boolean
}): ChangeFeed {
  const { db, background = true } = options
  const log = options.log.child({ part: 'changes' })
  const closing = new AbortController()

  const run = async (): Promise<void> => {
    while (!closing.signal.aborted) {
      let waitMs = idleMs
      try {
        if ((await sequenceChanges(db)) > 0) waitMs = busyMs
      } catch (error) {
        // The database is away: the changes wait there.
        log.debug({ error: error instanceof Error ? error.name : 'unknown' }, 'cannot sequence changes')
      }
      await delay(waitMs, undefined, { signal: closing.signal }).catch(() => undefined)
    }
  }
  const running = background ? run() : Promise.resolve()

  return {
    async list(window) {
      await sequenceChanges(db)
      const { changes, isLast } = await loadChanges(db, window)
      const { last } = await loadLastChange(db)
      return { changes, isLast, last }
    },
    async newest() {
      await sequenceChanges(db)
      const { change, last } = await loadLastChange(db)
      return { changes: change ? [change] : [], isLast: true, last }
    },
    async clear(principal) {
      authorize(principal, 'gateway.administer')
      await sequenceChanges(db)
      await db.inTransaction(async tx => {
        await clearChanges(tx)
        await appendAudit(
          tx,
          securityAlert({
            type: eventTypes.restrictedFunction,
            participants: [{ userId: principal.id, requestor: true }],
            objects: [{ kind: 'setting', name: 'changes' }],
            reason: 'changes-cleared',
          }),
        )
      })
    },
    async close() {
      closing.abort()
      await running
    },
  }
}
