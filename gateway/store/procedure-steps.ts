/** Rows of performed procedure steps. */
import { type SqlBool, sql } from 'kysely'
import type { Db, Tx } from '../db/db.ts'
import type { ProcedureStepState } from '../db/schema.ts'
import { isObject } from '../decode.ts'
import type { DicomJson } from '../dicom/json.ts'
import { jsonText } from '../dicom/json-read.ts'
import { type PerformedSeries, type PerformedStatus, scheduledSteps } from '../dicom/procedure-step.ts'
import { GatewayError } from '../errors.ts'

export type { ProcedureStepState } from '../db/schema.ts'

/** A performed procedure step as it is stored. */
export interface ProcedureStep {
  readonly id: number
  readonly sopInstanceUid: string
  readonly state: ProcedureStepState
  readonly callingAe: string
  /** DICOM JSON of the whole instance. */
  readonly document: DicomJson
  readonly createdAt: Date
  readonly updatedAt: Date
}

const stateOf: Readonly<Record<PerformedStatus, ProcedureStepState>> = {
  'IN PROGRESS': 'in-progress',
  COMPLETED: 'completed',
  DISCONTINUED: 'discontinued',
}

const columns = ['id', 'sop_instance_uid', 'state', 'calling_ae', 'document', 'created_at', 'updated_at'] as const
const maxKeyCharacters = 256

/** Inserts a step that is in progress; false when one of this UID exists. */
export async function insertProcedureStep(
  tx: Tx,
  step: { readonly sopInstanceUid: string; readonly callingAe: string; readonly document: DicomJson },
): Promise<boolean> {
  const { sopInstanceUid, callingAe, document } = step
  const text = (tag: number): string => jsonText(document, tag).slice(0, maxKeyCharacters)
  const studies = new Set(scheduledSteps(document).map(({ studyInstanceUid }) => studyInstanceUid))
  const inserted = await tx
    .insertInto('procedure_steps')
    .values({
      sop_instance_uid: sopInstanceUid,
      state: 'in-progress',
      calling_ae: callingAe,
      station_ae: text(0x00400241),
      modality: text(0x00080060),
      patient_id: text(0x00100020),
      study_instance_uids: [...studies],
      document: JSON.stringify(document),
    })
    .onConflict(conflict => conflict.doNothing())
    .returning('id')
    .executeTakeFirst()
  return inserted !== undefined
}

/** Locks a step for a change; undefined when there is none. */
export async function lockProcedureStep(tx: Tx, sopInstanceUid: string): Promise<ProcedureStep | undefined> {
  const row = await tx
    .selectFrom('procedure_steps')
    .select(columns)
    .where('sop_instance_uid', '=', sopInstanceUid)
    .forUpdate()
    .executeTakeFirst()
  return row && stepOf(row)
}

/** Writes what a step has become. */
export async function updateProcedureStep(
  tx: Tx,
  sopInstanceUid: string,
  next: { readonly document: DicomJson; readonly status: PerformedStatus },
): Promise<void> {
  await tx
    .updateTable('procedure_steps')
    .set({ document: JSON.stringify(next.document), state: stateOf[next.status], updated_at: new Date() })
    .where('sop_instance_uid', '=', sopInstanceUid)
    .execute()
}

/** What narrows a list down. */
export interface ProcedureStepFilter {
  readonly state?: ProcedureStepState | undefined
  readonly studyInstanceUid?: string | undefined
  readonly patientId?: string | undefined
  /** Only those with a smaller id. */
  readonly before?: number | undefined
  readonly limit: number
}

/** Steps, the newest first. */
export async function loadProcedureSteps(db: Db, filter: ProcedureStepFilter): Promise<ProcedureStep[]> {
  const { state, studyInstanceUid, patientId, before, limit } = filter
  let query = db.kysely.selectFrom('procedure_steps').select(columns)
  if (state !== undefined) query = query.where('state', '=', state)
  if (studyInstanceUid !== undefined)
    query = query.where(sql<SqlBool>`study_instance_uids @> array[${studyInstanceUid}]`)
  if (patientId !== undefined) query = query.where('patient_id', '=', patientId)
  if (before !== undefined) query = query.where('id', '<', before)
  return (await query.orderBy('id', 'desc').limit(limit).execute()).map(stepOf)
}

/** One step by its SOP Instance UID. @throws GatewayError NOT_FOUND */
export async function loadProcedureStep(tx: Tx, sopInstanceUid: string): Promise<ProcedureStep> {
  const row = await tx
    .selectFrom('procedure_steps')
    .select(columns)
    .where('sop_instance_uid', '=', sopInstanceUid)
    .executeTakeFirst()
  if (!row) throw new GatewayError('NOT_FOUND', 'no such procedure step')
  return stepOf(row)
}

/**
 * Makes studies due now that wait for their stable age although everything the performed series name is here. A study
 * whose instances are still on their way keeps waiting as usual.
 *
 * @returns how many studies became due
 */
export async function settleStudies(
  tx: Tx,
  studyInstanceUids: readonly string[],
  series: readonly PerformedSeries[],
): Promise<number> {
  const named = series.flatMap(({ seriesInstanceUid, sopInstanceUids }) =>
    sopInstanceUids.map(uid => ({ seriesInstanceUid, uid })),
  )
  if (named.length === 0 || studyInstanceUids.length === 0) return 0
  const result = await sql`
    with named as (
      select distinct sop, series
        from unnest(${named.map(({ uid }) => uid)}::text[],
                    ${named.map(({ seriesInstanceUid }) => seriesInstanceUid)}::text[]) as given (sop, series)
    ), here as (
      select t.id as study, count(*) as found
        from named
        join instances i on i.sop_instance_uid = named.sop
        join series s on s.id = i.series and s.series_instance_uid = named.series
        join studies t on t.id = s.study and t.study_instance_uid = any(${[...studyInstanceUids]}::text[])
       group by t.id
    )
    update studies set due_at = now()
      from here
     where studies.id = here.study and studies.due_at > now()
       and (select sum(found) from here) >= (select count(*) from named)
  `.execute(tx)
  return Number(result.numAffectedRows ?? 0)
}

function stepOf(row: {
  readonly id: number
  readonly sop_instance_uid: string
  readonly state: ProcedureStepState
  readonly calling_ae: string
  readonly document: unknown
  readonly created_at: Date
  readonly updated_at: Date
}): ProcedureStep {
  return {
    id: row.id,
    sopInstanceUid: row.sop_instance_uid,
    state: row.state,
    callingAe: row.calling_ae,
    document: isDocument(row.document) ? row.document : {},
    createdAt: row.created_at,
    updatedAt: row.updated_at,
  }
}

/** The column holds what this module wrote. */
function isDocument(raw: unknown): raw is DicomJson {
  return isObject(raw)
}
