/** The rows of a trial's uploads, and how far their transfers are. */
import { type Kysely, sql } from 'kysely'
import type { Finding } from '../../policy/protocol-check.ts'
import type { Tx } from '../db/db.ts'
import type { Row, Schema } from '../db/schema.ts'
import { GatewayError } from '../errors.ts'

/**
 * Where an upload stands. After `sending` the transfers speak: `delivered` lies at the sponsor, `acknowledged` was
 * confirmed by them, `attention` needs a person: a transfer is held, was refused, cancelled, or has expired.
 */
export type UploadProgress =
  | Exclude<Row<'trial_uploads'>['state'], 'sent'>
  | 'sending'
  | 'delivered'
  | 'acknowledged'
  | 'attention'

/** An upload as people see it. */
export interface TrialUpload {
  readonly id: string
  readonly subject: string
  readonly visit: string
  readonly progress: UploadProgress
  readonly findings: readonly Finding[]
  readonly replaces: string | null
  readonly createdBy: string
  readonly approvedBy: string | null
  /** Why it was approved although it deviates. */
  readonly why: string | null
  /** What the sponsor asked last. */
  readonly query: string | null
  readonly createdAt: Date
  readonly updatedAt: Date
  readonly studies: readonly {
    readonly studyInstanceUid: string
    readonly series: readonly string[] | null
    readonly transfer: string | null
    readonly state: string | null
    readonly error: string | null
  }[]
}

/** An upload as it is worked on. */
export interface UploadRow {
  readonly id: string
  readonly subject: string
  readonly subjectId: number
  readonly visit: string
  readonly state: Row<'trial_uploads'>['state']
  readonly replaces: string | null
  readonly createdBy: string
  readonly why: string | null
  readonly studies: readonly {
    readonly study: number
    readonly series: readonly string[] | null
    /** Of what was approved. */
    readonly sha256: Buffer | null
  }[]
}

/** The upload, locked. @throws GatewayError NOT_FOUND */
export async function lockUpload(tx: Tx, trial: string, id: string): Promise<UploadRow> {
  const { rows } = await sql<Omit<UploadRow, 'studies'>>`
    select u.id, s.code as subject, u.subject as "subjectId", u.visit, u.state, u.replaces,
           u.created_by as "createdBy", u.why
      from trial_uploads u join trial_subjects s on s.id = u.subject
     where u.trial = ${trial} and u.id = ${id} for update of u`.execute(tx)
  const [row] = rows
  if (!row) throw new GatewayError('NOT_FOUND', 'no such upload in this trial')
  const { rows: studies } = await sql<UploadRow['studies'][number]>`
    select study, series, snapshot_sha256 as sha256 from trial_upload_studies
     where upload = ${id} order by ordinal`.execute(tx)
  return { ...row, studies }
}

interface FoundRow extends Omit<TrialUpload, 'progress'> {
  readonly state: Row<'trial_uploads'>['state']
}

/** Of a trial, newest first; or the one. */
export async function findUploads(
  db: Kysely<Schema> | Tx,
  trial: string,
  id?: string,
): Promise<readonly TrialUpload[]> {
  const { rows } = await sql<FoundRow>`
    select u.id, s.code as subject, u.visit, u.state, u.findings, u.replaces, u.created_by as "createdBy",
           u.approved_by as "approvedBy", u.why, u.query, u.created_at as "createdAt", u.updated_at as "updatedAt",
           (select json_agg(json_build_object('studyInstanceUid', c.study_instance_uid, 'series', c.series,
                              'transfer', c.transfer, 'state', t.state, 'error', t.error) order by c.ordinal)
              from trial_upload_studies c left join transfers t on t.id = c.transfer where c.upload = u.id) as studies
      from trial_uploads u join trial_subjects s on s.id = u.subject
     where u.trial = ${trial} and (${id ?? null}::uuid is null or u.id = ${id ?? null}::uuid)
     order by u.created_at desc, u.id limit 10000`.execute(db)
  return rows.map(({ state, ...row }) => ({ ...row, progress: progressOf(state, row.studies) }))
}

function progressOf(state: FoundRow['state'], studies: TrialUpload['studies']): UploadProgress {
  if (state !== 'sent') return state
  const states = studies.map(study => study.state ?? 'gone')
  if (states.some(each => ['held', 'refused', 'cancelled', 'expired', 'gone'].includes(each))) return 'attention'
  if (states.every(each => each === 'receipted')) return 'acknowledged'
  return states.every(each => each === 'receipted' || each === 'delivered') ? 'delivered' : 'sending'
}
