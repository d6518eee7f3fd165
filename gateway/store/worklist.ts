/** Rows of the modality worklist. */
import { type SqlBool, sql } from 'kysely'
import type { Db, Tx } from '../db/db.ts'
import type { WorklistSource, WorklistState } from '../db/schema.ts'
import { isObject } from '../decode.ts'
import type { DicomJson } from '../dicom/json.ts'
import { type WorklistEntry, withStepStatus } from '../dicom/worklist-item.ts'
import { GatewayError } from '../errors.ts'

export type { WorklistSource, WorklistState } from '../db/schema.ts'

/** A worklist item as it is stored. */
export interface WorklistItem {
  /** UUID. */
  readonly id: string
  readonly source: WorklistSource
  /** How its source names it; undefined for items made by REST. */
  readonly externalKey: string | undefined
  readonly state: WorklistState
  /** DICOM JSON with one scheduled procedure step, whose status (0040,0020) says the state. */
  readonly document: DicomJson
  readonly createdAt: Date
  readonly updatedAt: Date
}

/** What narrows a search down; an absent field does not. Matching proper is the caller's. */
export interface WorklistFilter {
  readonly states?: readonly WorklistState[] | undefined
  readonly stationAe?: string | undefined
  readonly modality?: string | undefined
  readonly patientId?: string | undefined
  readonly accessionNumber?: string | undefined
  /** Inclusive, `YYYYMMDD`. */
  readonly startFrom?: string | undefined
  readonly startTo?: string | undefined
  readonly source?: WorklistSource | undefined
}

/** Where a page goes on: behind this item in the order of start date, start time and id. */
export interface WorklistPlace {
  readonly startDate: string
  readonly startTime: string
  readonly id: string
}

/** A page of items, the earliest first, and where the next one begins. */
export interface WorklistPage {
  readonly items: readonly WorklistItem[]
  /** Undefined when there are no more. */
  readonly next: WorklistPlace | undefined
}

/** Status in the scheduled step for each state; while scheduled the document's own (SCHEDULED, ARRIVED, READY). */
const statusOf: Readonly<Record<WorklistState, string | undefined>> = {
  scheduled: undefined,
  started: 'STARTED',
  completed: 'COMPLETED',
  discontinued: 'DISCONTINUED',
  cancelled: 'CANCELED',
}

const columns = [
  'id',
  'source',
  'external_key',
  'state',
  'document',
  'start_date',
  'start_time',
  'created_at',
  'updated_at',
] as const

/** Loads one page. */
export async function loadWorklistPage(
  db: Db,
  filter: WorklistFilter,
  page: { readonly limit: number; readonly after?: WorklistPlace | undefined },
): Promise<WorklistPage> {
  const { states, stationAe, modality, patientId, accessionNumber, startFrom, startTo, source } = filter
  const { limit, after } = page
  let query = db.kysely.selectFrom('worklist_items').select(columns)
  if (states) query = query.where('state', 'in', [...states])
  if (stationAe !== undefined) query = query.where(sql<SqlBool>`${stationAe} = any(station_aes)`)
  if (modality !== undefined) query = query.where('modality', '=', modality)
  if (patientId !== undefined) query = query.where('patient_id', '=', patientId)
  if (accessionNumber !== undefined) query = query.where('accession_number', '=', accessionNumber)
  if (startFrom !== undefined) query = query.where('start_date', '>=', startFrom)
  if (startTo !== undefined) query = query.where('start_date', '<=', startTo)
  if (source !== undefined) query = query.where('source', '=', source)
  if (after)
    query = query.where(
      sql<SqlBool>`(start_date, start_time, id) > (${after.startDate}, ${after.startTime}, ${after.id}::uuid)`,
    )
  const rows = await query.orderBy('start_date').orderBy('start_time').orderBy('id').limit(limit).execute()
  const last = rows.length < limit ? undefined : rows.at(-1)
  return {
    items: rows.map(itemOf),
    next: last && { startDate: last.start_date, startTime: last.start_time, id: last.id },
  }
}

/** Loads one item. @throws GatewayError NOT_FOUND */
export async function loadWorklistItem(tx: Tx, id: string): Promise<WorklistItem> {
  const row = await tx.selectFrom('worklist_items').select(columns).where('id', '=', id).executeTakeFirst()
  if (!row) throw new GatewayError('NOT_FOUND', 'no such worklist item')
  return itemOf(row)
}

/** What a put did. `unchanged`: the same document was there. */
export type Put = { readonly id: string; readonly change: 'created' | 'updated' | 'unchanged' }

/** An item of a source; the same id, or the same key of the same source, is the same item. */
export interface NewWorklistItem {
  readonly id: string
  readonly source: WorklistSource
  readonly externalKey?: string | undefined
  /** Names the order that the item belongs to. */
  readonly orderKey?: string | undefined
  readonly entry: WorklistEntry
  /** The state that the source wants it in; without, a new item is scheduled and an old one keeps its state. */
  readonly state?: WorklistState | undefined
}

/** Writes an item, or its new document. @throws GatewayError STATE_CONFLICT when the id is another source's */
export async function putWorklistItem(tx: Tx, item: NewWorklistItem): Promise<Put> {
  const { id, source, externalKey, orderKey, entry, state } = item
  const { keys } = entry
  const fields = {
    order_key: orderKey ?? null,
    study_instance_uid: keys.studyInstanceUid,
    step_id: keys.stepId,
    patient_id: keys.patientId,
    issuer: keys.issuer,
    name_folded: keys.nameFolded,
    accession_number: keys.accessionNumber,
    station_aes: [...keys.stationAes],
    modality: keys.modality,
    start_date: keys.startDate,
    start_time: keys.startTime,
    document: JSON.stringify(entry.document),
  }
  const inserted = await tx
    .insertInto('worklist_items')
    .values({ id, source, external_key: externalKey ?? null, ...fields, ...(state && { state }) })
    .onConflict(conflict => conflict.doNothing())
    .returning('id')
    .executeTakeFirst()
  if (inserted) return { id: inserted.id, change: 'created' }
  const found = await tx
    .selectFrom('worklist_items')
    .select(['id', 'source', 'state', sql<boolean>`document = ${fields.document}::jsonb`.as('same')])
    .where(where =>
      externalKey === undefined
        ? where('id', '=', id)
        : where.and([where('source', '=', source), where('external_key', '=', externalKey)]),
    )
    .forUpdate()
    .executeTakeFirst()
  if (!found || found.source !== source)
    throw new GatewayError('STATE_CONFLICT', 'a worklist item of another source has this id')
  if (found.same && (state === undefined || state === found.state)) return { id: found.id, change: 'unchanged' }
  await tx
    .updateTable('worklist_items')
    .set({ ...fields, ...(state && { state }), updated_at: new Date() })
    .where('id', '=', found.id)
    .execute()
  return { id: found.id, change: 'updated' }
}

/** Whom an item is about; undefined when there is none. */
export async function loadWorklistSubject(tx: Tx, id: string): Promise<WorklistSubject | undefined> {
  return subjects(await tx.selectFrom('worklist_items').select(subjectColumns).where('id', '=', id).execute())[0]
}

/** Deletes items and returns whom they were about. */
export async function deleteWorklistItems(tx: Tx, ids: readonly string[]): Promise<WorklistSubject[]> {
  if (ids.length === 0) return []
  return subjects(
    await tx
      .deleteFrom('worklist_items')
      .where('id', 'in', [...ids])
      .returning(subjectColumns)
      .execute(),
  )
}

/** Whom an item is about, for the audit log. */
export interface WorklistSubject {
  readonly id: string
  readonly patientId: string
  readonly issuer: string
  readonly studyInstanceUid: string
}

const subjectColumns = ['id', 'patient_id', 'issuer', 'study_instance_uid'] as const

/** Puts the items of an order, or of one of its steps, that are in one of the states `from` into another one. */
export async function setOrderState(
  tx: Tx,
  order: { readonly orderKey: string; readonly externalKey?: string | undefined },
  state: WorklistState,
  from: readonly WorklistState[] = ['scheduled', 'started', 'completed', 'discontinued', 'cancelled'],
): Promise<{ readonly known: number; readonly changed: WorklistSubject[] }> {
  const { orderKey, externalKey } = order
  const ofOrder = tx
    .selectFrom('worklist_items')
    .select(['id', 'state'])
    .where('source', '=', 'hl7')
    .where('order_key', '=', orderKey)
  const all = await (externalKey === undefined ? ofOrder : ofOrder.where('external_key', '=', externalKey))
    .forUpdate()
    .execute()
  const ids = all.filter(item => item.state !== state && from.includes(item.state)).map(item => item.id)
  return { known: all.length, changed: await setState(tx, ids, state) }
}

/** A scheduled step as a performed one names it. */
export interface ScheduledStepName {
  readonly studyInstanceUid: string
  /** Scheduled Procedure Step ID; `''` names all of the study. */
  readonly stepId: string
}

/** Follows a performed procedure step: what is cancelled stays so, what is completed is not started again. */
export async function followPerformedStep(
  tx: Tx,
  steps: readonly ScheduledStepName[],
  state: 'started' | 'completed' | 'discontinued',
): Promise<WorklistSubject[]> {
  const final: WorklistState[] = state === 'completed' ? ['cancelled'] : ['cancelled', 'completed']
  const changed: WorklistSubject[] = []
  for (const { studyInstanceUid, stepId } of steps) {
    if (studyInstanceUid === '') continue
    const named = tx
      .selectFrom('worklist_items')
      .select('id')
      .where('study_instance_uid', '=', studyInstanceUid)
      .where('state', 'not in', [...final, state])
    const rows = await (stepId === '' ? named : named.where('step_id', '=', stepId)).forUpdate().execute()
    changed.push(
      ...(await setState(
        tx,
        rows.map(row => row.id),
        state,
      )),
    )
  }
  return changed
}

async function setState(tx: Tx, ids: readonly string[], state: WorklistState): Promise<WorklistSubject[]> {
  if (ids.length === 0) return []
  const rows = await tx
    .updateTable('worklist_items')
    .set({ state, updated_at: new Date() })
    .where('id', 'in', [...ids])
    .returning(subjectColumns)
    .execute()
  return subjects(rows)
}

/** Ids and keys of a source's items whose key begins so. */
export async function loadSourceKeys(
  db: Db,
  source: WorklistSource,
  prefix: string,
): Promise<{ id: string; externalKey: string }[]> {
  const rows = await db.kysely
    .selectFrom('worklist_items')
    .select(['id', 'external_key'])
    .where('source', '=', source)
    .where(sql<SqlBool>`starts_with(external_key, ${prefix})`)
    .execute()
  return rows.map(row => ({ id: row.id, externalKey: row.external_key ?? '' }))
}

function subjects(
  rows: readonly { id: string; patient_id: string; issuer: string; study_instance_uid: string }[],
): WorklistSubject[] {
  return rows.map(row => ({
    id: row.id,
    patientId: row.patient_id,
    issuer: row.issuer,
    studyInstanceUid: row.study_instance_uid,
  }))
}

function itemOf(row: {
  readonly id: string
  readonly source: WorklistSource
  readonly external_key: string | null
  readonly state: WorklistState
  readonly document: unknown
  readonly created_at: Date
  readonly updated_at: Date
}): WorklistItem {
  const document: DicomJson = isDocument(row.document) ? row.document : {}
  return {
    id: row.id,
    source: row.source,
    externalKey: row.external_key ?? undefined,
    state: row.state,
    document: withStepStatus(document, statusOf[row.state]),
    createdAt: row.created_at,
    updatedAt: row.updated_at,
  }
}

/** The column holds what `putWorklistItem` wrote. */
function isDocument(raw: unknown): raw is DicomJson {
  return isObject(raw)
}
