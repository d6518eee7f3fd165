/**
 * What peers send us: offers are decided before a byte is taken, ranges are acknowledged when they are
 * durable, and a study becomes visible as a whole or not at all. All state is in the database and in
 * `<data>/inbound`, so a killed gateway goes on where its rows say.
 */
import { randomUUID } from 'node:crypto'
import { Bitmap, type LeafRun } from '../../peers/bitmap.ts'
import { createBufferPool } from '../../peers/buffer-pool.ts'
import { openCancellation } from '../../peers/cancel.ts'
import { toleratedDriftMs } from '../../peers/clock.ts'
import { openCertificate } from '../../peers/deid-certificate.ts'
import { sha256Hex } from '../../peers/envelope.ts'
import { type LeafMap, mapLeaves } from '../../peers/leaves.ts'
import { checkOffer, type OpenedOffer, openOffer } from '../../peers/offer.ts'
import { finalOfferStates, type OfferState } from '../../peers/offer-state.ts'
import { appendAudit } from '../audit/log.ts'
import { type ErrorCode, GatewayError } from '../errors.ts'
import { storeCertificate } from './certificates.ts'
import { createExaminer } from './examiner.ts'
import { airlockBufferBytes } from './inbound-airlock.ts'
import { examineRange } from './inbound-arrival.ts'
import {
  createPlanCache,
  draftReceipt,
  type InboundContext,
  type InboundLimits,
  type InboundParts,
  offerAccepted,
  refusal,
  signRefusal,
  type TransferPeer,
} from './inbound-context.ts'
import { createInboundDecisions, type InboundDecisions } from './inbound-decisions.ts'
import { importInbound, takeEarly } from './inbound-import.ts'
import { decideOfferByPolicy, type OfferDecision } from './inbound-policy.ts'
import {
  countReceiving,
  findStaged,
  type InboundRow,
  insertInbound,
  loadInbound,
  loadOffered,
  lockInbound,
  markReceived,
  outstandingBytes,
  setState,
} from './inbound-rows.ts'
import { openInboundStaging } from './inbound-staging.ts'
import { createRangeGuard } from './range-guard.ts'
import { issueReceipt, loadReceipts } from './receipts.ts'
import { createStateWatch } from './state-watch.ts'
import { addStep } from './transfer-steps.ts'

/** A range that a peer wants to send, before its bytes are read. */
export interface OpenRange {
  readonly transfer: string
  readonly manifestId: string
  readonly run: LeafRun
  readonly map: LeafMap
}

export interface Inbound extends InboundDecisions {
  /**
   * Decides an offer; the same offer again returns the state it has reached.
   *
   * @throws GatewayError with the reason; `recordRefusal` then gives the signed answer
   */
  offer(peer: TransferPeer, bytes: Uint8Array): Promise<OfferState>
  /** @throws GatewayError NOT_FOUND, also for another peer's manifest */
  state(peer: TransferPeer, manifestId: string): Promise<OfferState>
  /**
   * The state once it is another than `from` (what the peer saw last; as it is now when absent), or as it is after
   * `waitMs`; at once when it will not change any more.
   */
  waitForChange(
    peer: TransferPeer,
    manifestId: string,
    wait: { waitMs: number; from?: string | undefined },
    signal: AbortSignal,
  ): Promise<OfferState>
  /** @throws GatewayError NOT_FOUND, CHUNK_RANGE, TRANSFER_CANCELLED, STATE_CONFLICT, STORAGE_FULL */
  openRange(peer: TransferPeer, manifestId: string, parse: (leafCount: number) => LeafRun): Promise<OpenRange>
  /**
   * Makes a range durable and acknowledges it. `bytes` must not change until this settles.
   *
   * @param digest  the sender's range digest; undefined when the content was verified by its own
   * @throws GatewayError CHUNK_DIGEST, CHUNK_CONFLICT, TRANSFER_CANCELLED, STATE_CONFLICT, STORAGE_IO, STORAGE_FULL
   */
  receiveRange(range: OpenRange, bytes: Uint8Array, digest: Uint8Array | undefined): Promise<void>
  /** Asks for the import; @throws GatewayError OFFER_INCOMPLETE while leaves are missing, NOT_FOUND */
  commit(peer: TransferPeer, manifestId: string): Promise<OfferState>
  /** Ends a transfer at its sender's signed wish; @throws GatewayError STATE_CONFLICT once imported */
  cancel(peer: TransferPeer, manifestId: string, envelope: Uint8Array): Promise<OfferState>
  /** Audits a refusal that gets no signed answer. */
  auditRefusal(peer: TransferPeer, about: { manifestId: string; code: ErrorCode; range?: string }): Promise<void>
  /** Audits a refusal and signs it for the peer; undefined where the same request may succeed later. */
  recordRefusal(
    peer: TransferPeer,
    about: { manifestId: string; code: ErrorCode; range?: string },
  ): Promise<Uint8Array | undefined>
  /** The job `commit-inbound`. */
  runCommit(id: string, signal: AbortSignal): Promise<void>
  /** Expires overdue transfers and removes bytes that nothing waits for; at start and now and then. */
  sweep(): Promise<void>
}

const defaultLimits: InboundLimits = { openPerPeer: 64, bytesPerTransfer: 2 ** 42 }

/** Opens the service; its bytes are kept below `dataDir`. */
export async function openInbound(
  parts: Omit<InboundParts, 'clock' | 'limits'> & {
    dataDir: string
    clock?: () => Date
    limits?: Partial<InboundLimits>
  },
): Promise<Inbound> {
  const { dataDir, limits, clock = () => new Date(), ...rest } = parts
  const context: InboundContext = {
    ...rest,
    log: parts.log.child({ part: 'inbound' }),
    clock,
    limits: { ...defaultLimits, ...limits },
    staging: await openInboundStaging(dataDir),
    guard: createRangeGuard(),
    plans: createPlanCache(parts.blobs),
    watch: createStateWatch(),
    buffers: createBufferPool(airlockBufferBytes, 8),
    examiner: createExaminer(),
  }
  const { db, keys, watch } = context

  const stateOf = async (row: InboundRow): Promise<OfferState> => ({
    id: row.manifestId,
    state: row.state,
    want: row.state === 'receiving' ? row.received.complement() : new Bitmap(row.leafCount),
    creditBytes: 0, // the listener knows
    expires: row.expiresAt,
    receipts: await loadReceipts(db.kysely, row.id, 'issued'),
    needsPerson: row.state === 'held',
  })
  const find = async (peer: TransferPeer, manifestId: string): Promise<InboundRow> => {
    const row = await loadOffered(db.kysely, peer.id, manifestId)
    if (!row) throw new GatewayError('NOT_FOUND', 'no such offer')
    return row
  }
  const accept = async (peer: TransferPeer, offer: OpenedOffer, decided: OfferDecision): Promise<void> => {
    const { manifest } = offer
    const certificate = openCertificate(manifest, peer.signingKeys)
    const id = randomUUID()
    const map = mapLeaves(manifest.objects.map(object => object.sizeBytes))
    const to = { siteId: peer.siteId, manifestId: offer.id }
    const [draft] = await Promise.all([
      draftReceipt(context, to, { kind: 'accepted' }),
      context.staging.create(offer.id),
    ])
    await db.inTransaction(async tx => {
      const isNew = await insertInbound(tx, {
        id,
        peer: peer.id,
        manifestId: offer.id,
        manifest: offer.bytes,
        purpose: manifest.purpose,
        objectCount: manifest.objects.length,
        leafCount: map.leafCount,
        bytesTotal: map.totalBytes,
        expiresAt: manifest.expires,
        decided,
      })
      if (!isNew) return
      if (certificate) await storeCertificate(tx, id, 'received', certificate)
      await issueReceipt(tx, id, draft, keys)
      const { rule, policyVersion } = decided
      await addStep(tx, id, 'accepted', {
        objects: manifest.objects.length,
        bytes: map.totalBytes,
        rule,
        policyVersion,
        ...(manifest.agreement && { agreement: manifest.agreement.id, basis: manifest.agreement.basis ?? '' }),
      })
      await appendAudit(tx, offerAccepted(context, peer.siteId, { id, manifestId: offer.id, manifest, decided }))
    })
  }

  const auditRefusal: Inbound['auditRefusal'] = async (peer, { manifestId, code, range }) => {
    const about = { manifestId, code, ...(range !== undefined && { detail: { range } }) }
    const event = refusal(context, peer.siteId, about)
    if (event) await db.inTransaction(tx => appendAudit(tx, event))
  }

  const decisions = createInboundDecisions(context)
  return {
    ...decisions,
    async offer(peer, bytes) {
      const offer = openOffer(bytes, peer)
      const known = await loadOffered(db.kysely, peer.id, offer.id)
      if (known) return await stateOf(known)
      const decided = await decideOffer(context, peer, offer)
      void context.examiner.prepare()
      await accept(peer, offer, decided)
      return await stateOf(await find(peer, offer.id))
    },
    state: async (peer, manifestId) => await stateOf(await find(peer, manifestId)),
    async waitForChange(peer, manifestId, { waitMs, from }, signal) {
      const deadline = Date.now() + waitMs
      const first = await find(peer, manifestId)
      const known = from ?? first.state
      for (let row = first; ; row = await find(peer, manifestId)) {
        const leftMs = deadline - Date.now()
        if (row.state !== known || finalOfferStates.includes(row.state) || leftMs <= 0 || signal.aborted) {
          return await stateOf(row)
        }
        // Another node may have changed it: look once a second without being woken.
        await watch.next(row.id, Math.min(leftMs, 1000), signal)
      }
    },
    async openRange(peer, manifestId, parse) {
      const row = await find(peer, manifestId)
      refuseUnlessReceiving(row)
      const { map } = await context.plans.load(db, row.id)
      const run = parse(map.leafCount)
      await context.blobs.assertRoom(map.runBytes(run))
      return { transfer: row.id, manifestId, run, map }
    },
    async receiveRange({ transfer, manifestId, run, map }, bytes, digest) {
      const plan = await context.plans.load(db, transfer)
      const arrived = await examineRange(context.examiner, plan, run, bytes)
      if (digest && !arrived.digest.equals(digest)) {
        throw new GatewayError('CHUNK_DIGEST', 'the bytes do not have the digest they came with')
      }
      await context.guard.hold(transfer, run, async () => {
        const row = await loadInbound(db.kysely, transfer)
        if (!row) throw new GatewayError('NOT_FOUND', 'no such offer')
        refuseUnlessReceiving(row)
        await context.staging.write(manifestId, { map, run, bytes, received: row.received })
        if (!(await markReceived(db.kysely, transfer, run))) {
          throw new GatewayError('STATE_CONFLICT', 'the transfer takes no ranges any more')
        }
        takeEarly(context, manifestId, plan, arrived)
      })
    },
    async commit(peer, manifestId) {
      const { id } = await find(peer, manifestId)
      await db.inTransaction(async tx => {
        const row = await lockInbound(tx, id)
        if (row?.state !== 'receiving') return // a repeat: the state says how far it is
        const missing = row.leafCount - row.received.count()
        if (missing > 0) throw new GatewayError('OFFER_INCOMPLETE', `${missing} of ${row.leafCount} leaves are missing`)
        await setState(tx, id, 'committing')
        await addStep(tx, id, 'complete', { bytes: row.bytesTotal })
        await context.queue.enqueue(tx, 'commit-inbound', { transfer: id }, { singletonKey: id })
      })
      watch.notify(id)
      return await stateOf(await find(peer, manifestId))
    },
    async cancel(peer, manifestId, envelope) {
      const row = await find(peer, manifestId)
      const expected = { manifest: manifestId, from: peer.siteId, to: keys.siteId, keys: peer.signingKeys }
      const { reason } = openCancellation(envelope, expected)
      await decisions.cancelInbound(row.id, reason)
      return await stateOf(await find(peer, manifestId))
    },
    auditRefusal,
    async recordRefusal(peer, { manifestId, code, range }) {
      await auditRefusal(peer, { manifestId, code, ...(range !== undefined && { range }) })
      const isForGood = new GatewayError(code, '').meaning.retry === 'no'
      if (!isForGood && range === undefined) return undefined
      const kind = range === undefined ? 'refused' : 'range-refused'
      const to = { siteId: peer.siteId, manifestId }
      const { envelope } = await signRefusal(context, to, { kind, code, ...(range !== undefined && { range }) })
      return envelope
    },
    async runCommit(id, signal) {
      await importInbound(context, id, signal)
    },
    async sweep() {
      await decisions.expireOverdue(new Date(clock().getTime() - toleratedDriftMs))
      // An offer makes its directory before its row: a young one may be about to get one.
      const staged = await context.staging.findQuiet(3_600_000)
      const wanted = await findStaged(db.kysely, staged)
      for (const manifestId of staged) if (!wanted.has(manifestId)) await context.staging.remove(manifestId)
    },
  }
}

/** Name of an offer whose bytes may be anything: the hash of what should be its envelope. */
export function offeredId(bytes: Uint8Array): string {
  const end = bytes.indexOf(0x0a)
  return sha256Hex(end < 0 ? bytes : bytes.subarray(0, end))
}

async function decideOffer(context: InboundContext, peer: TransferPeer, offer: OpenedOffer): Promise<OfferDecision> {
  const { manifest } = offer
  const { db, limits, clock, keys } = context
  checkOffer(manifest, { siteId: keys.siteId, now: clock() })
  if (manifest.attachments.length > 0) throw new GatewayError('OFFER_REFUSED', 'attachments are not taken')
  openCertificate(manifest, peer.signingKeys)
  const decided = await decideOfferByPolicy(db.kysely, peer, manifest, clock())
  const bytes = manifest.objects.reduce((sum, object) => sum + object.sizeBytes, 0)
  if (bytes > limits.bytesPerTransfer) {
    throw new GatewayError('MANIFEST_LIMIT', `expected at most ${limits.bytesPerTransfer} bytes, got ${bytes}`)
  }
  if ((await countReceiving(db.kysely, peer.id)) >= limits.openPerPeer) {
    throw new GatewayError('TOO_MANY_REQUESTS', `${limits.openPerPeer} transfers of this peer are open already`)
  }
  // A live transfer is never evicted for a new one: what is promised to others counts as taken.
  await context.blobs.assertRoom(bytes + (await outstandingBytes(db.kysely)))
  return decided
}

function refuseUnlessReceiving(row: InboundRow): void {
  if (row.state === 'receiving') return
  if (row.state === 'cancelled') throw new GatewayError('TRANSFER_CANCELLED', 'the transfer was cancelled')
  throw new GatewayError('STATE_CONFLICT', `the transfer is ${row.state} and takes no ranges`)
}
