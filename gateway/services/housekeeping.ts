/** What must be done now and then: overdue transfers, parked deliveries, bytes that no row names. */
import type { Db } from '../db/db.ts'
import type { Log } from '../log.ts'
import type { Blobs } from '../store/blobs.ts'
import { referenceCheck } from '../store/references.ts'
import { sweepRemoved } from '../store/removed-blobs.ts'
import type { Archive } from './archive.ts'
import type { BackgroundJobs } from './background-jobs.ts'
import type { Commitments } from './commitment.ts'
import type { Consents } from './consents.ts'
import type { EndpointDelivery } from './endpoint-delivery.ts'
import type { Inbound } from './inbound.ts'
import type { Outbound } from './outbound.ts'
import type { Preparing } from './outbound-prepare.ts'
import type { ResumableUploads } from './resumable-uploads.ts'
import type { Retention } from './retention.ts'

const transfersEveryMs = 60_000
const removedEveryMs = 60_000
const retentionEveryMs = 3_600_000
const blobsEveryMs = 6 * 3_600_000

/** Starts the rounds; `close` waits for the one under way. */
export function startHousekeeping(options: {
  db: Db
  blobs: Blobs
  inbound: Pick<Inbound, 'sweep'>
  outbound: Pick<Outbound, 'recover'>
  preparing?: Pick<Preparing, 'sweep'>
  archive?: Pick<Archive, 'recover'>
  endpointDelivery?: Pick<EndpointDelivery, 'recover'>
  commitments?: Pick<Commitments, 'recover'>
  backgroundJobs?: Pick<BackgroundJobs, 'sweep'>
  resumableUploads?: Pick<ResumableUploads, 'sweep'>
  consents?: Pick<Consents, 'sweep'>
  retention?: Pick<Retention, 'apply'>
  log: Log
}): { close(): Promise<void> } {
  const {
    db,
    blobs,
    inbound,
    outbound,
    preparing,
    archive,
    commitments,
    backgroundJobs,
    resumableUploads,
    consents,
    retention,
  } = options
  const log = options.log.child({ part: 'housekeeping' })
  const closing = new AbortController()
  const running = new Set<Promise<void>>()

  const round = (what: string, work: () => Promise<unknown>) => (): void => {
    const turn = work().then(
      () => undefined,
      (error: unknown) => {
        if (!closing.signal.aborted)
          log.warn(
            { what, error: error instanceof Error ? error.name : 'unknown' },
            'housekeeping failed, trying again later',
          )
      },
    )
    running.add(turn)
    void turn.finally(() => running.delete(turn))
  }
  const transfers = round('transfers', async () => {
    await inbound.sweep()
    await consents?.sweep()
    await outbound.recover('stale')
    await preparing?.sweep()
    await archive?.recover()
    await options.endpointDelivery?.recover('stale')
    await commitments?.recover()
    await backgroundJobs?.sweep()
    await resumableUploads?.sweep()
  })
  const orphans = round('orphans', async () => {
    const { removed, removedBytes } = await blobs.sweep(referenceCheck(db), {
      signal: closing.signal,
    })
    if (removed > 0) log.info({ removed, removedBytes }, 'removed bytes that no row names')
  })
  const deleted = round('deleted', async () => {
    const removed = await sweepRemoved(db, blobs, { signal: closing.signal })
    if (removed > 0) log.info({ removed }, 'removed bytes of what was deleted')
  })
  const overdue = round('retention', async () => {
    await retention?.apply(closing.signal)
  })
  transfers()
  const timers = [
    setInterval(transfers, transfersEveryMs),
    setInterval(deleted, removedEveryMs),
    setInterval(orphans, blobsEveryMs),
    setInterval(overdue, retentionEveryMs),
  ]

  return {
    async close() {
      for (const timer of timers) clearInterval(timer)
      closing.abort()
      await Promise.all(running)
    },
  }
}
