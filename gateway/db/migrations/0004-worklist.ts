/**
 * The modality worklist and the procedure steps that modalities report.
 *
 * The document of an item is its whole DICOM JSON with exactly one Scheduled Procedure Step; the columns are
 * what queries narrow down by, copied out of it and bounded, so that an over-long value never fails its item.
 */
import { type Kysely, sql } from 'kysely'

export async function up(db: Kysely<never>): Promise<void> {
  for (const statement of statements) await sql.raw(statement).execute(db)
}

const statements = [
  // `external_key` is how the source names the item: an order for hl7, a path for file, nothing for rest.
  `create table worklist_items (
     id uuid primary key,
     source text not null check (source in ('file', 'rest', 'hl7')),
     external_key text,
     order_key text,
     state text not null default 'scheduled'
       check (state in ('scheduled', 'started', 'completed', 'discontinued', 'cancelled')),
     study_instance_uid text not null default '',
     step_id text not null default '',
     patient_id text not null default '',
     issuer text not null default '',
     name_folded text not null default '',
     accession_number text not null default '',
     station_aes text[] not null default '{}',
     modality text not null default '',
     start_date text not null default '',
     start_time text not null default '',
     document jsonb not null check (octet_length(document::text) <= 1048576),
     created_at timestamptz not null default now(),
     updated_at timestamptz not null default now(),
     unique (source, external_key)
   )`,
  'create index worklist_items_when on worklist_items (start_date, start_time, id)',
  'create index worklist_items_order on worklist_items (source, order_key) where order_key is not null',
  'create index worklist_items_study on worklist_items (study_instance_uid)',
  'create index worklist_items_patient on worklist_items (patient_id)',
  'create index worklist_items_accession on worklist_items (accession_number)',

  // What a modality says that it did (PS3.4 Annex F), whole, as DICOM JSON.
  `create table procedure_steps (
     id bigint generated always as identity primary key,
     sop_instance_uid text not null unique,
     state text not null check (state in ('in-progress', 'completed', 'discontinued')),
     calling_ae text not null,
     station_ae text not null default '',
     modality text not null default '',
     patient_id text not null default '',
     study_instance_uids text[] not null default '{}',
     document jsonb not null check (octet_length(document::text) <= 4194304),
     created_at timestamptz not null default now(),
     updated_at timestamptz not null default now()
   )`,
  'create index procedure_steps_studies on procedure_steps using gin (study_instance_uids)',
]
