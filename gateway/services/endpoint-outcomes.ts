/** What the attempts at a delivery to an endpoint leave behind: state, time line and audit in one transaction each. */
import { transferEnded } from '../audit/event.ts'
import { appendAudit } from '../audit/log.ts'
import type { Db, Tx } from '../db/db.ts'
import type { TransferState } from '../db/schema.ts'
import { type ErrorCode, GatewayError, isGatewayError } from '../errors.ts'
import type { Queue } from '../jobs/queue.ts'
import type { Log } from '../log.ts'
import type { Acknowledgement } from './endpoint-transfer-rows.ts'
import { writeAcknowledgement } from './endpoint-transfer-rows.ts'
import { pauseMs } from './outbound-outcomes.ts'
import { lockState, type OutboundRow, writeState } from './outbound-rows.ts'
import { addStep } from './transfer-steps.ts'

/** A transfer and the endpoint that it goes to. */
export interface Bound {
  readonly row: OutboundRow
  /** Name of the endpoint. */
  readonly to: string
}

export interface EndpointOutcomes {
  /** Everything is at the endpoint; when its answer is looked for, if ever. */
  delivered(
    bound: Bound,
    detail: Readonly<Record<string, string | number>>,
    followAt: Date | undefined,
    /** What happens in the same transaction. */
    within?: (tx: Tx) => Promise<void>,
  ): Promise<void>
  /** The endpoint has committed to everything. */
  committed(bound: Bound): Promise<void>
  /** It has not committed to what `reopen` makes undelivered: sent again, or held after so many times. */
  uncommitted(
    bound: Bound,
    why: GatewayError,
    resends: number | undefined,
    reopen: (tx: Tx) => Promise<number>,
  ): Promise<void>
  /** The recipient has answered; in the caller's transaction. */
  acknowledged(tx: Tx, bound: Bound, said: Acknowledgement): Promise<void>
  /** No answer yet; when it is looked for again, if ever. */
  unanswered(bound: Bound, followAt: Date | undefined): Promise<void>
  /** Not attempted: the endpoint is stopped, or it is not the time. */
  postponed(bound: Bound, until: Date, reason?: GatewayError): Promise<void>
  /** An attempt failed: later again, held for a person, or over. */
  failed(bound: Bound, error: unknown, moved: boolean): Promise<void>
}

export function createEndpointOutcomes(parts: {
  readonly db: Db
  readonly queue: Pick<Queue, 'enqueue'>
  readonly from: string
  readonly clock: () => Date
  readonly log: Log
}): EndpointOutcomes {
  const { db, queue, from, clock, log } = parts

  const again = (tx: Tx, id: string, startAfter: Date): Promise<void> =>
    queue.enqueue(tx, 'deliver-endpoint', { transfer: id }, { singletonKey: id, startAfter })
  /** Changes the row unless it is not in this state any more: a person may have decided otherwise. */
  const change = (row: OutboundRow, state: TransferState, apply: (tx: Tx) => Promise<void>): Promise<void> =>
    db.inTransaction(async tx => {
      if ((await lockState(tx, row.id)) === state) await apply(tx)
    })
  const auditEnd = (tx: Tx, { row, to }: Bound, reason?: string): Promise<void> =>
    appendAudit(
      tx,
      transferEnded(
        {
          source: { userId: from, requestor: true },
          destination: { userId: `endpoint:${to}` },
          objects: [
            { kind: 'study', studyInstanceUid: row.studyInstanceUid, instanceCount: row.objectCount },
            { kind: 'transfer', transferId: row.id },
          ],
        },
        reason,
      ),
    )
  const end = async (bound: Bound, state: 'held' | 'expired', code: ErrorCode, message: string): Promise<void> => {
    const { row, to } = bound
    await db.inTransaction(async tx => {
      const now = await lockState(tx, row.id)
      if (now !== 'planned' && now !== 'prepared' && now !== 'signed') return
      await writeState(tx, row.id, state, { code, message })
      await addStep(tx, row.id, state, { code })
      await auditEnd(tx, bound, code)
    })
    log.error({ transfer: row.id, endpoint: to, code }, `transfer ${state}: ${message}`)
  }

  return {
    async delivered(bound, detail, followAt, within) {
      const { row, to } = bound
      await change(row, 'signed', async tx => {
        await writeState(tx, row.id, 'delivered', { attempts: 0, ...(followAt && { nextAttemptAt: followAt }) })
        await addStep(tx, row.id, 'delivered', detail)
        await auditEnd(tx, bound)
        if (followAt) await again(tx, row.id, followAt)
        await within?.(tx)
      })
      log.info({ transfer: row.id, endpoint: to }, 'transfer delivered, not acknowledged')
    },
    async committed(bound) {
      const { row, to } = bound
      await change(row, 'delivered', async tx => {
        await writeState(tx, row.id, 'receipted')
        await addStep(tx, row.id, 'acknowledged', { by: 'storage-commitment', instances: row.objectCount })
        await auditEnd(tx, bound)
      })
      log.info({ transfer: row.id, endpoint: to }, 'the endpoint has committed to the transfer')
    },
    async uncommitted(bound, { code, message }, resends, reopen) {
      const { row, to } = bound
      await change(row, 'delivered', async tx => {
        const instances = await reopen(tx)
        await addStep(tx, row.id, 'not-committed', { instances })
        if (resends === undefined) {
          await writeState(tx, row.id, 'held', { code, message })
          await addStep(tx, row.id, 'held', { code })
          return await auditEnd(tx, bound, code)
        }
        const nextAttemptAt = new Date(clock().getTime() + pauseMs(resends))
        await writeState(tx, row.id, 'planned', { code, message, nextAttemptAt, attempts: resends + 1 })
        await again(tx, row.id, nextAttemptAt)
      })
      log.warn({ transfer: row.id, endpoint: to, code }, message)
    },
    async acknowledged(tx, bound, said) {
      const { row } = bound
      const isAccepted = said.outcome === 'accepted'
      await writeAcknowledgement(tx, row.id, said)
      await writeState(
        tx,
        row.id,
        isAccepted ? 'receipted' : 'refused',
        isAccepted ? {} : { code: 'ENDPOINT_REJECTED', message: said.reason || 'the recipient does not accept it' },
      )
      await addStep(tx, row.id, isAccepted ? 'acknowledged' : 'rejected', {
        by: said.takenBy,
        sha256: said.fileSha256.toString('hex'),
      })
      await auditEnd(tx, bound, isAccepted ? undefined : 'ENDPOINT_REJECTED')
    },
    unanswered: ({ row }, followAt) =>
      change(row, 'delivered', async tx => {
        await writeState(tx, row.id, 'delivered', followAt ? { nextAttemptAt: followAt } : {})
        if (followAt) await again(tx, row.id, followAt)
        else await addStep(tx, row.id, 'unanswered')
      }),
    async postponed(bound, until, reason) {
      const { row } = bound
      if (clock() > row.expiresAt)
        return await end(
          bound,
          'expired',
          reason?.code ?? 'MANIFEST_EXPIRED',
          reason?.message ?? 'not delivered in its time',
        )
      await db.inTransaction(async tx => {
        const state = await lockState(tx, row.id)
        if (state !== 'planned' && state !== 'prepared' && state !== 'signed') return
        await writeState(tx, row.id, state, { code: reason?.code, message: reason?.message, nextAttemptAt: until })
        await again(tx, row.id, until)
      })
    },
    async failed(bound, cause, moved) {
      const { row, to } = bound
      const error = isGatewayError(cause) ? cause : new GatewayError('UNAVAILABLE', 'internal error', { cause })
      if (error !== cause)
        log.error(
          { transfer: row.id, error: cause instanceof Error ? cause.name : typeof cause },
          'delivery failed unexpectedly',
        )
      if (error.meaning.retry === 'no') return await end(bound, 'held', error.code, error.message)
      if (clock() > row.expiresAt) return await end(bound, 'expired', error.code, error.message)
      // A line that fails now and then, but moves, is tried again at once.
      const attempts = moved ? 0 : row.attempts + 1
      const nextAttemptAt = new Date(clock().getTime() + pauseMs(attempts))
      await db.inTransaction(async tx => {
        const state = await lockState(tx, row.id)
        if (state !== 'planned' && state !== 'prepared' && state !== 'signed') return
        await writeState(tx, row.id, state, { code: error.code, message: error.message, nextAttemptAt, attempts })
        if (row.errorCode !== error.code) await addStep(tx, row.id, 'failed', { code: error.code, attempts })
        await again(tx, row.id, nextAttemptAt)
      })
      log.warn({ transfer: row.id, endpoint: to, code: error.code, attempts }, `transfer waits: ${error.message}`)
    },
  }
}
