/**
 * What is held for a person, in both directions: why, with the evidence, and what may be done about it. A decision is
 * one of the transfer services' own, with the person's reason beside it.
 */
import { sql } from 'kysely'
import { authorize } from '../../policy/authorize.ts'
import { asIs, profileSource } from '../../policy/document.ts'
import { loadActivePolicy } from '../../policy/versions.ts'
import type { Db, Tx } from '../db/db.ts'
import { GatewayError } from '../errors.ts'
import type { Queue } from '../jobs/queue.ts'
import type { Principal } from '../principal.ts'
import type { Arrivals } from './arrivals.ts'
import type { InboundDecisions } from './inbound-decisions.ts'
import { cancelTransfer, retryTransfer } from './transfers.ts'

/** One instance that stops a transfer. */
export interface HeldInstance {
  readonly sopInstanceUid: string | null
  /** Stable code, and the same in words. */
  readonly code: string
  readonly reason: string
  /** Attributes by keyword, and the rules that they broke; never values. */
  readonly evidence: unknown
  readonly isAlert: boolean
}

/** A held transfer. */
export interface QuarantineEntry {
  readonly id: string
  readonly direction: 'outbound' | 'inbound'
  readonly peer: string | null
  readonly studyInstanceUid: string | null
  readonly rule: string | null
  readonly profile: string | null
  readonly purpose: string
  readonly objectCount: number
  readonly code: string | null
  readonly reason: string | null
  /** Who has to decide: this site, or the receiver. */
  readonly heldBy: 'us' | 'receiver'
  readonly heldInstances: number
  /** Something that must not happen has happened. */
  readonly isAlert: boolean
  readonly createdAt: Date
  readonly updatedAt: Date
}

export interface QuarantineDetail extends QuarantineEntry {
  /** At most 1,000. */
  readonly instances: readonly HeldInstance[]
}

export interface Quarantine {
  /** Newest first; at most `limit`. */
  list(
    principal: Principal,
    filter: { readonly direction?: 'outbound' | 'inbound'; readonly limit: number },
  ): Promise<readonly QuarantineEntry[]>
  /** @throws GatewayError NOT_FOUND unless it is held */
  load(principal: Principal, id: string): Promise<QuarantineDetail>
  /**
   * Tries it again as it is: an inbound one is imported, an outbound one goes through its profile and is sent.
   *
   * @throws GatewayError NOT_FOUND unless it is held, STATE_CONFLICT where the receiver has to decide
   */
  release(principal: Principal, id: string, why: string): Promise<void>
  /** Ends it for good. @throws GatewayError NOT_FOUND unless it is held */
  reject(principal: Principal, id: string, why: string): Promise<void>
  /**
   * Outbound only: sends it under another profile of the active policy.
   *
   * @throws GatewayError NOT_FOUND unless it is held, BAD_REQUEST for an unknown profile, and for `as-is` in the place
   *   of one that de-identifies; STATE_CONFLICT
   */
  rerun(principal: Principal, id: string, profile: string, why: string): Promise<void>
}

const mostInstances = 1_000

export function openQuarantine(options: {
  db: Db
  queue: Queue
  inbound: Pick<InboundDecisions, 'release' | 'reject'>
  /** What arrives at endpoints. */
  arrivals?: Pick<Arrivals, 'isHeld' | 'release' | 'reject'>
}): Quarantine {
  const { db, queue, inbound, arrivals } = options

  /** Whose decision it is to carry out. */
  const decisionsOn = async (id: string): Promise<Pick<InboundDecisions, 'release' | 'reject'>> =>
    arrivals && (await arrivals.isHeld(id)) ? arrivals : inbound

  const find = async (id: string): Promise<QuarantineEntry> => {
    const { rows } = await sql<QuarantineEntry>`
      select * from ((${outboundHeld} and t.id = ${id}::uuid) union all (${inboundHeld} and t.id = ${id}::uuid)
                     union all (${arrivedHeld} and a.id = ${id}::uuid)) held
    `.execute(db.kysely)
    if (!rows[0]) throw new GatewayError('NOT_FOUND', 'nothing of this id is held')
    return rows[0]
  }

  return {
    async list(principal, { direction, limit }) {
      authorize(principal, 'quarantine.read')
      const { rows } = await sql<QuarantineEntry>`
        select * from ((${outboundHeld} and ${direction !== 'inbound'}::boolean)
                       union all (${inboundHeld} and ${direction !== 'outbound'}::boolean)
                       union all (${arrivedHeld} and ${direction !== 'outbound'}::boolean)) held
         order by "updatedAt" desc, id limit ${limit}`.execute(db.kysely)
      return rows
    },
    async load(principal, id) {
      authorize(principal, 'quarantine.read')
      const entry = await find(id)
      const { rows } = await sql<HeldInstance>`
        select * from (
          (select sop_instance_uid as "sopInstanceUid", reason_code as code, reason, evidence, is_alert as "isAlert"
             from quarantine where transfer = ${id}::uuid and state = 'held' order by is_alert desc, id)
          union all
          (select refusal ->> 'sopInstanceUid', refusal ->> 'code', 'the object cannot be taken', '[]'::jsonb, false
             from inbound_transfers t, jsonb_array_elements(t.refusals) refusal where t.id = ${id}::uuid)
        ) instances limit ${mostInstances}`.execute(db.kysely)
      return { ...entry, instances: rows }
    },
    async release(principal, id, why) {
      authorize(principal, 'quarantine.decide')
      const { direction, heldBy } = await find(id)
      if (direction === 'inbound') return await (await decisionsOn(id)).release(id, principal, why)
      if (heldBy === 'receiver') throw receiverDecides()
      await retryTransfer({ db, queue }, id, principal, { why, from: ['held'] })
    },
    async reject(principal, id, why) {
      authorize(principal, 'quarantine.decide')
      const { direction } = await find(id)
      if (direction === 'inbound') return await (await decisionsOn(id)).reject(id, principal, why)
      await cancelTransfer({ db, queue }, id, principal, { why })
    },
    async rerun(principal, id, profile, why) {
      authorize(principal, 'quarantine.decide')
      const { direction, heldBy, profile: before } = await find(id)
      if (direction === 'inbound') throw new GatewayError('STATE_CONFLICT', 'the sender chooses the profile')
      if (heldBy === 'receiver') throw receiverDecides()
      const change = async (tx: Tx): Promise<void> => {
        const policy = await loadActivePolicy(tx)
        if (!policy || profileSource(policy.document, profile) === undefined)
          throw new GatewayError('BAD_REQUEST', 'expected a profile of the active policy')
        if (profile === asIs && before !== asIs)
          throw new GatewayError('BAD_REQUEST', 'what a rule sends de-identified does not go as it is')
        await tx
          .updateTable('transfers')
          .set({ profile, policy_version: policy.version })
          .where('id', '=', id)
          .execute()
      }
      await retryTransfer({ db, queue }, id, principal, { why, from: ['held'], profile, change })
    },
  }
}

/** How many held instances wait of which the engine, or its verification, raised an alarm. */
export async function countAlerts(db: Db): Promise<number> {
  const { rows } = await sql<{ count: number }>`
    select count(*) as count from quarantine where state = 'held' and is_alert`.execute(db.kysely)
  return rows[0]?.count ?? 0
}

function receiverDecides(): GatewayError {
  return new GatewayError('STATE_CONFLICT', 'the receiver holds it and has to decide')
}

const outboundHeld = sql`
  select t.id::text, 'outbound' as direction, p.name as peer, t.study_instance_uid as "studyInstanceUid", t.rule, t.profile,
         t.purpose, t.object_count as "objectCount", t.error_code as code, t.error as reason,
         case when t.manifest_id is null then 'us' else 'receiver' end as "heldBy",
         (select count(*) from quarantine q where q.transfer = t.id and q.state = 'held') as "heldInstances",
         exists (select from quarantine q where q.transfer = t.id and q.state = 'held' and q.is_alert) as "isAlert",
         t.created_at as "createdAt", t.updated_at as "updatedAt"
    from transfers t left join peers p on p.id = t.peer where t.state = 'held'`

const inboundHeld = sql`
  select t.id::text, 'inbound' as direction, p.name as peer, null as "studyInstanceUid", t.rule, null as profile,
         t.purpose, t.object_count as "objectCount", t.error_code as code, t.error as reason, 'us' as "heldBy",
         jsonb_array_length(t.refusals)::bigint as "heldInstances", false as "isAlert",
         t.created_at as "createdAt", t.updated_at as "updatedAt"
    from inbound_transfers t join peers p on p.id = t.peer where t.state = 'held'`

const arrivedHeld = sql`
  select a.id::text, 'inbound' as direction, 'endpoint:' || a.endpoint as peer, null as "studyInstanceUid", a.rule,
         null as profile, coalesce(e.inbound ->> 'purpose', 'treatment') as purpose, a.objects as "objectCount",
         a.reason_code as code, a.reason, 'us' as "heldBy", 0::bigint as "heldInstances", false as "isAlert",
         a.created_at as "createdAt", a.updated_at as "updatedAt"
    from arrivals a join endpoints e on e.name = a.endpoint where a.state = 'held'`
