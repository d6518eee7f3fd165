/**
 * From a study to its transfers. A study that nothing was added to for its stable age is evaluated
 * against the active policy; each thing the policy wants becomes a `transfers` row with its items,
 * audit event and job in one transaction. Without such a row nothing leaves (invariant 3).
 *
 * Routing sends only what a destination lacks. A person's send is its own trigger and sends everything.
 */

import { createHash, randomBytes, randomUUID } from 'node:crypto'
import { sql } from 'kysely'
import { asksForConsent, findAgreement } from '../../policy/agreements.ts'
import { authorize } from '../../policy/authorize.ts'
import { type Decided, type Decision, decide } from '../../policy/decide.ts'
import { type ArchiveTerms, asIs } from '../../policy/document.ts'
import { loadActivePolicy, type PolicyVersion, profileOf } from '../../policy/versions.ts'
import { beginTransferring } from '../audit/event.ts'
import { appendAudit } from '../audit/log.ts'
import type { Db, Tx } from '../db/db.ts'
import { GatewayError, isGatewayError } from '../errors.ts'
import type { Queue } from '../jobs/queue.ts'
import type { Log } from '../log.ts'
import type { Principal } from '../principal.ts'
import { recordStable } from '../store/changes.ts'
import { findConsentGap } from './consent-transfers.ts'
import { findNameGap } from './endpoint-rows.ts'
import type { DeliveryNames } from './endpoint-transfer-rows.ts'
import { type FindArchive, type RouteTarget, resolveTarget } from './route-target.ts'
import { loadSnapshot, originClasses, type SnapshotItem, type StudySnapshot } from './study-facts.ts'
import { laneOf } from './transfer-lane.ts'

/** A person's wish to send a study. */
export interface SendRequest {
  /** The study's row. */
  readonly study: number
  /** A destination of the active policy, or an active peer by name or site id. */
  readonly destination: string
  /** `destination` is the symbolic name of a modality, of which the active policy must have a destination. */
  readonly isModality?: true
  /** `destination` is the name of an endpoint; the policy need not have a destination of it. */
  readonly isEndpoint?: true
  /** What the delivery is called at an endpoint: fields of its path template. */
  readonly names?: DeliveryNames
  /** What is asked of the delivery, where the destination is a modality. */
  readonly archive?: ArchiveTerms
  readonly purpose: string
  readonly priority: string
  /** De-identification profile by name; default `as-is`, for endpoints theirs. To peers and endpoints only. */
  readonly profile?: string
  readonly principal: Principal
  /** SOP Instance UIDs: only these of the study; all when absent. */
  readonly only?: ReadonlySet<string>
  /** It waits for a consent of the patient, whatever agreements say. */
  readonly needsConsent?: boolean
}

/** Which of a study's instances are looked at: all, or only those that came from peers. */
export type StudyPart = 'all' | 'imported'

export interface Routing {
  /** Evaluates one study now; returns the transfers that came of it. */
  evaluate(studyId: number, which?: StudyPart): Promise<readonly string[]>
  /**
   * Plans a transfer because a person wants it; always everything.
   *
   * @throws GatewayError NOT_FOUND, BAD_REQUEST, POLICY_INVALID when the policy has no such profile
   */
  send(request: SendRequest): Promise<string>
  /** The same in a transaction of the caller. */
  sendIn(tx: Tx, request: SendRequest): Promise<string>
  /** What the active policy says of a study and why; changes nothing. */
  explain(study: number): Promise<Decided & { readonly policyVersion: number | undefined }>
  close(): Promise<void>
}

const scanEveryMs = 500
/** A database that is full or away is not asked, and complained of, twice a second. */
const scanAfterFailureMs = 5_000
const scanLimit = 50
const manualLifetimeHours = 24 * 7

/**
 * Starts watching for due studies and evaluating them.
 *
 * @param options.onArrived  called in the transaction in which a study has become due
 */
export function startRouting(options: {
  db: Db
  queue: Queue
  log: Log
  /** Modalities that are destinations; without it none is known. */
  findArchive?: FindArchive
  onArrived?: (tx: Tx, study: number) => Promise<void>
}): Routing {
  const { db, queue, findArchive = () => undefined, onArrived } = options
  const log = options.log.child({ part: 'routing' })
  let closed = false
  let scanning: Promise<void> = Promise.resolve()
  let timer: NodeJS.Timeout | undefined

  /** Turns due studies into jobs: the due time goes and the job comes in one transaction. */
  const scan = async (): Promise<void> => {
    let pauseMs = scanEveryMs
    try {
      await db.inTransaction(async tx => {
        const due = await sql<{ id: number }>`
          update studies set due_at = null where id in (
            select id from studies where due_at <= now() order by due_at limit ${scanLimit} for update skip locked)
          returning id`.execute(tx)
        for (const { id } of due.rows) {
          await queue.enqueue(tx, 'evaluate-study', { study: id }, { singletonKey: String(id) })
          await recordStable(tx, id)
          await onArrived?.(tx, id)
        }
      })
    } catch (error) {
      log.warn(
        { error: isGatewayError(error) ? error.code : error instanceof Error ? error.name : 'unknown' },
        'cannot look for complete studies, trying again',
      )
      pauseMs = scanAfterFailureMs
    }
    if (!closed) timer = setTimeout(() => (scanning = scan()), pauseMs)
  }

  const evaluate = (studyId: number, part: StudyPart = 'all'): Promise<readonly string[]> =>
    db.inTransaction(async tx => {
      const policy = await loadActivePolicy(tx)
      if (!policy) return []
      const planned: string[] = []
      // What came from peers, or was fetched, is decided apart: only rules that name the origin may speak of it.
      for (const which of originClasses) {
        if (part === 'imported' && which !== 'imported') continue
        const snapshot = await loadSnapshot(tx, studyId, which)
        if (!snapshot || snapshot.items.length === 0) continue
        for (const decision of decide(snapshot.facts, policy.document, new Date()).decisions) {
          if (decision.effect.kind === 'deny') continue
          const id = await plan(tx, {
            snapshot,
            decision,
            policy,
            trigger: 'stable',
            principal: `rule:${decision.rule}`,
          })
          if (id) planned.push(id)
        }
      }
      return planned
    })

  const plan = async (
    tx: Tx,
    input: {
      snapshot: StudySnapshot
      decision: Decision
      policy: PolicyVersion
      trigger: string
      principal: string
      names?: DeliveryNames | undefined
    },
  ): Promise<string | undefined> => {
    const { snapshot, decision, policy, trigger, principal, names } = input
    const { effect, destination } = decision
    const target = await resolveTarget(tx, findArchive, decision, trigger === 'stable' ? 'rule' : 'person')
    const items = trigger === 'stable' ? await lacking(tx, snapshot, destination, target) : snapshot.items
    if (items.length === 0) return undefined
    const id = randomUUID()
    const gap = target.endpoint === undefined ? undefined : await findNameGap(tx, target.endpoint, names ?? {})
    if (gap && trigger !== 'stable') throw new GatewayError(gap.code, gap.message)
    const held =
      effect.kind === 'hold'
        ? { code: 'POLICY_DENIED', message: effect.reason || `rule ${decision.rule} holds it` }
        : (decision.obstacle ?? target.problem ?? gap ?? (await consentGap(tx, snapshot, decision, target)))
    const hours = effect.kind === 'send' ? effect.expiresAfterHours : 24 * 7
    const inserted = await tx
      .insertInto('transfers')
      .values({
        id,
        study: snapshot.study,
        study_instance_uid: snapshot.studyInstanceUid,
        domain: snapshot.domain,
        destination,
        peer: target.peerId ?? null,
        modality: target.modality ?? null,
        endpoint: target.endpoint ?? null,
        names: names ? JSON.stringify(names) : null,
        terms: target.kind === 'modality' ? JSON.stringify((effect.kind === 'send' && effect.archive) || {}) : null,
        trigger,
        rule: decision.rule,
        policy_version: policy.version,
        profile: effect.kind === 'send' ? effect.profile : asIs,
        purpose: effect.kind === 'send' ? effect.purpose : 'unspecified',
        priority: effect.kind === 'send' ? effect.priority : 'normal',
        requested_by: principal,
        agreement: decision.agreement ?? null,
        needs_consent: decision.needsConsent,
        zone: target.zone,
        snapshot_sha256: digestOf(items),
        state: held ? 'held' : 'planned',
        error_code: held?.code ?? null,
        error: held?.message ?? null,
        nonce: randomBytes(16),
        manifest_created: new Date(),
        object_count: items.length,
        bytes_total: items.reduce((sum, item) => sum + item.sizeBytes, 0),
        expires_at: new Date(Date.now() + hours * 3_600_000),
      })
      .onConflict(conflict => conflict.columns(['study', 'destination', 'snapshot_sha256', 'trigger']).doNothing())
      .returning('id')
      .executeTakeFirst()
    if (!inserted) return undefined
    await insertItems(tx, id, items)
    await tx
      .insertInto('transfer_steps')
      .values({
        transfer: id,
        step: held ? 'held' : 'planned',
        detail: JSON.stringify({
          rule: decision.rule,
          policyVersion: policy.version,
          trigger,
          instances: items.length,
        }),
      })
      .execute()
    await appendAudit(
      tx,
      beginTransferring({
        source: { userId: 'gateway' },
        destination: { userId: target.userId },
        requestor: { userId: principal },
        reason: `rule:${decision.rule}`,
        objects: [
          { kind: 'transfer', transferId: id },
          { kind: 'policy', version: policy.version, sha256: policy.sha256 },
          { kind: 'patient', patientId: snapshot.patientId, issuer: snapshot.issuer },
          { kind: 'study', studyInstanceUid: snapshot.studyInstanceUid, instanceCount: items.length },
        ],
      }),
    )
    if (!held) {
      const lane = laneOf({ modality: target.modality ?? null, endpoint: target.endpoint ?? null })
      await queue.enqueue(tx, lane, { transfer: id }, { singletonKey: id })
    }
    return id
  }

  const sendIn = async (tx: Tx, request: SendRequest): Promise<string> => {
    const { study, purpose, priority, archive, principal, only, names, needsConsent = false, ...wish } = request
    authorize(principal, 'study.send')
    const policy = await loadActivePolicy(tx)
    if (!policy) throw new GatewayError('POLICY_DENIED', 'no policy is active: publish one first')
    const { destinations } = policy.document
    const destination = wish.isModality
      ? modalityDestination(destinations, wish.destination)
      : wish.isEndpoint
        ? endpointDestination(destinations, wish.destination)
        : wish.destination
    const named = Object.hasOwn(destinations, destination) ? destinations[destination] : undefined
    const endpoint = named ? named.endpoint : wish.isEndpoint && wish.destination
    const to = named
      ? { peer: named.peer, modality: named.modality, endpoint: named.endpoint, zone: named.zone }
      : { peer: endpoint ? undefined : destination, modality: undefined, endpoint: endpoint || undefined }
    const { kind, problem, userId } = await resolveTarget(tx, findArchive, to, 'person')
    if (problem && kind === 'endpoint') throw new GatewayError('NOT_FOUND', problem.message)
    if (problem) {
      throw new GatewayError('NOT_FOUND', `neither a destination of the policy nor an active peer: ${destination}`)
    }
    const profile = wish.profile ?? (await usualProfile(tx, to.endpoint)) ?? asIs
    if (profile === asIs && kind === 'endpoint')
      throw new GatewayError('BAD_REQUEST', 'nothing goes to an endpoint as it is: name a de-identification profile')
    if (profile !== asIs && kind === 'modality')
      throw new GatewayError('BAD_REQUEST', 'a modality is sent what is stored: de-identified studies go to peers')
    // Asked now, so that a name that does not exist is not a transfer that is held.
    await profileOf(tx, policy.version, profile)
    if (archive && kind !== 'modality') throw new GatewayError('BAD_REQUEST', `${destination} is not a modality`)
    const whole = await loadSnapshot(tx, study, 'all')
    const snapshot =
      whole && only ? { ...whole, items: whole.items.filter(item => only.has(item.sopInstanceUid)) } : whole
    if (!snapshot || snapshot.items.length === 0) throw new GatewayError('NOT_FOUND', 'no such study')
    // A person needs no rule, but where an agreement covers it, its legal basis counts.
    const party = named ? destination : Object.keys(destinations).find(name => destinations[name]?.peer === userId)
    const what = { direction: 'outgoing', party, purpose, profile, facts: snapshot.facts } as const
    const agreement = findAgreement(policy.document, { ...what, at: new Date() })
    const lifetime = { expiresAfterHours: manualLifetimeHours, agreement }
    const terms = { purpose, priority, profile, ...lifetime, archive } as const
    const decision = {
      destination,
      ...to,
      rule: 'manual',
      agreement,
      needsConsent: needsConsent || asksForConsent(policy.document, agreement),
      effect: { kind: 'send', to: [destination], ...terms },
    } as const
    const id = await plan(tx, {
      snapshot,
      decision,
      policy,
      trigger: `manual:${randomUUID()}`,
      principal: principal.id,
      names,
    })
    if (!id) throw new GatewayError('STATE_CONFLICT', 'nothing to send')
    return id
  }

  queue.work('evaluate-study', { concurrency: 2 }, async ({ study, part }) => {
    const planned = await evaluate(study, part)
    log.info({ study, transfers: planned.length }, 'evaluated a complete study')
  })
  scanning = scan()

  return {
    evaluate,
    send: request => db.inTransaction(tx => sendIn(tx, request)),
    sendIn,
    explain: study =>
      db.inTransaction(async tx => {
        const policy = await loadActivePolicy(tx)
        // As `evaluate` does: what came from peers counts apart, and only where nothing else is there.
        let snapshot: StudySnapshot | undefined
        for (const which of originClasses) {
          if (snapshot === undefined || snapshot.items.length === 0) snapshot = await loadSnapshot(tx, study, which)
        }
        if (!snapshot) throw new GatewayError('NOT_FOUND', 'no such study')
        const decided = policy
          ? decide(snapshot.facts, policy.document, new Date())
          : { decisions: [], undecided: [], trace: [] }
        return { ...decided, policyVersion: policy?.version }
      }),
    async close() {
      closed = true
      clearTimeout(timer)
      await scanning
      clearTimeout(timer)
    },
  }
}

/** Whether the patient lets it go. */
async function consentGap(tx: Tx, snapshot: StudySnapshot, decision: Decision, target: RouteTarget) {
  const { issuer, patientId } = snapshot
  const { effect, needsConsent } = decision
  const purpose = effect.kind === 'send' ? effect.purpose : 'unspecified'
  const recipient = target.modality ?? target.userId
  return await findConsentGap(tx, { issuer, patientId, purpose, recipient, needsConsent, zone: target.zone })
}

/** The policy's name of an endpoint; one of its own, which no destination can have, where the policy has none. */
function endpointDestination(
  destinations: Readonly<Record<string, { readonly endpoint?: string | undefined }>>,
  endpoint: string,
): string {
  const found = Object.entries(destinations).find(([, destination]) => destination.endpoint === endpoint)
  return found ? found[0] : `endpoint:${endpoint}`
}

/** The profile that an endpoint is set up with. */
async function usualProfile(tx: Tx, endpoint: string | undefined): Promise<string | undefined> {
  if (endpoint === undefined) return undefined
  const row = await tx.selectFrom('endpoints').select('profile').where('name', '=', endpoint).executeTakeFirst()
  return row?.profile ?? undefined
}

/** @throws GatewayError POLICY_DENIED when the policy has no such destination */
function modalityDestination(
  destinations: Readonly<Record<string, { readonly modality?: string | undefined }>>,
  modality: string,
): string {
  const found = Object.entries(destinations).find(([, destination]) => destination.modality === modality)
  if (!found) throw new GatewayError('POLICY_DENIED', `the policy has no destination for the modality ${modality}`)
  return found[0]
}

/** What the destination has neither been sent nor is about to be, and did not itself send. */
async function lacking(
  tx: Tx,
  snapshot: StudySnapshot,
  destination: string,
  target: Pick<RouteTarget, 'peerId' | 'aeTitle'>,
): Promise<readonly SnapshotItem[]> {
  const sent = await tx
    .selectFrom('transfer_items')
    .innerJoin('transfers', 'transfers.id', 'transfer_items.transfer')
    .select(['sop_instance_uid', 'file_sha256'])
    .where('transfers.study', '=', snapshot.study)
    .where('transfers.destination', '=', destination)
    .where('transfers.state', '<>', 'expired')
    .execute()
  const known = new Set(sent.map(row => `${row.sop_instance_uid} ${row.file_sha256.toString('hex')}`))
  return snapshot.items.filter(
    item =>
      !known.has(`${item.sopInstanceUid} ${item.fileSha256.toString('hex')}`) &&
      (item.peerId === undefined || item.peerId !== target.peerId) &&
      (item.callingAe === undefined || item.callingAe !== target.aeTitle),
  )
}

async function insertItems(tx: Tx, transfer: string, items: readonly SnapshotItem[]): Promise<void> {
  await sql`
    insert into transfer_items (transfer, ordinal, sop_instance_uid, sop_class_uid, transfer_syntax_uid, size_bytes, file_sha256)
    select ${transfer}::uuid, ordinal - 1, sop, class, syntax, size, decode(file, 'hex')
      from unnest(${items.map(item => item.sopInstanceUid)}::text[], ${items.map(item => item.sopClassUid)}::text[],
        ${items.map(item => item.transferSyntaxUid)}::text[], ${items.map(item => item.sizeBytes)}::bigint[],
        ${items.map(item => item.fileSha256.toString('hex'))}::text[])
        with ordinality as item (sop, class, syntax, size, file, ordinal)`.execute(tx)
}

function digestOf(items: readonly SnapshotItem[]): Buffer {
  const lines = items.map(item => `${item.sopInstanceUid} ${item.fileSha256.toString('hex')}\n`).sort()
  return createHash('sha256').update(lines.join('')).digest()
}
