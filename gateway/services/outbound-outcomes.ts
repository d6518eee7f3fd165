/** What the attempts at a transfer leave behind: state, receipts, time line and audit in one transaction each. */
import type { Decided } from '../../peers/carrier.ts'
import { toleratedDriftMs } from '../../peers/clock.ts'
import type { SiteKeys } from '../../peers/keys.ts'
import type { OfferState } from '../../peers/offer-state.ts'
import type { Peer } from '../../peers/peer.ts'
import type { ReceiptKind, SignedReceipt } from '../../peers/receipt.ts'
import { beginTransferring, transferEnded } from '../audit/event.ts'
import { appendAudit } from '../audit/log.ts'
import type { Db, Tx } from '../db/db.ts'
import type { TransferState } from '../db/schema.ts'
import { type ErrorCode, GatewayError, isGatewayError } from '../errors.ts'
import type { Queue } from '../jobs/queue.ts'
import type { Log } from '../log.ts'
import { lockState, type OutboundRow, writeState } from './outbound-rows.ts'
import { storeReceipt } from './receipts.ts'
import { addStep } from './transfer-steps.ts'

export interface Outcomes {
  /** True when the manifest's time is over, drift included. */
  isOver(row: OutboundRow): boolean
  /** The peer told its state: new receipts are kept, and the step they prove. */
  heard(row: OutboundRow, peer: Peer, state: OfferState, receipts: readonly SignedReceipt[]): Promise<void>
  /** After the import: receipts that came since, none where the peer could not be asked, and when to ask again. */
  followed(row: OutboundRow, receipts: readonly SignedReceipt[]): Promise<void>
  /** The peer's decision. `held` is asked about again later. */
  ended(row: OutboundRow, peer: Peer, end: Decided): Promise<void>
  expired(row: OutboundRow, peer: Peer | undefined): Promise<void>
  /** Policy does not allow it any more. */
  withdrawn(row: OutboundRow, peer: Peer, why?: { code: ErrorCode; message: string }): Promise<void>
  /** An attempt failed: later again, or held for a person. */
  failed(row: OutboundRow, peer: Peer, error: unknown): Promise<void>
  /** Not attempted, because the peer could not be reached a moment ago. */
  postponed(row: OutboundRow, peer: Peer, closed: { until: number; reason: GatewayError }): Promise<void>
  /** There is no active peer, or no address of it. */
  unreachable(row: OutboundRow, peer: Peer | undefined): Promise<void>
}

/** How often the receiver is asked for what it signs after the import: as rarely as the transfer is old. */
const followMs = { least: 60_000, most: 24 * 3_600_000, total: 14 * 24 * 3_600_000 } as const
const firstPauseMs = 1_000
const longestPauseMs = 15 * 60_000
const settled: readonly TransferState[] = ['receipted', 'refused', 'expired']

/** The peer has every byte and may have imported them: only its receipt can tell, however late. */
const isComplete = (row: OutboundRow): boolean => row.state === 'sent'

/** Why it was cancelled or held stays to be read, also while the peer cannot be told or asked. */
function troubleOf(row: OutboundRow, state: TransferState, error: GatewayError) {
  const isDecided = state === 'cancelled' || state === 'held'
  return isDecided ? { code: row.errorCode, message: row.error } : { code: error.code, message: error.message }
}

/** The pause after so many failures in a row: doubling to 15 minutes, the half of it random. */
export function pauseMs(attempts: number, random: () => number = Math.random): number {
  return Math.min(longestPauseMs, firstPauseMs * 2 ** Math.min(attempts, 20)) * (0.5 + random() / 2)
}

export function createOutcomes(parts: {
  db: Db
  queue: Pick<Queue, 'enqueue'>
  keys: Pick<SiteKeys, 'siteId'>
  clock: () => Date
  log: Log
}): Outcomes {
  const { db, queue, keys, clock, log } = parts

  const again = (tx: Tx, id: string, at: Date): Promise<void> =>
    queue.enqueue(tx, 'deliver', { transfer: id }, { singletonKey: id, startAfter: at })

  /** Changes the state unless another run, or a person, has settled it; true when it did. */
  const change = (row: OutboundRow, apply: (tx: Tx, state: TransferState) => Promise<void>): Promise<boolean> =>
    db.inTransaction(async tx => {
      const state = await lockState(tx, row.id)
      if (state === undefined || settled.includes(state)) return false
      await apply(tx, state)
      return true
    })

  const auditEnd = (tx: Tx, row: OutboundRow, peer: Peer | undefined, reason: string | undefined): Promise<void> =>
    appendAudit(tx, transferEnded(parties(row, peer), reason))

  const parties = (row: OutboundRow, peer: Peer | undefined) => ({
    source: { userId: keys.siteId, requestor: true },
    destination: { userId: peer?.siteId ?? 'unknown' },
    objects: [
      { kind: 'study', studyInstanceUid: row.studyInstanceUid, instanceCount: row.objectCount } as const,
      {
        kind: 'transfer',
        transferId: row.id,
        ...(row.manifestId !== undefined && { manifestId: row.manifestId }),
      } as const,
    ],
  })

  /** Kinds of the receipts that were not known yet. */
  const keep = async (tx: Tx, row: OutboundRow, receipts: readonly SignedReceipt[]): Promise<ReceiptKind[]> => {
    const fresh: ReceiptKind[] = []
    for (const receipt of receipts) {
      if (await storeReceipt(tx, row.id, 'received', receipt)) fresh.push(receipt.receipt.kind)
    }
    return fresh
  }

  const holdFor = async (row: OutboundRow, peer: Peer | undefined, code: ErrorCode, message: string): Promise<void> => {
    await change(row, async (tx, state) => {
      if (state === 'cancelled') return
      await writeState(tx, row.id, 'held', { code, message })
      await addStep(tx, row.id, 'held', { code })
      await auditEnd(tx, row, peer, code)
    })
  }

  const outcomes: Outcomes = {
    isOver: row => clock().getTime() - row.expiresAt.getTime() > toleratedDriftMs,

    async heard(row, peer, state, receipts) {
      const isAllHere = state.state !== 'receiving'
      await change(row, async (tx, before) => {
        const fresh = await keep(tx, row, receipts)
        if (before === 'cancelled') return
        if (fresh.includes('accepted')) {
          await addStep(tx, row.id, 'accepted')
          await appendAudit(tx, beginTransferring(parties(row, peer)))
        }
        if (isAllHere && before === 'signed') {
          await writeState(tx, row.id, 'sent')
          await addStep(tx, row.id, 'sent', { bytes: row.bytesTotal })
        }
      })
    },

    async followed(row, receipts) {
      await db.inTransaction(async tx => {
        const fresh = await keep(tx, row, receipts)
        if (fresh.includes('archived')) await addStep(tx, row.id, 'archived-there')
        const isArchived = receipts.some(({ receipt }) => receipt.kind === 'archived')
        const ageMs = clock().getTime() - row.manifestCreated.getTime()
        if (isArchived || ageMs > followMs.total) return
        await again(tx, row.id, new Date(clock().getTime() + Math.min(followMs.most, Math.max(followMs.least, ageMs))))
      })
    },

    async ended(row, peer, end) {
      const to = {
        imported: 'receipted',
        held: 'held',
        refused: 'refused',
        cancelled: 'cancelled',
        expired: 'expired',
      } as const
      const state = to[end.kind]
      await change(row, async (tx, before) => {
        await keep(tx, row, end.receipts)
        if (before === 'cancelled' && end.kind !== 'imported') {
          if (end.kind === 'cancelled') await addStep(tx, row.id, 'cancelled-there')
          return
        }
        if (end.kind === 'held') {
          // A person there decides; until then it is asked for now and then.
          const attempts = before === 'held' ? row.attempts + 1 : 3
          const nextAttemptAt = new Date(clock().getTime() + pauseMs(attempts))
          const message = 'the receiver holds it for a person'
          const isLate = outcomes.isOver(row)
          await writeState(tx, row.id, 'held', { code: end.code, message, attempts, ...(!isLate && { nextAttemptAt }) })
          if (!isLate) await again(tx, row.id, nextAttemptAt)
          if (before === 'held') return
        } else await writeState(tx, row.id, state, { code: end.kind === 'imported' ? undefined : end.code })
        const late = before === 'cancelled' ? { note: 'the cancellation came too late' } : {}
        if (end.kind === 'imported') await again(tx, row.id, new Date(clock().getTime() + followMs.least))
        await addStep(tx, row.id, state, { ...(end.code !== undefined && { code: end.code }), ...late })
        await auditEnd(tx, row, peer, end.kind === 'imported' ? undefined : (end.code ?? end.kind))
      })
      log.info({ transfer: row.id, peer: peer.name, state, code: end.code }, `transfer ${state}`)
    },

    async expired(row, peer) {
      await change(row, async (tx, before) => {
        if (before === 'cancelled') return
        await writeState(tx, row.id, 'expired', { code: 'MANIFEST_EXPIRED', message: 'not delivered in its time' })
        await addStep(tx, row.id, 'expired')
        await auditEnd(tx, row, peer, 'MANIFEST_EXPIRED')
      })
    },

    async withdrawn(row, peer, { code, message } = { code: 'POLICY_DENIED', message: 'not allowed any more' }) {
      await change(row, async (tx, before) => {
        if (before === 'cancelled') return
        await writeState(tx, row.id, 'cancelled', { code, message })
        await addStep(tx, row.id, 'cancelled', { code })
        await auditEnd(tx, row, peer, code)
      })
    },

    async failed(row, peer, cause) {
      const error = isGatewayError(cause) ? cause : new GatewayError('UNAVAILABLE', 'internal error', { cause })
      if (error !== cause) {
        log.error(
          { transfer: row.id, error: cause instanceof Error ? cause.name : typeof cause },
          'delivery failed unexpectedly',
        )
      }
      if (error.meaning.retry === 'no') {
        log.error({ transfer: row.id, peer: peer.name, code: error.code }, `transfer held: ${error.message}`)
        return await holdFor(row, peer, error.code, error.message)
      }
      if (outcomes.isOver(row) && !isComplete(row)) return await outcomes.expired(row, peer)
      await change(row, async (tx, state) => {
        const progress = await tx
          .selectFrom('transfers')
          .select('bytes_acknowledged')
          .where('id', '=', row.id)
          .executeTakeFirst()
        // A line that fails now and then, but moves, is tried again at once.
        const attempts = (progress?.bytes_acknowledged ?? 0) > row.bytesAcknowledged ? 0 : row.attempts + 1
        const nextAttemptAt = new Date(clock().getTime() + pauseMs(attempts))
        const trouble = troubleOf(row, state, error)
        await writeState(tx, row.id, state, { ...trouble, nextAttemptAt, attempts })
        if (row.errorCode !== error.code) await addStep(tx, row.id, 'failed', { code: error.code, attempts })
        await again(tx, row.id, nextAttemptAt)
      })
      log.warn(
        { transfer: row.id, peer: peer.name, code: error.code, attempts: row.attempts + 1 },
        `transfer waits: ${error.message}`,
      )
    },

    async postponed(row, peer, { until, reason }) {
      if (outcomes.isOver(row) && !isComplete(row)) return await outcomes.expired(row, peer)
      await change(row, async (tx, state) => {
        const nextAttemptAt = new Date(until + Math.random() * 1_000)
        const trouble = troubleOf(row, state, reason)
        await writeState(tx, row.id, state, { ...trouble, nextAttemptAt, attempts: row.attempts })
        await again(tx, row.id, nextAttemptAt)
      })
    },

    async unreachable(row, peer) {
      if (outcomes.isOver(row)) return await outcomes.expired(row, peer)
      if (row.state === 'held' || row.state === 'cancelled') return
      const why = peer ? 'the peer has no address, or is not confirmed' : 'the peer is not active any more'
      await holdFor(row, peer, peer ? 'PEER_UNREACHABLE' : 'PEER_REVOKED', why)
    },
  }
  return outcomes
}
