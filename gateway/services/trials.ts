/**
 * Trials: their protocols, subjects, and the delegation log. A subject is known by the sponsor's number; whose images
 * they are is linked once, and cannot be another patient's later. `trial-uploads.ts` has what is sent.
 */
import { randomUUID } from 'node:crypto'
import { sql } from 'kysely'
import { authorize } from '../../policy/authorize.ts'
import { asIs } from '../../policy/document.ts'
import { decodeTrialProtocol, trialNamePattern } from '../../policy/trial-protocol.ts'
import { loadActivePolicy, profileOf } from '../../policy/versions.ts'
import type { Db, Tx } from '../db/db.ts'
import type { Row } from '../db/schema.ts'
import { GatewayError } from '../errors.ts'
import type { Queue } from '../jobs/queue.ts'
import type { Principal } from '../principal.ts'
import type { PatientName } from './consents.ts'
import { cancelIn } from './transfers.ts'
import {
  findSubjects,
  type LinkedSubject,
  listTrials,
  loadTrial,
  lockSubject,
  recordTrial,
  type Trial,
  type TrialSubject,
  type TrialTask,
} from './trial-rows.ts'

/** A line of the delegation log. Days are `YYYY-MM-DD`, both included. */
export interface Delegation {
  readonly id: string
  /** As the audit log names people: `token:anna`, `local`. */
  readonly person: string
  readonly task: TrialTask
  readonly from: string
  readonly until: string | null
  readonly createdBy: string
  readonly createdAt: Date
  readonly revokedBy: string | null
  readonly revokedAt: Date | null
}

/** What a withdrawal has done. */
export interface Withdrawal {
  /** Transfers that will not arrive. */
  readonly cancelled: readonly string[]
  /** Uploads that the sponsor has already: what becomes of them is agreed with the sponsor. */
  readonly delivered: readonly string[]
}

export interface Trials {
  list(principal: Principal): Promise<readonly Trial[]>
  /** @throws GatewayError NOT_FOUND */
  load(principal: Principal, name: string): Promise<Trial>
  /**
   * Adds a trial or changes its protocol.
   *
   * @throws GatewayError BAD_REQUEST with all that is wrong; STATE_CONFLICT when endpoint or protocol number would change
   *   after uploads, or another trial has both; NOT_FOUND for an endpoint, POLICY_INVALID for a profile that is not there
   */
  put(principal: Principal, name: string, document: unknown): Promise<Trial>
  setState(principal: Principal, name: string, state: Trial['state']): Promise<void>
  subjects(principal: Principal, trial: string): Promise<readonly TrialSubject[]>
  /** Adds subjects by their numbers; those that are there already stay as they are. */
  declare(principal: Principal, trial: string, codes: readonly string[]): Promise<{ readonly added: number }>
  /** Links a subject with a patient, declared before or not. @throws GatewayError STATE_CONFLICT when one is linked otherwise */
  enrol(
    principal: Principal,
    trial: string,
    subject: { readonly code: string; readonly patient: PatientName; readonly dayZero: string | undefined },
  ): Promise<TrialSubject>
  /** Ends a subject's part: nothing more is sent, and what is on its way is stopped in the same transaction. */
  withdraw(principal: Principal, trial: string, code: string, why: string): Promise<Withdrawal>
  delegations(principal: Principal, trial: string): Promise<readonly Delegation[]>
  delegate(
    principal: Principal,
    trial: string,
    line: Pick<Delegation, 'person' | 'task' | 'from' | 'until'>,
  ): Promise<Delegation>
  revoke(principal: Principal, trial: string, id: string): Promise<void>
}

const mostSubjects = 10_000

/** Opens the service. */
export function openTrials({ db, queue }: { db: Db; queue: Pick<Queue, 'enqueue'> }): Trials {
  return {
    async list(principal) {
      authorize(principal, 'trial.read')
      return await listTrials(db.kysely)
    },
    async load(principal, name) {
      authorize(principal, 'trial.read')
      return await loadTrial(db.kysely, name)
    },
    async put(principal, name, raw) {
      authorize(principal, 'trial.manage')
      if (!trialNamePattern.test(name) || name.includes(' '))
        throw new GatewayError('BAD_REQUEST', 'name: expected letters, digits, dot, dash, underscore')
      const document = decodeTrialProtocol(raw)
      const { endpoint, protocol, profile } = document
      return await db.inTransaction(async tx => {
        if (profile === asIs) throw new GatewayError('BAD_REQUEST', `profile: nothing of a trial goes ${asIs}`)
        const policy = await loadActivePolicy(tx)
        if (!policy) throw new GatewayError('POLICY_DENIED', 'no policy is active: publish one first')
        await profileOf(tx, policy.version, profile)
        const to = await tx.selectFrom('endpoints').select('name').where('name', '=', endpoint).executeTakeFirst()
        if (!to) throw new GatewayError('NOT_FOUND', `there is no endpoint ${endpoint}: hanse endpoint add`)
        const before = await tx.selectFrom('trials').selectAll().where('name', '=', name).forUpdate().executeTakeFirst()
        const isMoved = before && (before.endpoint !== endpoint || before.protocol !== protocol)
        if (isMoved && (await hasUploads(tx, name)))
          throw new GatewayError(
            'STATE_CONFLICT',
            'endpoint and protocol decide on the pseudonyms: with uploads there they stay as they are',
          )
        const values = { endpoint, protocol, document: JSON.stringify(document), updated_at: new Date() }
        const other = await tx
          .selectFrom('trials')
          .select('name')
          .where('endpoint', '=', endpoint)
          .where('protocol', '=', protocol)
          .where('name', '<>', name)
          .executeTakeFirst()
        if (other)
          throw new GatewayError('STATE_CONFLICT', `the trial ${other.name} has this protocol at this endpoint already`)
        await tx
          .insertInto('trials')
          .values({ name, state: 'open', created_by: principal.id, ...values })
          .onConflict(conflict => conflict.column('name').doUpdateSet(values))
          .execute()
        await recordTrial(tx, principal, { trial: name, event: before ? 'trial-changed' : 'trial-created' })
        return await loadTrial(tx, name)
      })
    },
    async setState(principal, name, state) {
      authorize(principal, 'trial.manage')
      await db.inTransaction(async tx => {
        await loadTrial(tx, name)
        await sql`update trials set state = ${state}, updated_at = now() where name = ${name}`.execute(tx)
        await recordTrial(tx, principal, {
          trial: name,
          event: state === 'open' ? 'trial-reopened' : 'trial-closed',
        })
      })
    },
    async subjects(principal, trial) {
      authorize(principal, 'trial.read')
      await loadTrial(db.kysely, trial)
      return (await findSubjects(db.kysely, trial)).map(withoutPatient)
    },
    async declare(principal, trial, codes) {
      authorize(principal, 'trial.manage')
      return await db.inTransaction(async tx => {
        await loadTrial(tx, trial, 'open')
        let added = 0
        for (const code of new Set(codes)) if (await addSubject(tx, principal, trial, code)) added += 1
        const { rows } = await sql<{ count: number }>`
          select count(*)::integer as count from trial_subjects where trial = ${trial}`.execute(tx)
        if ((rows[0]?.count ?? 0) > mostSubjects)
          throw new GatewayError('BAD_REQUEST', `a trial has at most ${mostSubjects} subjects`)
        return { added }
      })
    },
    async enrol(principal, trial, { code, patient, dayZero }) {
      authorize(principal, 'trial.manage')
      return await db.inTransaction(async tx => {
        await loadTrial(tx, trial, 'open')
        await addSubject(tx, principal, trial, code)
        const known = await lockSubject(tx, trial, code)
        if (known.state === 'withdrawn') throw new GatewayError('STATE_CONFLICT', `subject ${code} has withdrawn`)
        const isOther =
          known.patient && (known.patient.patientId !== patient.patientId || known.patient.issuer !== patient.issuer)
        if (isOther) throw new GatewayError('STATE_CONFLICT', `subject ${code} is linked with another patient already`)
        const taken = await tx
          .selectFrom('trial_subjects')
          .select('code')
          .where('trial', '=', trial)
          .where('issuer', '=', patient.issuer)
          .where('patient_id', '=', patient.patientId)
          .where('code', '<>', code)
          .executeTakeFirst()
        if (taken)
          throw new GatewayError('STATE_CONFLICT', `the patient is subject ${taken.code} of this trial already`)
        await sql`
          update trial_subjects
             set state = 'enrolled', issuer = ${patient.issuer}, patient_id = ${patient.patientId},
                 day_zero = coalesce(${dayZero ?? null}, day_zero), updated_at = now()
           where id = ${known.id}`.execute(tx)
        await recordTrial(tx, principal, { trial, event: 'subject-enrolled', subject: known.id })
        return withoutPatient(await lockSubject(tx, trial, code))
      })
    },
    async withdraw(principal, trial, code, why) {
      authorize(principal, 'trial.manage')
      return await db.inTransaction(async tx => {
        const { id, state } = await lockSubject(tx, trial, code)
        if (state === 'withdrawn') throw new GatewayError('STATE_CONFLICT', `subject ${code} has withdrawn already`)
        await sql`update trial_subjects set state = 'withdrawn', updated_at = now() where id = ${id}`.execute(tx)
        const { rows } = await sql<{ transfer: string; upload: string; isOver: boolean }>`
          select t.id as transfer, u.id as upload, t.state in ('delivered', 'receipted') as "isOver"
            from trial_uploads u join trial_upload_studies s on s.upload = u.id join transfers t on t.id = s.transfer
           where u.subject = ${id} and t.state in ('planned', 'prepared', 'signed', 'sent', 'held', 'delivered', 'receipted')
           order by t.id for update of t`.execute(tx)
        const cancelled = rows.filter(row => !row.isOver).map(row => row.transfer)
        for (const transfer of cancelled) await cancelIn(tx, queue, transfer, principal, { why })
        await sql`update trial_uploads set state = 'cancelled', updated_at = now()
                   where subject = ${id} and state in ('draft', 'approved')`.execute(tx)
        const delivered = [...new Set(rows.filter(row => row.isOver).map(row => row.upload))]
        await recordTrial(tx, principal, {
          ...{ trial, event: 'subject-withdrawn', subject: id },
          detail: { why, cancelled: cancelled.length, delivered: delivered.length },
        })
        return { cancelled, delivered }
      })
    },
    async delegations(principal, trial) {
      authorize(principal, 'trial.read')
      await loadTrial(db.kysely, trial)
      const query = db.kysely.selectFrom('trial_delegations').selectAll().where('trial', '=', trial)
      return (await query.orderBy('created_at').orderBy('id').execute()).map(delegationOf)
    },
    async delegate(principal, trial, { person, task, from, until }) {
      authorize(principal, 'trial.delegate')
      if (until !== null && until < from)
        throw new GatewayError('BAD_REQUEST', 'expected a period that does not end before it begins')
      return await db.inTransaction(async tx => {
        await loadTrial(tx, trial)
        const row = await tx
          .insertInto('trial_delegations')
          .values({
            ...{ id: randomUUID(), trial, person, task, created_by: principal.id },
            ...{ valid_from: from, valid_until: until },
          })
          .returningAll()
          .executeTakeFirstOrThrow()
        await recordTrial(tx, principal, { trial, event: 'task-delegated', detail: { person, task } })
        return delegationOf(row)
      })
    },
    async revoke(principal, trial, id) {
      authorize(principal, 'trial.delegate')
      await db.inTransaction(async tx => {
        const { rows } = await sql<{ person: string; task: string }>`
          update trial_delegations set revoked_at = now(), revoked_by = ${principal.id}
           where id = ${id} and trial = ${trial} and revoked_at is null returning person, task`.execute(tx)
        const [line] = rows
        if (!line) throw new GatewayError('NOT_FOUND', 'no such line of the delegation log, or it was revoked before')
        await recordTrial(tx, principal, { trial, event: 'delegation-revoked', detail: line })
      })
    },
  }
}

async function hasUploads(tx: Tx, trial: string): Promise<boolean> {
  const row = await tx.selectFrom('trial_uploads').select('id').where('trial', '=', trial).limit(1).executeTakeFirst()
  return row !== undefined
}

/** False when it is there already. */
async function addSubject(tx: Tx, principal: Principal, trial: string, code: string): Promise<boolean> {
  if (!trialNamePattern.test(code))
    throw new GatewayError('BAD_REQUEST', 'subject: expected letters, digits, space, dot, dash, underscore')
  const added = await tx
    .insertInto('trial_subjects')
    .values({ trial, code, state: 'declared', day_zero: null, issuer: null, patient_id: null })
    .onConflict(conflict => conflict.columns(['trial', 'code']).doNothing())
    .returning('id')
    .executeTakeFirst()
  if (added) await recordTrial(tx, principal, { trial, event: 'subject-declared', subject: added.id })
  return added !== undefined
}

function withoutPatient({ patient: _, ...subject }: LinkedSubject): TrialSubject {
  return subject
}

function delegationOf(row: Row<'trial_delegations'>): Delegation {
  return {
    id: row.id,
    person: row.person,
    task: row.task,
    from: row.valid_from,
    until: row.valid_until,
    createdBy: row.created_by,
    createdAt: row.created_at,
    revokedBy: row.revoked_by,
    revokedAt: row.revoked_at,
  }
}
