/**
 * The only writer of the patient/study/series/instance hierarchy.
 *
 * One statement inserts a whole batch with its hierarchy and counters: measured at 0.31 ms CPU per row
 * in batches of 64 against 0.95 ms one by one. Rows are written in a fixed order, so that two writers
 * that touch the same patients wait for each other instead of deadlocking.
 */
import { type RawBuilder, sql } from 'kysely'
import type { SealedEvent } from '../audit/log.ts'
import type { Db, Tx } from '../db/db.ts'
import { isUniqueViolation } from '../db/failure.ts'
import type { InstanceHeader } from '../dicom/instance-header.ts'
import { orthancIds } from '../dicom/orthanc-id.ts'
import { expectedInstances } from '../dicom/series-count.ts'
import { GatewayError } from '../errors.ts'
import type { Origin } from './origin.ts'

/** An instance whose bytes are durable under `fileSha256` and that has no row yet. */
export interface NewInstance {
  readonly header: InstanceHeader
  /** '' for the site's own patients, else the foreign issuer: patients are (issuer, id) everywhere. */
  readonly issuer: string
  readonly fileSha256: Buffer
  readonly datasetSha256: Buffer
  readonly sizeBytes: number
  readonly origin: Origin
  /** When the study counts as complete if nothing more arrives; undefined triggers no routing. */
  readonly dueAt: Date | undefined
}

/** What identifies a stored instance to callers. */
export interface InstanceRef {
  readonly id: number
  readonly orthancId: string
  readonly sopInstanceUid: string
}

export type InsertOutcome =
  | { readonly kind: 'stored'; readonly instance: InstanceRef }
  /** Same SOP Instance UID, transfer syntax and data set. */
  | { readonly kind: 'duplicate'; readonly instance: InstanceRef }
  /** Same SOP Instance UID in another transfer syntax (`variant`) or with other content (`conflict`). */
  | { readonly kind: 'conflict' | 'variant'; readonly instance: InstanceRef }

/**
 * Inserts what is new and reports what was already there; never overwrites.
 *
 * @param batch at most a few hundred instances with pairwise different SOP Instance UIDs
 * @throws GatewayError STATE_CONFLICT when another writer inserted one of the instances meanwhile: repeat the transaction
 */
export async function insertInstances(tx: Tx, batch: readonly NewInstance[]): Promise<InsertOutcome[]> {
  const present = await loadPresent(
    tx,
    batch.map(item => item.header.sopInstanceUid),
  )
  const fresh = batch.filter(item => !present.has(item.header.sopInstanceUid))
  const inserted = fresh.length > 0 ? await insertAlone(tx, fresh) : new Map<string, InstanceRef>()

  return batch.map(item => {
    const stored = inserted.get(item.header.sopInstanceUid)
    if (stored) return { kind: 'stored', instance: stored }
    const existing = present.get(item.header.sopInstanceUid)
    if (!existing) throw new GatewayError('STATE_CONFLICT', 'an instance was inserted by another writer meanwhile')
    return { kind: compare(item, existing), instance: existing }
  })
}

/**
 * Inserts a batch of which nothing is known yet, with its audit events, in one statement that commits
 * when the batch's bytes are durable: the usual case of ingest. Undefined, and nothing written, when
 * one of the instances is known: then `insertInstances` tells them apart.
 *
 * @throws the database's error, also when another writer inserted one of the instances meanwhile
 */
export async function insertUnknown(
  db: Db,
  batch: readonly NewInstance[],
  events: readonly SealedEvent[],
  durable: Promise<unknown>,
): Promise<InstanceRef[] | undefined> {
  const inserted = refsOf(await db.commitWhen(durable, insertFresh(batch, events)))
  const refs = batch.map(item => inserted.get(item.header.sopInstanceUid))
  return refs.every(ref => ref !== undefined) ? refs : undefined
}

/** Keeps the bytes of a conflict or variant as a listed, retrievable row; the same bytes again are the same row. */
export async function holdConflict(
  tx: Tx,
  item: NewInstance,
  existing: InstanceRef,
  kind: 'conflict' | 'variant',
): Promise<number> {
  const row = await tx
    .insertInto('conflicts')
    .values({
      instance: existing.id,
      sop_instance_uid: item.header.sopInstanceUid,
      kind,
      sop_class_uid: item.header.sopClassUid,
      transfer_syntax_uid: item.header.transferSyntaxUid,
      file_sha256: item.fileSha256,
      dataset_sha256: item.datasetSha256,
      size_bytes: item.sizeBytes,
      origin: JSON.stringify(item.origin),
    })
    .onConflict(conflict =>
      conflict
        .columns(['sop_instance_uid', 'transfer_syntax_uid', 'dataset_sha256'])
        // Bytes that were discarded and come again are held again: success is answered for them once more.
        .doUpdateSet({ state: sql`case when conflicts.state = 'discarded' then 'held' else conflicts.state end` }),
    )
    .returning('id')
    .executeTakeFirstOrThrow()
  return row.id
}

interface Present extends InstanceRef {
  readonly transferSyntaxUid: string
  readonly datasetSha256: Buffer
}

async function loadPresent(tx: Tx, uids: readonly string[]): Promise<Map<string, Present>> {
  const rows = await tx
    .selectFrom('instances')
    .select(['id', 'orthanc_id', 'sop_instance_uid', 'transfer_syntax_uid', 'dataset_sha256'])
    .where('sop_instance_uid', '=', sql<string>`any(${uids}::text[])`)
    .execute()
  return new Map(
    rows.map(row => [
      row.sop_instance_uid,
      {
        id: row.id,
        orthancId: row.orthanc_id,
        sopInstanceUid: row.sop_instance_uid,
        transferSyntaxUid: row.transfer_syntax_uid,
        datasetSha256: row.dataset_sha256,
      },
    ]),
  )
}

function compare(item: NewInstance, existing: Present): 'duplicate' | 'conflict' | 'variant' {
  if (item.header.transferSyntaxUid !== existing.transferSyntaxUid) return 'variant'
  return item.datasetSha256.equals(existing.datasetSha256) ? 'duplicate' : 'conflict'
}

/** The slow path's insert: a unique violation means that another writer was faster. */
async function insertAlone(tx: Tx, fresh: readonly NewInstance[]): Promise<Map<string, InstanceRef>> {
  try {
    return refsOf((await insertFresh(fresh, []).execute(tx)).rows)
  } catch (cause) {
    if (!isUniqueViolation(cause)) throw cause
    throw new GatewayError('STATE_CONFLICT', 'an instance was inserted by another writer meanwhile', { cause })
  }
}

/** Inserts all of the instances and events, or, when one of the instances is known, nothing. */
function insertFresh(fresh: readonly NewInstance[], events: readonly SealedEvent[]): RawBuilder<InsertedRow> {
  const input = JSON.stringify(fresh.map(toRow))
  return sql`
    with given as materialized (
      select * from jsonb_to_recordset(${input}::jsonb) as row(
        issuer text, patient_id text, patient_orthanc text, name_folded text, birth_date text, sex text, patient jsonb,
        study_uid text, study_orthanc text, study_date text, study_time text, accession text, description text, study jsonb,
        series_uid text, series_orthanc text, modality text, series jsonb,
        sop_uid text, sop_class text, syntax text, instance_orthanc text, file text, dataset text, size bigint, pixels bigint, expected int, instance jsonb,
        origin jsonb, due_at timestamptz)
    ), input as materialized (
      select * from given where not exists (select from given join instances on sop_instance_uid = sop_uid)
    ), p as (
      insert into patients (issuer, patient_id, orthanc_id, name_folded, birth_date, sex, attributes)
      select distinct on (issuer, patient_id) issuer, patient_id, patient_orthanc, name_folded, birth_date, sex, patient
      from input order by issuer, patient_id
      on conflict (issuer, patient_id) do update set updated_at = now()
      -- A row that this statement inserted has no deleting transaction.
      returning id, issuer, patient_id, orthanc_id, xmax = 0 as is_new
    ), s as (
      insert into studies (patient, study_instance_uid, orthanc_id, name_folded, study_date, study_time,
        accession_number, study_description, modalities, instance_count, size_bytes, attributes, origin, due_at)
      select p.id, i.study_uid, min(i.study_orthanc), (array_agg(i.name_folded))[1], (array_agg(i.study_date))[1],
        (array_agg(i.study_time))[1], (array_agg(i.accession))[1], (array_agg(i.description))[1], coalesce(array_agg(distinct i.modality) filter (where i.modality is not null), '{}'),
        count(*), sum(i.size), (array_agg(i.study))[1], (array_agg(i.origin))[1], max(i.due_at)
      from input i join p using (issuer, patient_id)
      group by p.id, i.study_uid order by p.id, i.study_uid
      on conflict (patient, study_instance_uid) do update set
        instance_count = studies.instance_count + excluded.instance_count,
        size_bytes = studies.size_bytes + excluded.size_bytes,
        modalities = case when studies.modalities @> excluded.modalities then studies.modalities
          else array(select distinct unnest(studies.modalities || excluded.modalities) order by 1) end,
        due_at = coalesce(excluded.due_at, studies.due_at),
        updated_at = now()
      returning id, patient, study_instance_uid, orthanc_id, xmax = 0 as is_new
    ), se as (
      insert into series (study, series_instance_uid, orthanc_id, modality, instance_count, attributes)
      select s.id, i.series_uid, min(i.series_orthanc), (array_agg(i.modality))[1], count(*), (array_agg(i.series))[1]
      from input i join p using (issuer, patient_id)
        join s on s.patient = p.id and s.study_instance_uid = i.study_uid
      group by s.id, i.series_uid order by s.id, i.series_uid
      on conflict (study, series_instance_uid) do update set
        instance_count = series.instance_count + excluded.instance_count, updated_at = now()
      returning id, study, series_instance_uid, orthanc_id, instance_count, xmax = 0 as is_new
    ), i as (
      insert into instances (series, sop_instance_uid, sop_class_uid, transfer_syntax_uid, orthanc_id,
        file_sha256, dataset_sha256, size_bytes, pixel_data_offset, attributes, origin)
      select se.id, i.sop_uid, i.sop_class, i.syntax, i.instance_orthanc, decode(i.file, 'hex'), decode(i.dataset, 'hex'),
        i.size, i.pixels, i.instance, i.origin
      from input i join p using (issuer, patient_id)
        join s on s.patient = p.id and s.study_instance_uid = i.study_uid
        join se on se.study = s.id and se.series_instance_uid = i.series_uid
      order by i.sop_uid
      returning id, orthanc_id, sop_instance_uid
    ), change as (
      insert into change_intake (kinds, levels, resources)
      select array_agg(kind order by place, id), array_agg(level order by place, id), array_agg(orthanc_id order by place, id)
      from (
        select 'NewInstance' as kind, 'instance' as level, orthanc_id, 1 as place, id from i
        union all select 'NewSeries', 'series', orthanc_id, 2, id from se where is_new
        union all select 'NewStudy', 'study', orthanc_id, 3, id from s where is_new
        union all select 'NewPatient', 'patient', orthanc_id, 4, id from p where is_new
        union all select 'CompletedSeries', 'series', orthanc_id, 5, id from se
         where instance_count = (select max(expected) from input where series_orthanc = se.orthanc_id)
      ) fresh having count(*) > 0
    ), a as (
      insert into audit_events (at, salt, payload, commitment)
      select at, salt, payload, commitment
      from unnest(${events.map(event => event.at)}::timestamptz[], ${events.map(event => event.salt)}::bytea[],
        ${events.map(event => event.payload)}::text[], ${events.map(event => event.commitment)}::bytea[])
        with ordinality as event (at, salt, payload, commitment, place)
      where exists (select from input) order by place
    )
    select id, orthanc_id, sop_instance_uid from i`
}

interface InsertedRow {
  readonly id: number
  readonly orthanc_id: string
  readonly sop_instance_uid: string
}

function refsOf(rows: readonly InsertedRow[]): Map<string, InstanceRef> {
  return new Map(
    rows.map(row => [
      row.sop_instance_uid,
      { id: Number(row.id), orthancId: row.orthanc_id, sopInstanceUid: row.sop_instance_uid },
    ]),
  )
}

function toRow(item: NewInstance): Record<string, unknown> {
  const { header, issuer } = item
  const ids = orthancIds({
    patientId: header.patientId,
    issuer,
    studyInstanceUid: header.studyInstanceUid,
    seriesInstanceUid: header.seriesInstanceUid,
    sopInstanceUid: header.sopInstanceUid,
  })
  return {
    issuer,
    patient_id: header.patientId,
    patient_orthanc: ids.patient,
    name_folded: header.nameFolded,
    birth_date: header.patientBirthDate,
    sex: header.patientSex,
    patient: header.attributes.patient,
    study_uid: header.studyInstanceUid,
    study_orthanc: ids.study,
    study_date: header.studyDate,
    study_time: header.studyTime,
    accession: header.accessionNumber,
    description: header.studyDescription,
    // With the patient as this study names it: studies that share a Patient ID by mistake must not swap names.
    study: { ...header.attributes.patient, ...header.attributes.study },
    series_uid: header.seriesInstanceUid,
    series_orthanc: ids.series,
    modality: header.modality,
    series: header.attributes.series,
    sop_uid: header.sopInstanceUid,
    sop_class: header.sopClassUid,
    syntax: header.transferSyntaxUid,
    instance_orthanc: ids.instance,
    file: item.fileSha256.toString('hex'),
    dataset: item.datasetSha256.toString('hex'),
    size: item.sizeBytes,
    pixels: header.pixelDataOffset,
    expected: expectedInstances(header.attributes.series),
    instance: header.attributes.instance,
    origin: item.origin,
    due_at: item.dueAt,
  }
}
