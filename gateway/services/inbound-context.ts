/** What the parts of the inbound service share. */

import { Bitmap } from '../../peers/bitmap.ts'
import type { BufferPool } from '../../peers/buffer-pool.ts'
import type { SiteKeys } from '../../peers/keys.ts'
import { type LeafMap, mapLeaves } from '../../peers/leaves.ts'
import type { Manifest } from '../../peers/manifest.ts'
import { readStoredOffer } from '../../peers/offer.ts'
import type { Receipt, SignedReceipt } from '../../peers/receipt.ts'
import { signReceipt } from '../../peers/receipt.ts'
import type { AuditEvent, AuditObject, Participant } from '../audit/event.ts'
import { beginTransferring, eventTypes, instancesTransferred, securityAlert } from '../audit/event.ts'
import type { Db } from '../db/db.ts'
import { type ErrorCode, errorTable, GatewayError } from '../errors.ts'
import type { Queue } from '../jobs/queue.ts'
import type { Log } from '../log.ts'
import type { Blobs } from '../store/blobs.ts'
import { createEarlyBlobs, type EarlyBlobs } from './early-blobs.ts'
import type { Examiner } from './examiner.ts'
import type { Arrival } from './inbound-arrival.ts'
import { loadOfferBytes } from './inbound-rows.ts'
import type { InboundStaging } from './inbound-staging.ts'
import type { RangeGuard } from './range-guard.ts'
import type { StateWatch } from './state-watch.ts'

/** A peer as the transfer services need it. */
export interface TransferPeer {
  /** Key of its row. */
  readonly id: string
  readonly siteId: string
  readonly name: string
  /** Current and former signing keys. */
  readonly signingKeys: readonly Uint8Array[]
}

export interface InboundLimits {
  /** Open transfers per peer; further offers are asked to wait. */
  readonly openPerPeer: number
  /** Most bytes of one transfer. */
  readonly bytesPerTransfer: number
}

/** What the inbound service is built from. */
export interface InboundParts {
  readonly db: Db
  readonly blobs: Pick<Blobs, 'assertRoom' | 'adopt' | 'release'>
  readonly queue: Pick<Queue, 'enqueue'>
  readonly keys: Pick<SiteKeys, 'siteId' | 'signingKey' | 'sign' | 'openSealed'>
  /** The audit log's newest signed checkpoint, made when needed. */
  readonly checkpoint: () => Promise<string>
  readonly log: Log
  readonly clock: () => Date
  readonly limits: InboundLimits
}

export interface InboundContext extends InboundParts {
  readonly staging: InboundStaging
  readonly guard: RangeGuard
  readonly plans: PlanCache
  readonly watch: StateWatch
  /** For reading back what did not arrive in one piece. */
  readonly buffers: BufferPool
  readonly examiner: Examiner
}

/** A transfer's manifest and byte line, with what was learned while its bytes arrived. */
export interface Plan {
  readonly manifest: Manifest
  readonly map: LeafMap
  /** Leaves that were made durable since the plan was loaded. */
  readonly leaves: Bitmap
  readonly arrivals: Map<number, Arrival>
  readonly early: EarlyBlobs
}

export interface PlanCache {
  /** @throws GatewayError NOT_FOUND when the transfer has no row */
  load(db: Db, id: string): Promise<Plan>
  forget(id: string): void
}

/** Keeps the plans of the transfers last used; a decoded manifest of 50,000 objects is about 20 MB. */
export function createPlanCache(blobs: Pick<Blobs, 'release'>, most = 8): PlanCache {
  const plans = new Map<string, Promise<Plan>>()
  const read = async (db: Db, id: string): Promise<Plan> => {
    const bytes = await loadOfferBytes(db.kysely, id)
    if (!bytes) throw new GatewayError('NOT_FOUND', 'no such transfer')
    const manifest = readStoredOffer(bytes)
    const map = mapLeaves(manifest.objects.map(object => object.sizeBytes))
    return {
      manifest,
      map,
      leaves: new Bitmap(map.leafCount),
      arrivals: new Map(),
      early: createEarlyBlobs(),
    }
  }
  const forget = (id: string): void => {
    const plan = plans.get(id)
    plans.delete(id)
    plan?.then(({ early }) => early.release(sha256 => blobs.release(sha256))).catch(() => undefined) // nothing was read
  }
  return {
    load(db, id) {
      const plan = plans.get(id) ?? read(db, id)
      plans.delete(id)
      plans.set(id, plan) // youngest last
      plan.catch(() => plans.delete(id))
      const [oldest] = plans.keys()
      if (plans.size > most && oldest !== undefined) forget(oldest)
      return plan
    },
    forget,
  }
}

/** A receipt of ours about a peer's manifest, without its place in a chain. */
export async function draftReceipt(
  context: InboundContext,
  to: { siteId: string; manifestId: string },
  fields: Omit<Receipt, 'previous' | 'manifest' | 'from' | 'to' | 'time' | 'checkpoint'>,
): Promise<Omit<Receipt, 'previous'>> {
  return {
    ...fields,
    manifest: to.manifestId,
    from: context.keys.siteId,
    to: to.siteId,
    time: context.clock(),
    checkpoint: await context.checkpoint(),
  }
}

/** A signed refusal that is no link of a chain: of an offer that gets no row, or of one range. */
export async function signRefusal(
  context: InboundContext,
  to: { siteId: string; manifestId: string },
  fields: { kind: 'refused' | 'range-refused'; code: ErrorCode; range?: string },
): Promise<SignedReceipt> {
  return signReceipt(await draftReceipt(context, to, fields), context.keys)
}

type Outcome = NonNullable<Parameters<typeof beginTransferring>[0]['outcome']>

const parties = (context: InboundContext, siteId: string): { source: Participant; destination: Participant } => ({
  source: { userId: siteId, requestor: true },
  destination: { userId: context.keys.siteId },
})

const subjects = (manifest: Manifest | undefined, transferId: string, manifestId: string): AuditObject[] => [
  ...(manifest?.studies ?? []).map(study => ({
    kind: 'study' as const,
    studyInstanceUid: study.studyInstanceUid,
    instanceCount: study.instances,
  })),
  { kind: 'transfer', transferId, manifestId },
]

/** A peer begins to send. */
export function offerAccepted(
  context: InboundContext,
  siteId: string,
  transfer: {
    id: string
    manifestId: string
    manifest: Manifest
    decided: { readonly rule: string; readonly policyVersion: number }
  },
): AuditEvent {
  const { rule, policyVersion } = transfer.decided
  return beginTransferring({
    ...parties(context, siteId),
    reason: `rule:${rule}`,
    objects: [
      ...subjects(transfer.manifest, transfer.id, transfer.manifestId),
      { kind: 'policy', version: policyVersion },
    ],
    detail: {
      objects: transfer.manifest.objects.length,
      purpose: transfer.manifest.purpose,
      agreement: transfer.manifest.agreement?.id,
      basis: transfer.manifest.agreement?.basis,
    },
  })
}

/** A transfer has ended here, one way or the other. */
export function transferEnded(
  context: InboundContext,
  siteId: string,
  transfer: { id: string; manifestId: string; manifest: Manifest },
  end: {
    outcome: Outcome
    action?: 'C' | 'R'
    reason?: string
    requestor?: string
    detail?: Record<string, string | number>
  },
): AuditEvent {
  return instancesTransferred({
    ...parties(context, siteId),
    action: end.action ?? 'C',
    outcome: end.outcome,
    objects: subjects(transfer.manifest, transfer.id, transfer.manifestId),
    ...(end.reason !== undefined && { reason: end.reason }),
    ...(end.requestor !== undefined && { requestor: { userId: end.requestor } }),
    ...(end.detail && { detail: end.detail }),
  })
}

/** Something that a peer sent was refused; undefined for codes that are not worth a record. */
export function refusal(
  context: InboundContext,
  siteId: string,
  about: { transferId?: string; manifestId: string; code: ErrorCode; detail?: Record<string, string | number> },
): AuditEvent | undefined {
  const { audit } = errorTable[about.code]
  if (audit === 'none') return undefined
  const objects = subjects(undefined, about.transferId ?? '', about.manifestId)
  const detail = about.detail && { detail: about.detail }
  if (audit === 'failure') {
    return beginTransferring({
      ...parties(context, siteId),
      outcome: 'serious-failure',
      reason: about.code,
      objects,
      ...detail,
    })
  }
  return securityAlert({
    type: eventTypes.restrictedFunction,
    outcome: 'serious-failure',
    reason: about.code,
    participants: [{ userId: siteId, requestor: true }],
    objects,
    ...detail,
  })
}
