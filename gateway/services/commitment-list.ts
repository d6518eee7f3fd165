/** What people read about storage commitments, both directions in one list, and what they ask for themselves. */

import { authorize } from '../../policy/authorize.ts'
import { instancesAccessed, requestorOf } from '../audit/event.ts'
import { appendAudit } from '../audit/log.ts'
import type { Db } from '../db/db.ts'
import { GatewayError } from '../errors.ts'
import type { Principal } from '../principal.ts'
import { loadForReplacement, removeInstance } from '../store/remove.ts'
import { type CommitmentItem, type CommitmentRow, loadCommitment, loadCommitmentItems } from './commitment-rows.ts'

/** A commitment with its instances. */
export interface CommitmentDetail extends CommitmentRow {
  readonly instances: readonly CommitmentItem[]
}

/** @throws GatewayError NOT_FOUND */
export async function loadCommitmentDetail(db: Db, id: string): Promise<CommitmentDetail> {
  const row = await loadCommitment(db.kysely, id)
  if (!row) throw new GatewayError('NOT_FOUND', 'no such storage commitment')
  return { ...row, instances: await loadCommitmentItems(db.kysely, id) }
}

/**
 * Takes instances out of our store that another node has committed to; their bytes go when nothing names them any
 * more. One transaction: all of them or none.
 *
 * @throws GatewayError STATE_CONFLICT when it is not committed, or other bytes of an instance wait for a decision
 */
export async function removeCommitted(db: Db, principal: Principal, row: CommitmentRow): Promise<number> {
  authorize(principal, 'commitment.remove')
  if (row.direction !== 'sent' || row.state !== 'committed') {
    throw new GatewayError('STATE_CONFLICT', 'expected a storage commitment that was granted to us')
  }
  const items = await loadCommitmentItems(db.kysely, row.id)
  return await db.removing(async tx => {
    let removed = 0
    for (const { sopInstanceUid } of items) {
      const instance = await loadForReplacement(tx, sopInstanceUid)
      if (!instance) continue
      const conflicts = await tx
        .updateTable('conflicts')
        .set({ instance: null })
        .where('instance', '=', instance.id)
        .returning('state')
        .execute()
      if (conflicts.some(conflict => conflict.state === 'held')) {
        throw new GatewayError(
          'STATE_CONFLICT',
          'other bytes of an instance wait for a decision: decide the conflict first',
        )
      }
      await removeInstance(tx, instance)
      removed += 1
    }
    await appendAudit(
      tx,
      instancesAccessed({
        action: 'D',
        reason: 'removed-after-commitment',
        participants: [requestorOf(principal)],
        objects: items.map(({ sopInstanceUid }) => ({ kind: 'instance', sopInstanceUid })),
        detail: { commitment: row.id, transaction: row.transactionUid, removed },
      }),
    )
    return removed
  })
}
