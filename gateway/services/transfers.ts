/** What a person may do to an outbound transfer: cancel it, or set it going again. */

import { randomBytes } from 'node:crypto'
import { sql } from 'kysely'
import { authorize } from '../../policy/authorize.ts'
import { eventTypes, securityAlert } from '../audit/event.ts'
import { appendAudit } from '../audit/log.ts'
import type { Db, Tx } from '../db/db.ts'
import { GatewayError } from '../errors.ts'
import type { Queue } from '../jobs/queue.ts'
import type { Principal } from '../principal.ts'
import { gapOfTransfer } from './consent-transfers.ts'
import { deleteOutputs } from './prepared-rows.ts'

/**
 * Stops a transfer that has no final receipt yet. A running delivery sees it before its next range
 * and tells the peer.
 *
 * @throws GatewayError NOT_FOUND, STATE_CONFLICT
 */
export async function cancelTransfer(
  options: { db: Db; queue: Queue },
  id: string,
  principal: Principal,
): Promise<void> {
  authorize(principal, 'transfer.cancel')
  await options.db.inTransaction(async tx => {
    const { state, modality } = await lockTransfer(tx, id)
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
    await recordAction(tx, id, 'cancelled', principal)
    // A running delivery to a modality sees it when it writes its next results; there is nobody to be told.
    if (modality === null) await options.queue.enqueue(tx, 'deliver', { transfer: id }, { singletonKey: id })
  })
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
): Promise<void> {
  authorize(principal, 'transfer.retry')
  await options.db.inTransaction(async tx => {
    const { state, peer, modality, destination } = await lockTransfer(tx, id)
    if (state === 'receipted' || state === 'delivered' || state === 'archived')
      throw new GatewayError('STATE_CONFLICT', 'the transfer has arrived already')
    const gap = await gapOfTransfer(tx, id)
    if (gap) throw new GatewayError(gap.code, gap.message)
    if (['held', 'refused', 'cancelled', 'expired'].includes(state)) {
      // What an archive has taken, it keeps.
      const resolved = modality === null ? (peer ?? (await resolvePeer(tx, destination))) : null
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
    await recordAction(tx, id, 'retried', principal)
    await options.queue.enqueue(tx, modality === null ? 'deliver' : 'archive', { transfer: id }, { singletonKey: id })
  })
}

async function lockTransfer(
  tx: Tx,
  id: string,
): Promise<{ state: string; peer: string | null; modality: string | null; destination: string }> {
  const row = await tx
    .selectFrom('transfers')
    .select(['state', 'peer', 'modality', 'destination'])
    .where('id', '=', id)
    .forUpdate()
    .executeTakeFirst()
  if (!row) throw new GatewayError('NOT_FOUND', 'no such transfer')
  return row
}

async function resolvePeer(tx: Tx, destination: string): Promise<string> {
  const row = await sql<{ id: string }>`
    select peers.id from policy_active join policy_versions using (version), peers
    where peers.state = 'active'
      and (document -> 'destinations' -> ${destination}::text ->> 'peer') in (peers.name, peers.site_id)`.execute(tx)
  const [peer] = row.rows
  if (!peer)
    throw new GatewayError('STATE_CONFLICT', `destination ${destination} names no active peer: pair with it first`)
  return peer.id
}

async function recordAction(tx: Tx, id: string, step: string, principal: Principal): Promise<void> {
  await tx
    .insertInto('transfer_steps')
    .values({ transfer: id, step, detail: JSON.stringify({ by: principal.id }) })
    .execute()
  await appendAudit(
    tx,
    securityAlert({
      type: eventTypes.restrictedFunction,
      participants: [
        { userId: principal.id, requestor: true, ...(principal.address && { address: principal.address }) },
      ],
      objects: [{ kind: 'transfer', transferId: id }],
      reason: step,
    }),
  )
}
