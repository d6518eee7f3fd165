/**
 * Recalls: what a peer was sent is asked back, because a consent was withdrawn or a person wants it. The peer is told by
 * a signed message and a person there decides; both sides keep the signed answer. Data of trials are asked back only when
 * a person names the transfer.
 */
import { randomUUID } from 'node:crypto'
import { type Selectable, sql } from 'kysely'
import type { Carrier } from '../../peers/carrier.ts'
import { sha256Hex } from '../../peers/envelope.ts'
import type { SiteKeys } from '../../peers/keys.ts'
import { readStoredOffer } from '../../peers/offer.ts'
import type { Peer } from '../../peers/peer.ts'
import {
  openRecall,
  openRecallAnswer,
  type RecallOutcome,
  type RecallReason,
  signRecall,
  signRecallAnswer,
} from '../../peers/recall.ts'
import type { Peers } from '../../peers/registry.ts'
import { authorize } from '../../policy/authorize.ts'
import { eventTypes, type Participant, requestorOf, securityAlert } from '../audit/event.ts'
import { appendAudit } from '../audit/log.ts'
import type { Db, Tx } from '../db/db.ts'
import type { RecallsTable } from '../db/schema.ts'
import { GatewayError, isGatewayError } from '../errors.ts'
import type { Queue } from '../jobs/queue.ts'
import type { Log } from '../log.ts'
import type { Principal } from '../principal.ts'
import { loadSent } from './consent-transfers.ts'
import type { TransferPeer } from './inbound-context.ts'
import { loadOfferBytes, loadOffered } from './inbound-rows.ts'
import { pauseMs } from './outbound-outcomes.ts'
import type { Removal } from './removal.ts'

/** A recall as people see it. */
export interface RecallEntry {
  readonly id: string
  /** `sent`: we ask; `received`: a peer asks us. */
  readonly direction: 'sent' | 'received'
  readonly transfer: string
  readonly peer: string
  readonly state: RecallOutcome
  readonly reason: string
  /** Instances that are gone at the receiver. */
  readonly instances: number
  readonly requestedBy: string
  readonly why: string | null
  readonly decidedBy: string | null
  /** Why the peer could not be asked, by its code. */
  readonly errorCode: string | null
  readonly createdAt: Date
  readonly updatedAt: Date
}

/** What is asked back: one transfer, or everything that was sent under a withdrawn consent but data of trials. */
export type RecallWish = { readonly why: string } & ({ readonly transfer: string } | { readonly consent: string })

export interface Recalls {
  /**
   * Asks a peer, or several, to give back; the same transfer again changes nothing.
   *
   * @returns ids of the recalls @throws GatewayError NOT_FOUND, STATE_CONFLICT for what did not arrive at a peer
   */
  start(principal: Principal, wish: RecallWish): Promise<readonly string[]>
  /** Newest first. */
  list(principal: Principal, page: { limit: number; before?: string }): Promise<readonly RecallEntry[]>
  /**
   * Decides about what a peer asks back: its instances are deleted, or stay.
   *
   * @throws GatewayError NOT_FOUND, STATE_CONFLICT when it is decided, and under a legal hold
   */
  decide(principal: Principal, id: string, outcome: 'recalled' | 'refused', why: string): Promise<void>
  /** A peer asks; gives the signed answer. @throws GatewayError NOT_FOUND, MANIFEST_*, STATE_CONFLICT */
  receive(peer: TransferPeer, manifestId: string, envelope: Uint8Array): Promise<Uint8Array>
  /** The job `recall`: asks the peer, until a person there has decided. */
  run(id: string, signal: AbortSignal): Promise<void>
}

/** How long an undecided recall is asked about, and the pauses: as rarely as it is old. */
const followMs = { total: 90 * 24 * 3_600_000, least: 60_000, most: 6 * 3_600_000 } as const

export function openRecalls(parts: {
  readonly db: Db
  readonly queue: Pick<Queue, 'enqueue'>
  readonly keys: Pick<SiteKeys, 'siteId' | 'signingKey' | 'sign'>
  readonly peers: Pick<Peers, 'get'>
  readonly openCarrier: (peer: Peer) => Carrier
  readonly removal: Removal
  readonly log: Log
}): Recalls {
  const { db, queue, keys, peers, removal } = parts
  const log = parts.log.child({ part: 'recalls' })

  const again = (tx: Tx, id: string, startAfter?: Date): Promise<void> =>
    queue.enqueue(tx, 'recall', { recall: id }, { singletonKey: id, ...(startAfter && { startAfter }) })

  const startOne = async (
    tx: Tx,
    principal: Principal,
    transfer: string,
    { reason, why }: { reason: RecallReason; why: string },
  ): Promise<string> => {
    const row = await tx
      .selectFrom('transfers')
      .innerJoin('peers', 'peers.id', 'transfers.peer')
      .select(['transfers.state', 'manifest_id', 'peers.id as peer', 'peers.site_id as site'])
      .where('transfers.id', '=', transfer)
      .executeTakeFirst()
    if (!row) throw new GatewayError('NOT_FOUND', 'no such transfer to a peer')
    if (row.state !== 'receipted' || row.manifest_id === null)
      throw new GatewayError(
        'STATE_CONFLICT',
        'only what a peer has imported can be asked back; cancel what is on its way',
      )
    const message = { manifest: row.manifest_id, from: keys.siteId, to: row.site, time: new Date(), reason }
    const inserted = await tx
      .insertInto('recalls')
      .values({
        ...{ id: randomUUID(), direction: 'sent', transfer, peer: row.peer, manifest_id: row.manifest_id },
        ...{ state: 'pending', reason, requested_by: principal.id, why },
        envelope: Buffer.from(signRecall(message, keys)),
      })
      .onConflict(conflict => conflict.columns(['direction', 'peer', 'manifest_id']).doNothing())
      .returning('id')
      .executeTakeFirst()
    if (!inserted) {
      const known = tx
        .selectFrom('recalls')
        .select('id')
        .where('direction', '=', 'sent')
        .where('transfer', '=', transfer)
      return (await known.executeTakeFirstOrThrow()).id
    }
    await again(tx, inserted.id)
    await audit(tx, 'recall-started', transfer, row.manifest_id, [requestorOf(principal), { userId: row.site }], {
      why,
    })
    return inserted.id
  }

  const consented = async (tx: Tx, id: string): Promise<readonly string[]> => {
    const consent = await tx.selectFrom('consents').selectAll().where('id', '=', id).executeTakeFirst()
    if (!consent) throw new GatewayError('NOT_FOUND', 'no such consent')
    if (consent.kind !== 'consent' || consent.withdrawn_at === null)
      throw new GatewayError('STATE_CONFLICT', 'expected a consent that was withdrawn')
    const patient = { issuer: consent.issuer, patientId: consent.patient_id }
    const sent = await loadSent(tx, { patient, purpose: consent.purpose, recipient: consent.recipient })
    return sent.filter(({ isTrial, state }) => !isTrial && state === 'receipted').map(one => one.id)
  }

  return {
    async start(principal, wish) {
      authorize(principal, 'recall.start')
      return await db.inTransaction(async tx => {
        const transfers = 'transfer' in wish ? [wish.transfer] : await consented(tx, wish.consent)
        const reason = 'transfer' in wish ? 'person' : 'consent'
        const ids: string[] = []
        for (const transfer of transfers) ids.push(await startOne(tx, principal, transfer, { reason, why: wish.why }))
        return ids
      })
    },
    async list(principal, { limit, before }) {
      authorize(principal, 'recall.read')
      const rows = await db.kysely
        .selectFrom('recalls')
        .leftJoin('peers', 'peers.id', 'recalls.peer')
        .selectAll('recalls')
        .select('peers.name as peer_name')
        .$if(before !== undefined, query =>
          query.where(
            sql<boolean>`(recalls.created_at, recalls.id) < (select b.created_at, b.id from recalls b where b.id = ${before ?? ''}::uuid)`,
          ),
        )
        .orderBy('recalls.created_at', 'desc')
        .orderBy('recalls.id', 'desc')
        .limit(limit)
        .execute()
      return rows.map(row => entryOf(row, row.peer_name ?? row.peer))
    },
    async decide(principal, id, outcome, why) {
      authorize(principal, 'recall.decide')
      const row = await db.kysely.selectFrom('recalls').selectAll().where('id', '=', id).executeTakeFirst()
      if (row?.direction !== 'received') throw new GatewayError('NOT_FOUND', 'no such recall of a peer')
      if (row.state !== 'pending') throw new GatewayError('STATE_CONFLICT', `it was ${row.state} before`)
      const instances = outcome === 'recalled' ? await remove(principal, row.transfer) : 0
      await db.inTransaction(async tx => {
        await tx
          .updateTable('recalls')
          .set({ state: outcome, instances, why, decided_by: principal.id, decided_at: sql<Date>`now()` })
          .set({ updated_at: sql<Date>`now()` })
          .where('id', '=', id)
          .where('state', '=', 'pending')
          .execute()
        const detail = { why, instances }
        await audit(tx, `recall-${outcome}`, row.transfer, row.manifest_id, [requestorOf(principal)], detail)
      })
    },
    async receive(peer, manifestId, envelope) {
      const inbound = await loadOffered(db.kysely, peer.id, manifestId)
      if (!inbound) throw new GatewayError('NOT_FOUND', 'no such offer')
      const between = { manifest: manifestId, from: peer.siteId, to: keys.siteId, keys: peer.signingKeys }
      const { reason } = openRecall(envelope, between)
      if (inbound.state !== 'imported')
        throw new GatewayError('STATE_CONFLICT', 'nothing was imported that could be given back')
      const row = await db.inTransaction(async tx => {
        const { id: transfer } = inbound
        const inserted = await tx
          .insertInto('recalls')
          .values({
            ...{ id: randomUUID(), direction: 'received', transfer, peer: peer.id, manifest_id: manifestId },
            ...{ state: 'pending', reason, requested_by: peer.siteId, envelope: Buffer.from(envelope) },
          })
          .onConflict(conflict => conflict.columns(['direction', 'peer', 'manifest_id']).doNothing())
          .returningAll()
          .executeTakeFirst()
        if (inserted) {
          await audit(tx, 'recall-received', transfer, manifestId, [{ userId: peer.siteId, requestor: true }], {
            reason,
          })
          return inserted
        }
        const known = tx.selectFrom('recalls').selectAll().where('direction', '=', 'received')
        return await known.where('peer', '=', peer.id).where('manifest_id', '=', manifestId).executeTakeFirstOrThrow()
      })
      return signRecallAnswer(
        {
          ...{ manifest: manifestId, from: keys.siteId, to: peer.siteId, time: row.updated_at },
          ...{ recall: sha256Hex(envelope), outcome: row.state, instances: row.instances },
        },
        keys,
      )
    },
    async run(id, signal) {
      const row = await db.kysely.selectFrom('recalls').selectAll().where('id', '=', id).executeTakeFirst()
      if (row?.direction !== 'sent' || row.state !== 'pending') return
      const peer = peers.get(row.peer)
      if (peer?.state !== 'active') return
      try {
        await settle(row, peer, await ask(row, peer, signal))
      } catch (error) {
        if (signal.aborted) throw error
        const code = isGatewayError(error) ? error.code : 'UNAVAILABLE'
        log.warn({ recall: id, code }, 'a recall could not be delivered yet')
        await settle(row, peer, { outcome: 'pending', instances: 0, envelope: undefined, code })
      }
    },
  }

  /** Deletes what came by the transfer; what was there before it, or came otherwise, stays. */
  async function remove(principal: Principal, transfer: string): Promise<number> {
    const offer = await loadOfferBytes(db.kysely, transfer)
    if (!offer) return 0
    const uids = readStoredOffer(offer).objects.map(one => one.sopInstanceUid)
    const rows = await db.kysely
      .selectFrom('instances')
      .select('orthanc_id')
      .where(sql<boolean>`sop_instance_uid = any(${uids}::text[])`)
      .where(sql<boolean>`origin ->> 'transferId' = ${transfer}`)
      .execute()
    if (rows.length === 0) return 0
    const ids = rows.map(row => row.orthanc_id)
    return (await removal.remove(principal, 'instance', ids, 'recalled')).instances
  }

  async function ask(row: Selectable<RecallsTable>, peer: Peer, signal: AbortSignal): Promise<Heard> {
    const carrier = parts.openCarrier(peer)
    try {
      const envelope = await carrier.recall(row.manifest_id, row.envelope, signal)
      const between = { manifest: row.manifest_id, from: peer.siteId, to: keys.siteId, keys: [peer.signingKey] }
      const { outcome, instances } = openRecallAnswer(envelope, { ...between, recall: row.envelope })
      return { outcome, instances, envelope, code: null }
    } finally {
      await carrier.close()
    }
  }

  async function settle(row: Selectable<RecallsTable>, peer: Peer, heard: Heard): Promise<void> {
    const { outcome, instances, envelope, code } = heard
    await db.inTransaction(async tx => {
      const attempts = code === null ? 0 : row.attempts + 1
      await tx
        .updateTable('recalls')
        .set({ state: outcome, instances, error_code: code, attempts, updated_at: sql<Date>`now()` })
        .$if(envelope !== undefined, query => query.set({ answer: Buffer.from(envelope ?? []) }))
        .where('id', '=', row.id)
        .execute()
      if (outcome === 'pending') {
        const ageMs = Date.now() - row.created_at.getTime()
        if (ageMs > followMs.total) return
        const pause = code === null ? Math.min(followMs.most, Math.max(followMs.least, ageMs)) : pauseMs(attempts)
        return await again(tx, row.id, new Date(Date.now() + pause))
      }
      const who = [{ userId: keys.siteId, requestor: true }, { userId: peer.siteId }]
      await audit(tx, `recall-${outcome}`, row.transfer, row.manifest_id, who, { instances })
    })
  }
}

/** What a peer has answered, or why it could not. */
interface Heard {
  readonly outcome: RecallOutcome
  readonly instances: number
  readonly envelope: Uint8Array | undefined
  readonly code: string | null
}

function entryOf(row: Selectable<RecallsTable>, peer: string): RecallEntry {
  return {
    ...{ id: row.id, direction: row.direction, transfer: row.transfer, peer, state: row.state, reason: row.reason },
    ...{ instances: row.instances, requestedBy: row.requested_by, why: row.why, decidedBy: row.decided_by },
    ...{ errorCode: row.error_code, createdAt: row.created_at, updatedAt: row.updated_at },
  }
}

async function audit(
  tx: Tx,
  reason: string,
  transferId: string,
  manifestId: string,
  participants: readonly Participant[],
  detail: Readonly<Record<string, string | number>>,
): Promise<void> {
  const type = eventTypes.restrictedFunction
  await appendAudit(
    tx,
    securityAlert({ type, participants, objects: [{ kind: 'transfer', transferId, manifestId }], reason, detail }),
  )
}
