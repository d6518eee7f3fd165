/**
 * On to the archive: transfers to a modality inside the hospital. Instances are sent by C-STORE, each one's
 * outcome is a row, so that a killed gateway or archive costs no more than what was under way. What may pass by
 * itself is tried again until the transfer expires; what needs a person is held.
 *
 * A transfer is `archived` when the archive has committed to every instance, and only then is the receipt of that
 * name signed for the site that sent them. Until then the study is in the gateway, not in the archive.
 */
import { beginTransferring, transferEnded } from '../audit/event.ts'
import { appendAudit } from '../audit/log.ts'
import type { Db, Tx } from '../db/db.ts'
import type { TransferState } from '../db/schema.ts'
import type { Coercion } from '../dicom/coerce.ts'
import { type ErrorCode, GatewayError, isGatewayError } from '../errors.ts'
import type { Queue } from '../jobs/queue.ts'
import type { Log } from '../log.ts'
import type { Blobs } from '../store/blobs.ts'
import { type ArchiveDataset, openArchiveDataset } from './archive-dataset.ts'
import { coercionFor } from './archive-identity.ts'
import { issueArchived } from './archive-receipts.ts'
import {
  type ArchiveItem,
  type ArchiveRow,
  countSteps,
  findStaleArchives,
  type ItemResult,
  loadArchiveItems,
  loadArchiveTransfer,
  reopenUncommitted,
  takeCommitments,
  writeItemResults,
} from './archive-rows.ts'
import type { Commitments } from './commitment.ts'
import type { InboundParts } from './inbound-context.ts'
import { pauseMs } from './outbound-outcomes.ts'
import { lockState, writeState } from './outbound-rows.ts'
import type { FindArchive } from './route-target.ts'
import { addStep } from './transfer-steps.ts'

/** An instance on its way. */
export interface ArchiveSend extends ArchiveItem {
  open(): Promise<ArchiveDataset>
}

/** What the archive said of one instance. */
export type ArchiveResult =
  | { readonly kind: 'taken' }
  /** `isFinal`: no repetition helps. */
  | { readonly kind: 'failed'; readonly problem: string; readonly isFinal: boolean }

/** How instances travel: the DICOM side, which knows where a modality is. */
export interface ArchiveWire {
  /**
   * Sends instances one after the other.
   *
   * @param stop  ends it in order after the instance under way
   * @throws GatewayError PEER_UNREACHABLE, ASSOCIATION_REFUSED, PEER_PROTOCOL; what has no result was not taken
   */
  send(
    modality: string,
    items: Iterable<ArchiveSend>,
    onResult: (item: ArchiveSend, result: ArchiveResult) => Promise<void>,
    signals: { readonly stop: AbortSignal; readonly abort: AbortSignal },
  ): Promise<void>
  /** How many instances of a study the archive says it has; undefined when it does not tell. */
  count(modality: string, studyInstanceUid: string, signal: AbortSignal): Promise<number | undefined>
}

export interface Archive {
  /** The job `archive`: carries one transfer on. Harmless at any time and any number of times. */
  run(id: string, signal: AbortSignal): Promise<void>
  /** Gives transfers a job that nothing has happened to for long. */
  recover(): Promise<void>
}

export interface ArchiveParts extends Pick<InboundParts, 'keys' | 'checkpoint'> {
  readonly db: Db
  readonly blobs: Pick<Blobs, 'open' | 'stageFrom'>
  readonly queue: Pick<Queue, 'enqueue'>
  readonly commitments: Pick<Commitments, 'ask'>
  readonly wire: ArchiveWire
  readonly findArchive: FindArchive
  /** Why a transfer may not go on: a patient who has not consented, or objects. */
  readonly obstacle?: (transfer: string) => Promise<{ readonly code: ErrorCode; readonly message: string } | undefined>
  /** Our AE title: the modifying system of what is coerced. */
  readonly aeTitle: string
  readonly log: Log
  readonly clock?: () => Date
}

/** Results are written together: the archive may take some of them twice after a crash, and calls that a duplicate. */
const resultsPerWrite = 50
const resultsEveryMs = 500
/** So often what the archive would not commit to is sent again before a person is asked. */
const mostResends = 3

/** Opens the service; `run` is to be registered as the lane's handler. */
export function openArchive(parts: ArchiveParts): Archive {
  const { db, queue, wire, findArchive, clock = () => new Date() } = parts
  const log = parts.log.child({ part: 'archive' })

  const objectsOf = (row: ArchiveRow) => [
    ...(row.patient ? [{ kind: 'patient' as const, ...row.patient }] : []),
    { kind: 'study' as const, studyInstanceUid: row.studyInstanceUid, instanceCount: row.objectCount },
    { kind: 'transfer' as const, transferId: row.id },
  ]
  const partiesOf = (row: ArchiveRow) => ({
    source: { userId: parts.aeTitle, requestor: true },
    destination: { userId: findArchive(row.modality)?.aeTitle.trim() ?? row.modality },
  })
  const auditEnd = (tx: Tx, row: ArchiveRow, reason: string | undefined): Promise<void> =>
    appendAudit(tx, transferEnded({ ...partiesOf(row), objects: objectsOf(row) }, reason))

  /** Changes the row unless it is not in this state any more. */
  const change = (row: ArchiveRow, state: TransferState, apply: (tx: Tx) => Promise<void>): Promise<void> =>
    db.inTransaction(async tx => {
      if ((await lockState(tx, row.id)) === state) await apply(tx)
    })

  const hold = async (row: ArchiveRow, code: ErrorCode, message: string): Promise<void> => {
    await change(row, row.state, async tx => {
      await writeState(tx, row.id, 'held', { code, message })
      await addStep(tx, row.id, 'held', { code })
      await auditEnd(tx, row, code)
    })
    log.error({ transfer: row.id, modality: row.modality, code }, `transfer held: ${message}`)
  }

  /** Later again, or never: the transfer's time is over. */
  const failed = async (row: ArchiveRow, cause: unknown, moved: boolean): Promise<void> => {
    const error = isGatewayError(cause) ? cause : new GatewayError('UNAVAILABLE', 'internal error', { cause })
    if (error !== cause) log.error({ transfer: row.id, error: nameOf(cause) }, 'delivery failed unexpectedly')
    if (error.meaning.retry === 'no') return await hold(row, error.code, error.message)
    await change(row, row.state, async tx => {
      if (clock() > row.expiresAt) {
        const isSent = row.state === 'sent'
        await writeState(tx, row.id, isSent ? 'held' : 'expired', { code: error.code, message: error.message })
        await addStep(tx, row.id, isSent ? 'held' : 'expired', { code: error.code })
        return await auditEnd(tx, row, error.code)
      }
      // A line that fails now and then, but moves, is tried again at once.
      const attempts = moved ? 0 : row.attempts + 1
      const nextAttemptAt = new Date(clock().getTime() + pauseMs(attempts))
      await writeState(tx, row.id, row.state, { code: error.code, message: error.message, nextAttemptAt, attempts })
      if (attempts <= 1) await addStep(tx, row.id, 'failed', { code: error.code, attempts })
      await queue.enqueue(tx, 'archive', { transfer: row.id }, { singletonKey: row.id, startAfter: nextAttemptAt })
    })
    log.warn({ transfer: row.id, modality: row.modality, code: error.code }, `transfer waits: ${error.message}`)
  }

  /** Sends what the archive has not taken yet. */
  const send = async (row: ArchiveRow, signal: AbortSignal): Promise<void> => {
    const target = findArchive(row.modality)
    if (!target)
      throw new GatewayError('MODALITY_UNKNOWN', `no modality is called ${row.modality}: register it, then retry`)
    if (target.zone !== 'inside' && !row.isManual) {
      throw new GatewayError('FORBIDDEN', `${row.modality} is outside of the hospital: nothing goes there by rule`)
    }
    if (row.profile !== 'as-is') {
      throw new GatewayError('POLICY_DENIED', 'nothing de-identified goes to an archive: only as-is is possible')
    }
    const obstacle = await parts.obstacle?.(row.id)
    if (obstacle) throw new GatewayError(obstacle.code, obstacle.message)
    const coercion = await coercionFor(db, row)
    const items = await loadArchiveItems(db.kysely, row.id, 'undelivered')
    const stop = new AbortController()
    const results = createResults(row, stop)
    if (items.length > 0) {
      await begin(row, items.length)
      try {
        const sends = items.map(item => toSend(row, item, coercion))
        await wire.send(row.modality, sends, results.take, { stop: stop.signal, abort: signal })
      } catch (error) {
        results.error = error
      }
      await results.write()
    }
    if (signal.aborted) throw signal.reason
    if (stop.signal.aborted) return // cancelled, or decided otherwise
    if (results.error === undefined && results.failures.length === 0) return await sent(row)
    const problem = troubleOf(results, items.length)
    await failed(row, problem, results.takenCount > 0)
  }

  /** The intent, once in a transfer's life. */
  const begin = async (row: ArchiveRow, instances: number): Promise<void> => {
    if (row.attempts > 0) return
    await db.inTransaction(async tx => {
      if ((await countSteps(tx, row.id, 'sending')) > 0) return
      await addStep(tx, row.id, 'sending', { instances })
      await appendAudit(tx, beginTransferring({ ...partiesOf(row), objects: objectsOf(row) }))
    })
  }

  const toSend = (row: ArchiveRow, item: ArchiveItem, coercion: Coercion): ArchiveSend => ({
    ...item,
    // Of the transfer, not of this run: a repetition sends the same bytes.
    open: () => openArchiveDataset(parts.blobs, item, coercion, { at: row.createdAt, system: parts.aeTitle }),
  })

  /** Gathers results and writes them now and then; stops the pass when the transfer is not to go on. */
  const createResults = (row: ArchiveRow, stop: AbortController): Results => {
    let waiting: ItemResult[] = []
    let writtenAt = Date.now()
    const results: Results = {
      failures: [],
      takenCount: 0,
      error: undefined,
      async take(item, result) {
        if (result.kind === 'taken') results.takenCount += 1
        else results.failures.push(result)
        waiting.push({ ordinal: item.ordinal, problem: result.kind === 'taken' ? null : result.problem })
        if (waiting.length >= resultsPerWrite || Date.now() - writtenAt >= resultsEveryMs) await results.write()
      },
      async write() {
        if (waiting.length === 0) return
        const now = waiting
        waiting = []
        writtenAt = Date.now()
        const state = await writeItemResults(db.kysely, row.id, now)
        if (state !== row.state) stop.abort()
      },
    }
    return results
  }

  /** The archive has taken everything: it is asked to commit, or that is all that anybody will know. */
  const sent = async (row: ArchiveRow): Promise<void> => {
    if (!row.terms.commitment) return await complete(row, 'delivered')
    await change(row, 'planned', async tx => {
      const instances = await loadArchiveItems(tx, row.id, 'unarchived')
      await writeState(tx, row.id, 'sent', { attempts: 0 })
      await addStep(tx, row.id, 'sent', { instances: row.objectCount })
      const wish = { aeTitle: row.modality, transfer: row.id, instances, expiresAt: row.expiresAt }
      await parts.commitments.ask(tx, wish)
      await addStep(tx, row.id, 'commitment-requested', { instances: instances.length })
    })
    log.info({ transfer: row.id, modality: row.modality }, 'the archive has taken everything and is asked to commit')
  }

  /** Looks at the archive's answers. */
  const settle = async (row: ArchiveRow): Promise<void> => {
    const counts = await db.inTransaction(tx => takeCommitments(tx, row.id))
    if (counts.unarchived === 0) return await complete(row, 'archived')
    if (counts.open > 0) return
    const resends = await countSteps(db.kysely, row.id, 'not-committed')
    const missing = `the archive has not committed to ${counts.unarchived} of ${row.objectCount} instances`
    if (counts.abandoned > 0 || resends >= mostResends) throw new GatewayError('ARCHIVE_UNCOMMITTED', missing)
    await change(row, 'sent', async tx => {
      const again = await reopenUncommitted(tx, row.id)
      const attempts = resends + 1
      const nextAttemptAt = new Date(clock().getTime() + pauseMs(resends))
      await writeState(tx, row.id, 'planned', {
        code: 'ARCHIVE_UNCOMMITTED',
        message: missing,
        nextAttemptAt,
        attempts,
      })
      await addStep(tx, row.id, 'not-committed', { instances: again })
      await queue.enqueue(tx, 'archive', { transfer: row.id }, { singletonKey: row.id, startAfter: nextAttemptAt })
    })
    log.warn({ transfer: row.id, modality: row.modality, instances: counts.unarchived }, `sending again: ${missing}`)
  }

  const complete = async (row: ArchiveRow, state: 'delivered' | 'archived'): Promise<void> => {
    const counted = row.terms.count ? await checkCount(row) : undefined
    const checkpoint = state === 'archived' ? await parts.checkpoint() : ''
    await change(row, row.state, async tx => {
      await writeState(tx, row.id, state)
      await addStep(tx, row.id, state, {
        instances: row.objectCount,
        ...(counted !== undefined && { inArchive: counted }),
      })
      await auditEnd(tx, row, undefined)
      if (state === 'delivered') return
      await issueArchived(tx, row.id, { keys: parts.keys, checkpoint, time: clock() })
    })
    log.info({ transfer: row.id, modality: row.modality, state }, `transfer ${state}`)
  }

  /** The archive must find as many instances of the study as were sent. */
  const checkCount = async (row: ArchiveRow): Promise<number> => {
    const counted = await wire.count(row.modality, row.studyInstanceUid, AbortSignal.timeout(60_000))
    if (counted === undefined) {
      throw new GatewayError('ARCHIVE_INCOMPLETE', 'the archive does not tell how many instances of the study it has')
    }
    if (counted < row.objectCount) {
      const message = `the archive finds ${counted} instances of the study, ${row.objectCount} were sent`
      throw new GatewayError('ARCHIVE_INCOMPLETE', message)
    }
    return counted
  }

  return {
    async run(id, signal) {
      const row = await loadArchiveTransfer(db.kysely, id)
      if (!row?.isDue || (row.state !== 'planned' && row.state !== 'sent')) return
      try {
        if (row.state === 'planned') await send(row, signal)
        else await settle(row)
      } catch (error) {
        if (signal.aborted || isGatewayError(error, 'DATABASE_UNAVAILABLE')) throw error
        await failed(row, error, false)
      }
    },

    async recover() {
      for (const transfer of await findStaleArchives(db.kysely)) {
        await db.inTransaction(tx => queue.enqueue(tx, 'archive', { transfer }, { singletonKey: transfer }))
      }
    },
  }
}

/** A pass as it goes. */
interface Results {
  readonly failures: Extract<ArchiveResult, { kind: 'failed' }>[]
  takenCount: number
  /** What ended the pass early. */
  error: unknown
  take(item: ArchiveSend, result: ArchiveResult): Promise<void>
  write(): Promise<void>
}

/** What is wrong after a pass: held when nothing of it passes by itself. */
function troubleOf({ error, failures }: Results, tried: number): unknown {
  if (error !== undefined) return error
  const names = [...new Set(failures.map(failure => failure.problem))].sort().join(', ')
  const message = `the archive did not take ${failures.length} of ${tried} instances: ${names.slice(0, 200)}`
  const isFinal = failures.every(failure => failure.isFinal)
  return new GatewayError(isFinal ? 'ARCHIVE_REFUSED' : 'REMOTE_STATUS', message)
}

const nameOf = (error: unknown): string => (error instanceof Error ? error.name : typeof error)
