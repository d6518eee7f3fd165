/**
 * Storage commitment in both roles (DICOM PS3.4 Annex J).
 *
 * As its provider we answer what peers ask: the request is durable before it is acknowledged, a job reads
 * the bytes of every instance, and the answer is carried to the peer, on the association that is still open
 * or on a new one, for days if need be. As its user we ask an archive after sending and believe its answer
 * only: a request that is not answered in time is asked again, with a new transaction.
 */

import { randomBytes, randomUUID } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import { authorize } from '../../policy/authorize.ts'
import { type AuditEvent, type AuditObject, instancesAccessed, instancesTransferred } from '../audit/event.ts'
import { appendAudit } from '../audit/log.ts'
import type { Db, Tx } from '../db/db.ts'
import { GatewayError, isGatewayError } from '../errors.ts'
import type { Queue } from '../jobs/queue.ts'
import type { Log } from '../log.ts'
import type { Principal } from '../principal.ts'
import type { Blobs } from '../store/blobs.ts'
import {
  type CommitmentReport,
  type CommitmentRequest,
  type CommitmentRow,
  clearOutcomes,
  contentDigest,
  failureReason,
  findReceived,
  findStaleCommitments,
  forgetCommitments,
  type InstanceReference,
  insertCommitment,
  isForEndpoint,
  loadCommitment,
  loadCommitmentItems,
  loadReport,
  lockAsked,
  lockCommitment,
  writeCommitment,
  writeOutcomes,
} from './commitment-rows.ts'
import { loadStudiesOf } from './commitment-studies.ts'
import { verifyItems } from './commitment-verify.ts'
import { pauseMs } from './outbound-outcomes.ts'
import { createStateWatch } from './state-watch.ts'

/** How commitments travel: the DICOM side, which knows where an AE title is. */
export interface CommitmentWire {
  /**
   * Tells a requestor the outcome on a new association.
   *
   * @throws GatewayError PEER_UNREACHABLE, ASSOCIATION_REFUSED, PEER_PROTOCOL, REMOTE_STATUS, NOT_FOUND for an
   *   AE title that is not registered
   */
  report(aeTitle: string, report: CommitmentReport, signal: AbortSignal): Promise<void>
  /**
   * Asks an archive; `onReport` takes an answer that comes on the same association. Resolves when the
   * archive has acknowledged the request and the association is over.
   *
   * @throws as `report`
   */
  ask(
    aeTitle: string,
    request: CommitmentRequest,
    onReport: (report: CommitmentReport) => Promise<void>,
    signal: AbortSignal,
  ): Promise<void>
}

/** The other side of a commitment. */
export interface CommitmentPeer {
  readonly aeTitle: string
  readonly remoteAddress?: string
}

/** Something an archive is to commit to. */
export interface CommitmentWish {
  readonly aeTitle: string
  readonly transfer?: string
  readonly instances: readonly InstanceReference[]
  /** Until when it is asked, and asked again. */
  readonly expiresAt: Date
}

/** Who answers what we have asked: not a caller with wishes of its own. */
export type Answerer = Pick<Principal, 'id' | 'address'>

export interface Commitments {
  /**
   * Takes a request. It is durable, and its verification on its way, when this returns. The same request
   * again is verified and answered again; its transaction UID with other instances is answered with failure
   * 0131H for each of them.
   *
   * @throws GatewayError TOO_LARGE, BAD_REQUEST, DATABASE_UNAVAILABLE
   */
  receive(principal: Principal, peer: CommitmentPeer, request: CommitmentRequest): Promise<{ readonly id: string }>
  /**
   * The answer to a received request for somebody who can give it on the association at hand, as soon as it
   * is known, but not before `fromMs`; undefined when that takes longer than `toMs`, the signal aborts, or it has
   * been given. Until then no other association is opened for it, and after it when `unreported` is called.
   */
  awaitReport(
    id: string,
    wait: { readonly fromMs: number; readonly toMs: number },
    signal: AbortSignal,
  ): Promise<CommitmentReport | undefined>
  /** The answer could not be given on the association at hand: another one is opened. */
  unreported(id: string): Promise<void>
  /** The requestor has acknowledged the answer. */
  reported(id: string): Promise<void>
  /** Asks an archive, from the moment at which the caller's transaction is committed; one id for each request. */
  ask(tx: Tx, wish: CommitmentWish): Promise<readonly string[]>
  /**
   * Takes an archive's answer to what we asked.
   *
   * @throws GatewayError NOT_FOUND for a transaction that we never began
   */
  answered(by: Answerer, report: CommitmentReport): Promise<void>
  /** The job `verify-commitment`. */
  verify(id: string, signal: AbortSignal): Promise<void>
  /** The job `carry-commitment`. */
  carry(id: string, signal: AbortSignal): Promise<void>
  /** Gives commitments a job that nothing has happened to for long; forgets those that ended long ago. */
  recover(): Promise<void>
}

export interface CommitmentParts {
  readonly db: Db
  readonly blobs: Pick<Blobs, 'open'>
  readonly queue: Pick<Queue, 'enqueue'>
  readonly wire: CommitmentWire
  /** Our AE title, for the audit log. */
  readonly aeTitle: string
  readonly log: Log
  readonly clock?: () => Date
  /** How long an archive has to answer before it is asked again. */
  readonly answerWithinMs?: number
}

/** The most instances of one request. An N-ACTION of 1 MiB has some 8,000. */
export const maxInstances = 20_000
/** The most instances that we ask about in one request. */
const instancesPerRequest = 2_000
const instancesPerPage = 200
const reportLifetimeMs = 7 * 24 * 3_600_000
/** Safety net for an answer that an association had promised to give. */
const associationGraceMs = 60_000

/** Opens the service; `verify` and `carry` are to be registered as the handlers of their lanes. */
export function openCommitments(parts: CommitmentParts): Commitments {
  const { db, queue, wire, clock = () => new Date() } = parts
  const answerWithinMs = parts.answerWithinMs ?? 3_600_000
  const log = parts.log.child({ part: 'commitment' })
  const watch = createStateWatch()
  /** Requests whose association waits for the answer, in this process. */
  const attended = new Set<string>()

  const later = (ms: number): Date => new Date(clock().getTime() + ms)
  const enqueueCarry = (tx: Tx, id: string, startAfter?: Date): Promise<void> =>
    queue.enqueue(tx, 'carry-commitment', { commitment: id }, { singletonKey: id, ...(startAfter && { startAfter }) })
  const wakeTransfer = async (tx: Tx, row: CommitmentRow): Promise<void> => {
    if (row.transfer === undefined) return
    const lane = (await isForEndpoint(tx, row.transfer)) ? 'deliver-endpoint' : 'archive'
    await queue.enqueue(tx, lane, { transfer: row.transfer }, { singletonKey: row.transfer })
  }

  /** Which studies the instances that we hold belong to. */
  const objectsOf = async (tx: Tx, id: string): Promise<AuditObject[]> => await loadStudiesOf(tx, id)

  const auditVerified = async (tx: Tx, row: CommitmentRow, counts: Counts): Promise<AuditEvent> =>
    instancesAccessed({
      action: 'R',
      outcome: counts.failed === 0 ? 'success' : counts.damaged > 0 ? 'serious-failure' : 'minor-failure',
      reason: counts.damaged > 0 ? 'STORAGE_CORRUPT' : 'storage-commitment',
      participants: [{ userId: row.aeTitle, requestor: true }, { userId: parts.aeTitle }],
      objects: await objectsOf(tx, row.id),
      detail: { commitment: row.id, transaction: row.transactionUid, ...counts },
    })

  const verify = async (row: CommitmentRow, signal: AbortSignal): Promise<void> => {
    let damaged = 0
    for (;;) {
      const page = await loadCommitmentItems(db.kysely, row.id, { limit: instancesPerPage, which: 'open' })
      if (page.length === 0) break
      const verified = row.isDuplicate
        ? page.map(({ ordinal }) => ({ ordinal, outcome: failureReason.duplicateTransaction, isDamaged: false }))
        : await verifyItems(parts, page, row.aeTitle, signal)
      for (const [index, item] of verified.entries()) {
        if (!item.isDamaged) continue
        damaged += 1
        log.error(
          { commitment: row.id, sopInstanceUid: page[index]?.sopInstanceUid },
          'the stored bytes of an instance are missing or damaged; run hanse fsck',
        )
      }
      await writeOutcomes(db.kysely, row.id, verified)
    }
    const { committed, failed } = await loadReport(db.kysely, row)
    await db.inTransaction(async tx => {
      const locked = await lockCommitment(tx, row.id)
      if (locked?.state !== 'verifying') return
      const counts = { committed: committed.length, failed: failed.length, damaged }
      await writeCommitment(tx, row.id, 'reporting', { failedCount: failed.length, attempts: 0 })
      await appendAudit(tx, await auditVerified(tx, row, counts))
      await enqueueCarry(tx, row.id, attended.has(row.id) ? later(associationGraceMs) : undefined)
    })
    log.info(
      { commitment: row.id, peer: row.aeTitle, committed: committed.length, failed: failed.length },
      'verified what a peer asks us to commit to',
    )
    watch.notify(row.id)
  }

  /** The next attempt, or the end of all attempts. */
  const failed = async (row: CommitmentRow, cause: unknown): Promise<void> => {
    const error = isGatewayError(cause) ? cause : new GatewayError('UNAVAILABLE', 'internal error', { cause })
    const isOver = clock() > row.expiresAt
    await db.inTransaction(async tx => {
      const locked = await lockCommitment(tx, row.id)
      if (locked?.state !== row.state) return // answered or told meanwhile
      const attempts = row.attempts + 1
      const trouble = { code: error.code, message: error.message, attempts }
      if (isOver) {
        await writeCommitment(tx, row.id, 'abandoned', trouble)
        return await wakeTransfer(tx, row)
      }
      const nextAttemptAt = later(pauseMs(attempts))
      await writeCommitment(tx, row.id, row.state, { ...trouble, nextAttemptAt })
      await enqueueCarry(tx, row.id, nextAttemptAt)
    })
    const context = { commitment: row.id, peer: row.aeTitle, code: error.code, attempts: row.attempts + 1 }
    log.warn(context, `storage commitment ${isOver ? 'given up' : 'waits'}: ${error.message}`)
  }

  const enqueueNow = (id: string): Promise<void> => db.inTransaction(tx => enqueueCarry(tx, id))

  const reported = async (id: string): Promise<void> => {
    await db.inTransaction(async tx => {
      const row = await lockCommitment(tx, id)
      if (row?.state === 'reporting') await writeCommitment(tx, id, 'reported')
    })
  }

  const askNow = async (row: CommitmentRow, signal: AbortSignal): Promise<void> => {
    const instances = await loadCommitmentItems(db.kysely, row.id)
    const request = { transactionUid: row.transactionUid, instances }
    const onReport = (report: CommitmentReport): Promise<void> => answered({ id: row.aeTitle }, report)
    await wire.ask(row.aeTitle, request, onReport, signal)
    await db.inTransaction(async tx => {
      const locked = await lockCommitment(tx, row.id)
      if (locked?.state !== 'asking') return // it was answered already
      const nextAttemptAt = later(answerWithinMs)
      await writeCommitment(tx, row.id, 'waiting', { attempts: 0, nextAttemptAt })
      await enqueueCarry(tx, row.id, nextAttemptAt)
    })
  }

  /** No answer came in time: a new transaction asks for the same instances. */
  const askAgain = async (row: CommitmentRow): Promise<void> => {
    const instances = await loadCommitmentItems(db.kysely, row.id)
    await db.inTransaction(async tx => {
      const locked = await lockCommitment(tx, row.id)
      if (locked?.state !== 'waiting') return
      const isOver = clock() > row.expiresAt
      const message = 'the archive did not answer in time'
      await writeCommitment(tx, row.id, isOver ? 'abandoned' : 'unanswered', { code: 'PEER_UNREACHABLE', message })
      if (isOver) return await wakeTransfer(tx, row)
      const { aeTitle, transfer, expiresAt } = row
      await ask(tx, { aeTitle, instances, expiresAt, ...(transfer !== undefined && { transfer }) })
    })
    log.warn({ commitment: row.id, peer: row.aeTitle }, 'an archive did not answer in time, asking again')
  }

  const ask = async (tx: Tx, wish: CommitmentWish): Promise<readonly string[]> => {
    const ids: string[] = []
    for (let start = 0; start < wish.instances.length; start += instancesPerRequest) {
      const id = randomUUID()
      const instances = wish.instances.slice(start, start + instancesPerRequest)
      await insertCommitment(
        tx,
        {
          id,
          direction: 'sent',
          aeTitle: wish.aeTitle,
          transfer: wish.transfer,
          state: 'asking',
          expiresAt: wish.expiresAt,
        },
        { transactionUid: newTransactionUid(), instances },
      )
      await enqueueCarry(tx, id)
      ids.push(id)
    }
    return ids
  }

  const answered = async (by: Answerer, report: CommitmentReport): Promise<void> => {
    const row = await db.inTransaction(async tx => {
      const asked = await lockAsked(tx, report.transactionUid)
      if (!asked) throw new GatewayError('NOT_FOUND', 'no such storage commitment transaction')
      if (asked.state === 'committed') return asked
      const outcomes = outcomesOf(await loadCommitmentItems(tx, asked.id), report)
      await writeOutcomes(tx, asked.id, outcomes)
      const failedCount = outcomes.filter(item => item.outcome !== 0).length
      await writeCommitment(tx, asked.id, failedCount === 0 ? 'committed' : 'failed', { failedCount })
      const committed = asked.instanceCount - failedCount
      await appendAudit(
        tx,
        instancesTransferred({
          action: 'R',
          outcome: failedCount === 0 ? 'success' : 'minor-failure',
          reason: 'storage-commitment',
          source: { userId: parts.aeTitle, requestor: true },
          destination: { userId: by.id, ...(by.address && { address: by.address }) },
          objects: [
            ...(await objectsOf(tx, asked.id)),
            ...(asked.transfer === undefined ? [] : [{ kind: 'transfer' as const, transferId: asked.transfer }]),
          ],
          detail: { commitment: asked.id, transaction: asked.transactionUid, committed, failed: failedCount },
        }),
      )
      await wakeTransfer(tx, asked)
      return asked
    })
    const failed = report.failed.length
    log.info({ commitment: row.id, peer: by.id, committed: report.committed.length, failed }, 'an archive answered')
  }

  return {
    async receive(principal, peer, request) {
      authorize(principal, 'commitment.request')
      const { instances, transactionUid } = request
      if (instances.length === 0) throw new GatewayError('BAD_REQUEST', 'expected at least one instance')
      if (instances.length > maxInstances) {
        throw new GatewayError('TOO_LARGE', `expected at most ${maxInstances} instances`)
      }
      return await db.inTransaction(async tx => {
        const known = await findReceived(tx, peer.aeTitle, transactionUid)
        const digest = contentDigest(instances)
        const same = known.find(row => row.contentSha256.equals(digest))
        const id = same?.id ?? randomUUID()
        if (same) {
          await clearOutcomes(tx, id)
          await writeCommitment(tx, id, 'verifying', { failedCount: 0, attempts: 0 })
        } else {
          const row = { id, direction: 'received', state: 'verifying', expiresAt: later(reportLifetimeMs) } as const
          await insertCommitment(tx, { ...row, aeTitle: peer.aeTitle, isDuplicate: known.length > 0 }, request)
        }
        await appendAudit(
          tx,
          instancesAccessed({
            action: 'R',
            reason: 'storage-commitment-requested',
            participants: [
              {
                userId: principal.id,
                requestor: true,
                ...(peer.remoteAddress !== undefined && { address: peer.remoteAddress }),
              },
              { userId: parts.aeTitle },
            ],
            objects: await objectsOf(tx, id),
            detail: { commitment: id, transaction: transactionUid, instances: instances.length },
          }),
        )
        await queue.enqueue(tx, 'verify-commitment', { commitment: id }, { singletonKey: id })
        return { id }
      })
    },

    async awaitReport(id, { fromMs, toMs }, signal) {
      attended.add(id)
      let isTaken = false
      const begin = Date.now()
      const until = begin + toMs
      const done = new AbortController()
      const either = AbortSignal.any([signal, done.signal])
      try {
        for (;;) {
          const rest = Math.max(0, begin + fromMs - Date.now())
          if (rest > 0) await delay(rest, undefined, { signal }).catch(() => undefined)
          const wake = watch.next(id, Math.max(0, until - Date.now()), either)
          const row = await loadCommitment(db.kysely, id)
          if (row?.state === 'reporting' && !signal.aborted) {
            isTaken = true
            return await loadReport(db.kysely, row)
          }
          if (row?.state !== 'verifying' || signal.aborted || Date.now() >= until) return undefined
          await wake
        }
      } finally {
        done.abort()
        attended.delete(id)
        // Verified meanwhile, and nobody is here any more to tell it.
        if (!isTaken) await enqueueNow(id)
      }
    },

    reported,
    unreported: enqueueNow,
    ask,
    answered,

    async verify(id, signal) {
      const row = await loadCommitment(db.kysely, id)
      if (row?.state === 'verifying') await verify(row, signal)
    },

    async carry(id, signal) {
      const row = await loadCommitment(db.kysely, id)
      if (!row || (row.nextAttemptAt && row.nextAttemptAt.getTime() > clock().getTime() + 2_000)) return
      try {
        if (row.state === 'reporting') {
          await wire.report(row.aeTitle, await loadReport(db.kysely, row), signal)
          await reported(id)
        } else if (row.state === 'asking') await askNow(row, signal)
        else if (row.state === 'waiting') await askAgain(row)
      } catch (error) {
        if (signal.aborted || isGatewayError(error, 'DATABASE_UNAVAILABLE')) throw error
        await failed(row, error)
      }
    },

    async recover() {
      await forgetCommitments(db.kysely)
      for (const { id, state } of await findStaleCommitments(db.kysely)) {
        const lane = state === 'verifying' ? 'verify-commitment' : 'carry-commitment'
        await db.inTransaction(tx => queue.enqueue(tx, lane, { commitment: id }, { singletonKey: id }))
      }
    },
  }
}

interface Counts {
  readonly committed: number
  readonly failed: number
  readonly damaged: number
  readonly [name: string]: number
}

/** Outcomes by place. What an answer names twice, or not at all, is not committed. */
function outcomesOf(
  items: readonly (InstanceReference & { readonly ordinal: number })[],
  report: CommitmentReport,
): { ordinal: number; outcome: number | null }[] {
  const failed = new Map(report.failed.map(item => [item.sopInstanceUid, item.reason]))
  const committed = new Map(report.committed.map(item => [item.sopInstanceUid, item.sopClassUid]))
  return items.map(({ ordinal, sopClassUid, sopInstanceUid }) => {
    const reason = failed.get(sopInstanceUid)
    if (reason !== undefined) return { ordinal, outcome: reason === 0 ? failureReason.processingFailure : reason }
    const answeredClass = committed.get(sopInstanceUid)
    if (answeredClass === undefined) return { ordinal, outcome: null }
    return { ordinal, outcome: answeredClass === sopClassUid ? 0 : failureReason.classInstanceConflict }
  })
}

/** A UID of 122 random bits (PS3.5 §B.2): nobody can answer a transaction that was not told them. */
function newTransactionUid(): string {
  const bytes = randomBytes(16)
  bytes.writeUInt8((bytes.readUInt8(6) & 0x0f) | 0x40, 6)
  bytes.writeUInt8((bytes.readUInt8(8) & 0x3f) | 0x80, 8)
  return `2.25.${BigInt(`0x${bytes.toString('hex')}`)}`
}
