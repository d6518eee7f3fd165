/** What people, senders and time decide about inbound transfers that are not through. */

import { Bitmap, type LeafRun } from '../../peers/bitmap.ts'
import type { Identifying } from '../../peers/identifying.ts'
import { openIdentifying } from '../../peers/identifying.ts'
import type { LeafMap } from '../../peers/leaves.ts'
import type { ObjectRefusal, ReceiptKind } from '../../peers/receipt.ts'
import { authorize } from '../../policy/authorize.ts'
import { appendAudit } from '../audit/log.ts'
import type { InboundState } from '../db/schema.ts'
import { decode, integer, list, object, text } from '../decode.ts'
import { type ErrorCode, GatewayError } from '../errors.ts'
import type { Principal } from '../principal.ts'
import { draftReceipt, type InboundContext, transferEnded } from './inbound-context.ts'
import {
  clearHold,
  findOverdue,
  findStaged,
  type InboundRow,
  loadInbound,
  lockInbound,
  setState,
  writeReceived,
} from './inbound-rows.ts'
import { issueReceipt } from './receipts.ts'
import { addStep } from './transfer-steps.ts'

export interface InboundDecisions {
  /**
   * A person wants a held transfer tried again: imported anew, or, where bytes were not the signed
   * ones, sent again by the peer.
   *
   * @throws GatewayError NOT_FOUND, STATE_CONFLICT unless it is held
   */
  release(id: string, principal: Principal, why?: string): Promise<void>
  /** A person refuses a held transfer: a signed refusal for the sender, the bytes are removed. @throws as `release` */
  reject(id: string, principal: Principal, why?: string): Promise<void>
  /** The identifying text that the sender sealed to us, for a person who may see it; undefined when there is none. */
  identifying(id: string): Promise<Identifying | undefined>
  /** Ends a transfer at its sender's wish. @throws GatewayError STATE_CONFLICT once imported or refused */
  cancelInbound(id: string, reason: string): Promise<void>
  /** Ends transfers whose manifest was over before `before`, or whose peer was revoked: both hold disk space. */
  expireOverdue(before: Date): Promise<void>
}

export function createInboundDecisions(context: InboundContext): InboundDecisions {
  const { db, watch } = context

  const end = async (
    id: string,
    from: readonly InboundState[],
    to: {
      state: InboundState & ReceiptKind
      code: ErrorCode
      message: string
      principal?: string
      why?: string | undefined
    },
  ): Promise<void> => {
    const row = await known(context, id)
    const { manifest } = await context.plans.load(db, id)
    const party = { siteId: row.peer.siteId, manifestId: row.manifestId }
    const draft = await draftReceipt(context, party, { kind: to.state, code: to.code })
    const isDone = await db.inTransaction(async tx => {
      const locked = await lockInbound(tx, id)
      if (locked?.state === to.state) return true // a repeat
      if (!locked || !from.includes(locked.state)) return false
      await issueReceipt(tx, id, draft, context.keys)
      await setState(tx, id, to.state, { code: to.code, message: to.message })
      const said = to.why !== undefined && { why: to.why }
      await addStep(tx, id, to.state, {
        code: to.code,
        ...(to.principal !== undefined && { by: to.principal }),
        ...said,
      })
      const about = { id, manifestId: row.manifestId, manifest }
      const requestor = to.principal !== undefined && { requestor: to.principal }
      await appendAudit(
        tx,
        transferEnded(context, row.peer.siteId, about, {
          outcome: 'serious-failure',
          reason: to.code,
          ...requestor,
          ...(said && { detail: said }),
        }),
      )
      return true
    })
    if (!isDone) throw new GatewayError('STATE_CONFLICT', `expected a transfer that is ${from.join(' or ')}`)
    watch.notify(id)
    await context.guard.idle(id)
    // The same site, revoked and paired again, may have offered the same manifest anew.
    const isWanted = (await findStaged(db.kysely, [row.manifestId])).has(row.manifestId)
    if (!isWanted) await context.staging.remove(row.manifestId)
    context.plans.forget(id)
  }

  return {
    async release(id, principal, why) {
      authorize(principal, 'transfer.decide')
      const row = await known(context, id)
      const { map, manifest, early } = await context.plans.load(db, id)
      await early.settle()
      const again = readRefusals(await loadRefusals(context, id)).filter(({ code }) => code === 'OBJECT_DIGEST')
      const runs = again.map(({ object }) => map.runOf(object))
      const touched = new Set(runs.flatMap(run => objectsIn(map, run)))
      if (touched.size > 0) await context.staging.unshare(row.manifestId, [...touched])
      await db.inTransaction(async tx => {
        const locked = await lockInbound(tx, id)
        if (locked?.state !== 'held') throw new GatewayError('STATE_CONFLICT', 'expected a transfer that is held')
        await clearHold(tx, id)
        if (runs.length === 0) {
          await setState(tx, id, 'committing')
          await context.queue.enqueue(tx, 'commit-inbound', { transfer: id }, { singletonKey: id })
        } else {
          const received = new Bitmap(locked.leafCount, Uint8Array.from(locked.received.bytes))
          for (const run of runs) received.remove(run)
          await writeReceived(tx, id, received, locked.bytesTotal - bytesOf(map, received.complement()))
          await setState(tx, id, 'receiving')
        }
        const said = why !== undefined && { why }
        await addStep(tx, id, 'released', { by: principal.id, again: again.length, ...said })
        const about = { id, manifestId: row.manifestId, manifest }
        const detail = { released: 1, again: again.length, ...said }
        await appendAudit(
          tx,
          transferEnded(context, row.peer.siteId, about, { outcome: 'success', requestor: principal.id, detail }),
        )
      })
      context.plans.forget(id) // digests taken on arrival are of the old bytes
      watch.notify(id)
    },
    async reject(id, principal, why) {
      authorize(principal, 'transfer.decide')
      const message = 'refused by a person'
      await end(id, ['held'], { state: 'refused', code: 'OFFER_REFUSED', message, principal: principal.id, why })
    },
    cancelInbound: (id, reason) =>
      end(id, ['receiving', 'committing', 'held'], {
        state: 'cancelled',
        code: 'TRANSFER_CANCELLED',
        message: `cancelled by the sender (${reason})`,
      }),
    async expireOverdue(before) {
      for (const { id, isRevoked } of await findOverdue(db.kysely, before)) {
        const why = isRevoked
          ? { code: 'PEER_REVOKED' as const, message: 'the peer was revoked before it was complete' }
          : { code: 'MANIFEST_EXPIRED' as const, message: 'expired before it was complete' }
        await end(id, ['receiving'], { state: 'expired', ...why })
      }
    },
    async identifying(id) {
      await known(context, id)
      const { manifest } = await context.plans.load(db, id)
      return openIdentifying(manifest, context.keys)
    },
  }
}

async function known(context: InboundContext, id: string): Promise<InboundRow> {
  const row = await loadInbound(context.db.kysely, id)
  if (!row) throw new GatewayError('NOT_FOUND', 'no such transfer')
  return row
}

async function loadRefusals({ db }: InboundContext, id: string): Promise<unknown> {
  const row = await db.kysely.selectFrom('inbound_transfers').select('refusals').where('id', '=', id).executeTakeFirst()
  return row?.refusals
}

/** The objects that have bytes in a run of leaves, however long. */
function objectsIn(map: LeafMap, run: LeafRun): number[] {
  return map.pieces(run).map(piece => piece.ordinal)
}

function bytesOf(map: LeafMap, leaves: Bitmap): number {
  let bytes = 0
  for (let run = leaves.nextRun(0, 1); run; run = leaves.nextRun(run.to + 1, 1)) bytes += map.runBytes(run)
  return bytes
}

const refusalList = list(
  object(
    { object: integer({ min: 0 }), sopInstanceUid: text({ max: 64 }), code: text({ max: 64 }) },
    { unknown: 'keep' },
  ),
)

function readRefusals(raw: unknown): readonly ObjectRefusal[] {
  const decoded = decode(refusalList, raw ?? [])
  return decoded.ok ? decoded.value : []
}
