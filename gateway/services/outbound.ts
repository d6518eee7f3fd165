/**
 * What we send peers. A transfer is carried from whatever state its row says to a final receipt; every
 * step is a row before it counts, so a killed gateway goes on where it was. What may pass by itself is
 * tried again, at growing intervals, until the manifest expires; what needs a person is held.
 */
import { closeSync, openSync, read as readCallback } from 'node:fs'
import { promisify } from 'node:util'
import { signCancellation } from '../../peers/cancel.ts'
import type { Carrier, Delivery, DeliveryEnd, ObjectReader } from '../../peers/carrier.ts'
import type { SiteKeys } from '../../peers/keys.ts'
import { mapLeaves } from '../../peers/leaves.ts'
import { type Offer, readStoredOffer } from '../../peers/offer.ts'
import type { Peer } from '../../peers/peer.ts'
import type { Peers } from '../../peers/registry.ts'
import { asIs } from '../../policy/document.ts'
import type { Db } from '../db/db.ts'
import type { TransferState } from '../db/schema.ts'
import { type ErrorCode, GatewayError } from '../errors.ts'
import type { Queue } from '../jobs/queue.ts'
import type { Log } from '../log.ts'
import type { Blobs } from '../store/blobs.ts'
import { createOutcomes } from './outbound-outcomes.ts'
import type { Preparing } from './outbound-prepare.ts'
import { startProgress } from './outbound-progress.ts'
import { findUnfinished, isInState, loadOffer, loadOutbound, type OutboundRow } from './outbound-rows.ts'
import { ensureOffer } from './outbound-sign.ts'
import type { Outbox } from './outbox.ts'
import { createPeerLanes } from './peer-lanes.ts'

export interface Outbound {
  /** The job `deliver`: carries one transfer on. Harmless at any time and any number of times. */
  run(id: string, signal: AbortSignal): Promise<void>
  /**
   * Gives unfinished transfers a job: all of them at start, because parked ones are in memory only;
   * now and then those that nothing has happened to for long.
   */
  recover(which: 'all' | 'stale'): Promise<void>
  close(): Promise<void>
}

export interface OutboundParts {
  readonly db: Db
  readonly blobs: Pick<Blobs, 'path'>
  readonly queue: Pick<Queue, 'enqueue'>
  readonly keys: Pick<SiteKeys, 'siteId' | 'signingKey' | 'sign'>
  readonly peers: Pick<Peers, 'get'>
  /** A carrier for the peer as it is now; closed when the peer's address changes. */
  readonly openCarrier: (peer: Peer) => Carrier
  readonly log: Log
  readonly clock?: () => Date
  /** Transfers carried at a time, of all peers and of one. */
  readonly parallel?: number
  readonly perPeer?: number
  /** Makes ready what does not leave as it is; without it only `as-is` leaves. */
  readonly preparing?: Preparing & { readonly outbox: Pick<Outbox, 'path'> }
  /** A policy that was withdrawn stops its transfers before their next range. */
  readonly mayContinue?: (transfer: OutboundRow) => Promise<boolean>
  /** Why it may not go on: a patient who has not consented, or objects. Asked before it is offered, each range, and commit. */
  readonly obstacle?: (transfer: string) => Promise<{ readonly code: ErrorCode; readonly message: string } | undefined>
}

const moving: readonly TransferState[] = ['planned', 'prepared', 'signed', 'sent', 'held']

/** Opens the service; `run` is to be registered as the lane's handler. */
export function openOutbound(parts: OutboundParts): Outbound {
  const { db, queue, keys, peers, clock = () => new Date() } = parts
  const log = parts.log.child({ part: 'outbound' })
  const lanes = createPeerLanes({
    parallel: parts.parallel ?? 4,
    perPeer: parts.perPeer ?? 2,
    now: () => clock().getTime(),
  })
  const outcomes = createOutcomes({ db, queue, keys, clock, log })
  const carriers = openCarriers(parts.openCarrier)

  const later = new Set<NodeJS.Timeout>()
  /** Wakes parked transfers. Only memory knows of them, so a database that is away is waited for. */
  const wake = async (ids: readonly string[]): Promise<void> => {
    for (const [index, id] of ids.entries()) {
      try {
        await enqueue(id)
      } catch {
        const timer = setTimeout(() => {
          later.delete(timer)
          void wake(ids.slice(index))
        }, 5_000).unref()
        later.add(timer)
        return
      }
    }
  }
  const enqueue = (id: string): Promise<void> =>
    db.inTransaction(tx => queue.enqueue(tx, 'deliver', { transfer: id }, { singletonKey: id }))

  const carry = async (row: OutboundRow, peer: Peer, signal: AbortSignal): Promise<void> => {
    // Nothing is offered, names sealed in it, that may not go.
    const obstacle = row.isAccepted ? undefined : await parts.obstacle?.(row.id)
    if (obstacle) throw new GatewayError(obstacle.code, obstacle.message)
    if (!((await parts.preparing?.prepare(row, peer, signal)) ?? true)) return
    const offer = await ensureOffer(parts, row, peer)
    const { manifest } = offer
    const progress = startProgress(db, row.id)
    // Past its time nothing more is sent, but a receipt may still be waiting.
    const isOver = outcomes.isOver(row)
    let heard = ''
    // The state last: it may change while the others are asked.
    const isAllowed = async (): Promise<boolean> =>
      ((await parts.mayContinue?.(row)) ?? true) &&
      (await parts.obstacle?.(row.id)) === undefined &&
      !isOver &&
      peers.get(peer.id)?.state === 'active' &&
      (await isInState(db.kysely, row.id, moving))
    const delivery: Delivery = {
      offer,
      map: mapLeaves(manifest.objects.map(object => object.sizeBytes)),
      isKnown: row.isAccepted,
      objectSha256: ordinal => Buffer.from(manifest.objects[ordinal]?.sha256 ?? '', 'hex'),
      openObject: async ordinal => openObjectFile(pathOf(row, ordinal, manifest.objects[ordinal]?.sha256 ?? '')),
      mayContinue: forAMoment(isAllowed),
      mayCommit: isAllowed,
      onState: async (state, receipts) => {
        lanes.succeed(peer.id)
        const now = `${state.state} ${receipts.length}`
        if (now === heard) return
        // The end is recorded a moment later, with everything that was heard.
        if (state.state === 'imported' && heard.startsWith('committing')) return
        await outcomes.heard(row, peer, state, receipts)
        heard = now
      },
      onSent: progress.sent,
      onAcknowledged: progress.acknowledged,
    }
    let end: DeliveryEnd
    try {
      end = await carriers.of(peer).deliver(delivery, signal)
    } finally {
      await progress.stop()
    }
    if (end.kind !== 'stopped') await outcomes.ended(row, peer, end)
    else if (isOver) await outcomes.expired(row, peer)
    else await stopped(row, peer, offer, signal)
  }

  /** Where the bytes of an object are as they leave. */
  const pathOf = (row: OutboundRow, ordinal: number, sha256: string): string =>
    row.profile === asIs || parts.preparing === undefined
      ? parts.blobs.path(Buffer.from(sha256, 'hex'))
      : parts.preparing.outbox.path(row.id, ordinal)

  /** Cancelled, or not allowed any more: the peer is told. */
  const stopped = async (
    row: OutboundRow,
    peer: Peer,
    offer: Pick<Offer, 'id'>,
    signal: AbortSignal,
  ): Promise<void> => {
    const isCancelled = await isInState(db.kysely, row.id, ['cancelled'])
    if (!isCancelled) await outcomes.withdrawn(row, peer, await parts.obstacle?.(row.id))
    const bytes = await loadOffer(db.kysely, row.id)
    if (!bytes) return
    const { objects } = readStoredOffer(bytes)
    const { leafCount } = mapLeaves(objects.map(object => object.sizeBytes))
    const statement = {
      manifest: offer.id,
      from: keys.siteId,
      to: peer.siteId,
      time: clock(),
      reason: isCancelled ? 'person' : 'policy',
    } as const
    const end = await carriers.of(peer).cancel({ id: offer.id, leafCount }, signCancellation(statement, keys), signal)
    lanes.succeed(peer.id)
    await outcomes.ended(row, peer, end)
  }

  /** Imported there: has its archive committed meanwhile? What cannot be asked now is asked later. */
  const follow = async (row: OutboundRow, peer: Peer, signal: AbortSignal): Promise<void> => {
    const bytes = await loadOffer(db.kysely, row.id)
    if (!bytes || row.manifestId === undefined) return
    const { leafCount } = mapLeaves(readStoredOffer(bytes).objects.map(object => object.sizeBytes))
    const receipts = await carriers.of(peer).receipts({ id: row.manifestId, leafCount }, signal)
    lanes.succeed(peer.id)
    await outcomes.followed(row, receipts)
  }

  const attempt = async (row: OutboundRow, peer: Peer, signal: AbortSignal): Promise<void> => {
    try {
      if (row.state === 'receipted') await follow(row, peer, signal)
      else if (row.state === 'cancelled') await stopped(row, peer, { id: row.manifestId ?? '' }, signal)
      else await carry(row, peer, signal)
    } catch (error) {
      if (signal.aborted) throw error // closing: the job goes back to the queue as it is
      if (isConnectionTrouble(error)) lanes.fail(peer.id, error)
      if (row.state === 'receipted') await outcomes.followed(row, [])
      else await outcomes.failed(row, peer, error)
    }
  }

  return {
    async run(id, signal) {
      const row = await loadOutbound(db.kysely, id)
      if (!row || !isOurTurn(row)) return
      const peer = row.peer === undefined ? undefined : peers.get(row.peer)
      if (peer?.state !== 'active' || peer.url === undefined) return await outcomes.unreachable(row, peer)
      if (!row.isDue) return // the job for that time was made with it
      const admission = lanes.enter({ id, peer: peer.id, priority: row.priority })
      if (admission.kind === 'parked') return
      if (admission.kind === 'closed') {
        if (row.state === 'receipted') return await outcomes.followed(row, [])
        return await outcomes.postponed(row, peer, admission)
      }
      try {
        await attempt(row, peer, signal)
        await parts.preparing?.cleanUp(id)
      } finally {
        const next = lanes.leave({ id, peer: peer.id })
        if (!signal.aborted) await wake(next)
      }
    },
    async recover(which) {
      const ids = await findUnfinished(db.kysely, which)
      for (const id of ids) await enqueue(id)
      if (ids.length > 0) log.info({ transfers: ids.length }, 'carrying on with unfinished transfers')
    },
    async close() {
      for (const timer of later) clearTimeout(timer)
      await carriers.close()
    },
  }
}

/** How long an answer holds: ranges that leave together ask once. */
const momentMs = 50

/** Asks again once the last answer is older than a moment; whoever asks meanwhile waits for the same one. */
function forAMoment(ask: () => Promise<boolean>): () => Promise<boolean> {
  let answer: Promise<boolean> | undefined
  let askedAt = 0
  return () => {
    const now = performance.now()
    if (!answer || now - askedAt > momentMs) {
      askedAt = now
      answer = ask()
    }
    return answer
  }
}

/** Whether there is anything to do: a local hold waits for a person, a peer's hold is asked about. */
function isOurTurn(row: OutboundRow): boolean {
  switch (row.state) {
    case 'planned':
    case 'prepared':
    case 'signed':
    case 'sent':
      return true
    case 'held':
    case 'cancelled':
      return row.isAccepted && !row.isClosed
    case 'receipted':
      return true // for the receipts that may follow
    case 'delivered':
    case 'archived':
    case 'refused':
    case 'expired':
      return false
    default: {
      const unknown: never = row.state
      throw new RangeError(`unknown state ${String(unknown)}`)
    }
  }
}

/** The peer, or the way to it, is the trouble: no other transfer of that peer would fare better. */
function isConnectionTrouble(error: unknown): error is GatewayError {
  if (!(error instanceof GatewayError)) return false
  switch (error.code) {
    case 'PEER_UNREACHABLE':
    case 'PEER_TLS_INTERCEPTED':
    case 'PEER_CLOCK_DRIFT':
    case 'PEER_UNKNOWN':
    case 'PROXY_REFUSED':
      return true
    default:
      return false
  }
}

/** One carrier per peer, kept while its address stays the same. */
function openCarriers(openCarrier: (peer: Peer) => Carrier) {
  const open = new Map<string, { carrier: Carrier; key: string }>()
  return {
    of(peer: Peer): Carrier {
      const key = `${peer.url} ${peer.caFingerprint.toString('hex')}`
      const known = open.get(peer.id)
      if (known?.key === key) return known.carrier
      void known?.carrier.close().catch(() => undefined) // nothing is lost with it: the peer's state tells
      const carrier = openCarrier(peer)
      open.set(peer.id, { carrier, key })
      return carrier
    },
    async close(): Promise<void> {
      await Promise.all([...open.values()].map(({ carrier }) => carrier.close()))
      open.clear()
    },
  }
}

function openObjectFile(path: string): ObjectReader {
  const corrupt = (cause?: unknown): GatewayError =>
    new GatewayError('STORAGE_CORRUPT', 'the bytes of an instance are missing or not whole', { cause })
  // Opening and closing are cheap, and cheaper than a trip to another thread each; reading is not.
  let file: number
  try {
    file = openSync(path, 'r')
  } catch (cause) {
    throw corrupt(cause)
  }
  return {
    async readInto(target, position) {
      for (let done = 0; done < target.length; ) {
        const { bytesRead } = await read(file, target, done, target.length - done, position + done)
        if (bytesRead === 0) throw corrupt()
        done += bytesRead
      }
    },
    close: async () => closeSync(file),
  }
}

const read = promisify(readCallback)
