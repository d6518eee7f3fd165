/** What the active policy says of what comes in, before it is taken. Without a rule that accepts it, it is refused. */
import type { Manifest } from '../../peers/manifest.ts'
import { decideIncoming, mayArrive, type OfferFacts } from '../../policy/decide.ts'
import { asIs } from '../../policy/document.ts'
import { loadActivePolicy } from '../../policy/versions.ts'
import type { Db } from '../db/db.ts'
import { GatewayError } from '../errors.ts'
import type { TransferPeer } from './inbound-context.ts'
import { timeFacts } from './time-facts.ts'

/** By what an offer is taken. */
export interface OfferDecision {
  readonly rule: string
  readonly policyVersion: number
  /** Why it is shown to nobody before a person has released it; undefined when it is not held. */
  readonly holdReason: string | undefined
}

/** @throws GatewayError OFFER_REFUSED with the reason, which the offering site is told */
export async function decideOfferByPolicy(
  db: Db['kysely'],
  peer: Pick<TransferPeer, 'siteId' | 'name'>,
  manifest: Manifest,
  now: Date,
): Promise<OfferDecision> {
  const { purpose, profile } = manifest
  const site = { siteId: peer.siteId, name: peer.name }
  return await decide(db, { site, purpose, profile, facts: factsOf(peer, manifest, now) }, now)
}

/** What has arrived at an endpoint. */
export interface ArrivedFacts {
  readonly endpoint: string
  readonly purpose: string
  readonly sizeBytes: number
  readonly instances: number
  readonly sopClassUids: readonly string[]
  readonly studyInstanceUids: readonly string[]
}

/** @throws GatewayError OFFER_REFUSED with the reason */
export async function decideArrivalByPolicy(
  db: Db['kysely'],
  { endpoint, purpose, ...arrived }: ArrivedFacts,
  now: Date,
): Promise<OfferDecision> {
  const facts = {
    OriginKind: ['endpoint'],
    OriginEndpoint: [endpoint],
    OfferPurpose: [purpose],
    OfferProfile: [asIs],
    OfferBytes: [String(arrived.sizeBytes)],
    InstanceCount: [String(arrived.instances)],
    SOPClassUID: arrived.sopClassUids,
    StudyInstanceUID: arrived.studyInstanceUids,
    ...timeFacts(now),
  }
  return await decide(db, { site: { endpoint }, purpose, profile: asIs, facts }, now)
}

/** Nothing is fetched that no rule might let in. @throws GatewayError OFFER_REFUSED */
export async function refuseUnnamedEndpoint(db: Db['kysely'], endpoint: string): Promise<void> {
  const policy = await loadActivePolicy(db)
  if (!policy || !mayArrive(policy.document, endpoint))
    throw new GatewayError(
      'OFFER_REFUSED',
      'no incoming rule of the policy accepts or holds what arrives at this endpoint: nothing is fetched',
    )
}

async function decide(db: Db['kysely'], offer: OfferFacts, now: Date): Promise<OfferDecision> {
  const policy = await loadActivePolicy(db)
  if (!policy) throw new GatewayError('OFFER_REFUSED', 'no policy accepts it')
  const { kind, rule, reason } = decideIncoming(offer, policy.document, now)
  if (kind === 'deny' || rule === undefined)
    throw new GatewayError('OFFER_REFUSED', reason, { context: { rule, policyVersion: policy.version } })
  return { rule, policyVersion: policy.version, holdReason: kind === 'hold' ? reason : undefined }
}

const factsOf = (peer: Pick<TransferPeer, 'siteId'>, { objects, ...manifest }: Manifest, now: Date) => ({
  OriginKind: ['peer'],
  OriginPeer: [peer.siteId],
  OfferPurpose: [manifest.purpose],
  OfferProfile: [manifest.profile],
  OfferPriority: [manifest.priority],
  OfferBytes: [String(objects.reduce((sum, object) => sum + object.sizeBytes, 0))],
  InstanceCount: [String(objects.length)],
  SOPClassUID: [...new Set(objects.map(object => object.sopClassUid))],
  StudyInstanceUID: manifest.studies.map(study => study.studyInstanceUid),
  ...timeFacts(now),
})
