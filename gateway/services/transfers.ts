/** What a person may do to an outbound transfer: cancel it, or set it going again. */

import { randomBytes } from 'node:crypto'
import { sql } from 'kysely'
import { authorize } from '../../policy/authorize.ts'
import { eventTypes, requestorOf, securityAlert } from '../audit/event.ts'
import { appendAudit } from '../audit/log.ts'
import type { Db, Tx } from '../db/db.ts'
import { GatewayError } from '../errors.ts'
import type { Queue } from '../jobs/queue.ts'
import type { Principal } from '../principal.ts'
import { createAgreementCheck } from './agreement-check.ts'
import { gapOfTransfer } from './consent-transfers.ts'
import { deleteOutputs } from './prepared-rows.ts'
import { laneOf } from './transfer-lane.ts'

/** What a person says with an action. */
export interface Reasoned {
  /** In the person's words; stands in the time line and the audit log. */
  readonly why?: string
}

/** How a transfer is set going again. */
export interface Again extends Reasoned {
  /** Only from these states. */
  readonly from?: readonly string[]
  /** Named in the audit log. */
  readonly profile?: string
  /** What else changes in the same transaction. */
  readonly change?: (tx: Tx) => Promise<void>
}

/**
 * Stops a transfer that has no final receipt yet. A running delivery sees it before its next range
 * and tells the peer.
 *
 * @throws GatewayError NOT_FOUND, STATE_CONFLICT
 */
export async function cancelTransfer(
  options: { db: Db; queue: Pick<Queue, 'enqueue'> },
  id: string,
  principal: Principal,
  more: Reasoned = {},
): Promise<void> {
  authorize(principal, 'transfer.cancel')
  await options.db.inTransaction(tx => cancelIn(tx, options.queue, id, principal, more))
}

/** The same in a transaction of the caller, who has authorized it. */
export async function cancelIn(
  tx: Tx,
  queue: Pick<Queue, 'enqueue'>,
  id: string,
  principal: Principal,
  more: Reasoned = {},
): Promise<void> {
  const { state, modality, endpoint } = await lockTransfer(tx, id)
  if (state === 'cancelled') return
  if (['receipted', 'delivered', 'archived', 'expired', 'refused'].includes(state)) {
    throw new GatewayError('STATE_CONFLICT', `a transfer that is ${state} cannot be cancelled`)
  }
  await tx
    .updateTable('transfers')
    .set({
      state: 'cancelled',
      error_code: 'TRANSFER_CANCELLED',
      error: `cancelled by ${principal.id}`,
      updated_at: sql`now()`,
    })
    .where('id', '=', id)
    .execute()
  await settleQuarantine(tx, id, 'rejected', principal, more.why)
  await recordAction(tx, id, 'cancelled', principal, more)
  // A running delivery to a modality sees it when it writes its next results; there is nobody to be told.
  if (modality === null) await queue.enqueue(tx, laneOf({ modality, endpoint }), { transfer: id }, { singletonKey: id })
}

/**
 * Sets a held, refused, cancelled or expired transfer going again, as a new offer with a new
 * manifest; makes a transfer that waits for its next attempt try at once.
 *
 * @throws GatewayError NOT_FOUND, STATE_CONFLICT
 */
export async function retryTransfer(
  options: { db: Db; queue: Queue },
  id: string,
  principal: Principal,
  more: Again = {},
): Promise<void> {
  authorize(principal, 'transfer.retry')
  await options.db.inTransaction(async tx => {
    const { state, peer, modality, endpoint, destination } = await lockTransfer(tx, id)
    if (more.from && !more.from.includes(state))
      throw new GatewayError('STATE_CONFLICT', `expected a transfer that is ${more.from.join(' or ')}, it is ${state}`)
    if (state === 'receipted' || state === 'delivered' || state === 'archived')
      throw new GatewayError('STATE_CONFLICT', 'the transfer has arrived already')
    const gap = (await gapOfTransfer(tx, id)) ?? (await createAgreementCheck()(tx, id))
    if (gap) throw new GatewayError(gap.code, gap.message)
    if (['held', 'refused', 'cancelled', 'expired'].includes(state)) {
      // What an archive has taken, it keeps.
      const isToPeer = modality === null && endpoint === null
      const resolved = isToPeer ? (peer ?? (await resolvePeer(tx, destination))) : null
      await tx
        .updateTable('transfers')
        .set({
          state: 'planned',
          peer: resolved,
          manifest: null,
          manifest_id: null,
          nonce: randomBytes(16),
          manifest_created: new Date(),
          expires_at: new Date(Date.now() + 7 * 24 * 3_600_000),
          attempts: 0,
          bytes_total: sql<number>`(select coalesce(sum(size_bytes), 0)::bigint from transfer_items where transfer = ${id}::uuid)`,
          ...(modality === null && { bytes_acknowledged: 0 }),
          error_code: null,
          error: null,
          next_attempt_at: null,
          updated_at: sql`now()`,
        })
        .where('id', '=', id)
        .execute()
      await tx.deleteFrom('receipts').where('transfer', '=', id).where('direction', '=', 'received').execute()
      await deleteOutputs(tx, id)
    } else {
      await tx
        .updateTable('transfers')
        .set({ next_attempt_at: null, updated_at: sql`now()` })
        .where('id', '=', id)
        .execute()
    }
    await more.change?.(tx)
    await settleQuarantine(tx, id, 'released', principal, more.why)
    await recordAction(tx, id, 'retried', principal, more)
    await options.queue.enqueue(tx, laneOf({ modality, endpoint }), { transfer: id }, { singletonKey: id })
  })
}

async function lockTransfer(
  tx: Tx,
  id: string,
): Promise<{
  state: string
  peer: string | null
  modality: string | null
  endpoint: string | null
  destination: string
}> {
  const row = await tx
    .selectFrom('transfers')
    .select(['state', 'peer', 'modality', 'endpoint', 'destination'])
    .where('id', '=', id)
    .forUpdate()
    .executeTakeFirst()
  if (!row) throw new GatewayError('NOT_FOUND', 'no such transfer')
  return row
}

async function resolvePeer(tx: Tx, destination: string): Promise<string> {
  const row = await sql<{ id: string }>`
    select peers.id from policy_active join policy_versions using (version), peers,
           lateral (select document -> 'destinations' -> ${destination}::text ->> 'peer' as peer) named
    -- A site may call itself anything, another site's id too.
    where peers.state = 'active'
      and named.peer = case when named.peer ~ '^[0-9a-f]{32}$' then peers.site_id else peers.name end`.execute(tx)
  const [peer] = row.rows
  if (!peer)
    throw new GatewayError('STATE_CONFLICT', `destination ${destination} names no active peer: pair with it first`)
  return peer.id
}

/** What held instances of it were held for is decided with it. */
async function settleQuarantine(
  tx: Tx,
  transfer: string,
  state: 'released' | 'rejected',
  principal: Principal,
  why: string | undefined,
): Promise<void> {
  await tx
    .updateTable('quarantine')
    .set({ state, decided_at: sql<Date>`now()`, decided_by: principal.id, why: why ?? null })
    .where('transfer', '=', transfer)
    .where('state', '=', 'held')
    .execute()
}

async function recordAction(
  tx: Tx,
  id: string,
  step: string,
  principal: Principal,
  { why, profile }: Pick<Again, 'why' | 'profile'>,
): Promise<void> {
  const said = { ...(why !== undefined && { why }), ...(profile !== undefined && { profile }) }
  await tx
    .insertInto('transfer_steps')
    .values({ transfer: id, step, detail: JSON.stringify({ by: principal.id, ...said }) })
    .execute()
  await appendAudit(
    tx,
    securityAlert({
      type: eventTypes.restrictedFunction,
      participants: [requestorOf(principal)],
      objects: [{ kind: 'transfer', transferId: id }],
      reason: step,
      ...(Object.keys(said).length > 0 && { detail: said }),
    }),
  )
}
