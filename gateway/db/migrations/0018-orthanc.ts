/** For Orthanc's clients: where pixel data begin, so that they read what is before, and the list of what was sent. */
import { type Kysely, sql } from 'kysely'

export async function up(db: Kysely<never>): Promise<void> {
  for (const statement of statements) await sql.raw(statement).execute(db)
}

const statements = [
  // Look-ups by Patient ID do not mind its case.
  'create index patients_upper_id on patients (upper(patient_id))',
  'alter table instances add column pixel_data_offset bigint',
  `create table exported_resources (
     seq bigint generated always as identity primary key,
     at timestamptz not null default now(),
     receiver text not null,
     level text not null check (level in ('patient', 'study', 'series', 'instance')),
     orthanc_id text not null,
     patient_id text not null,
     study_instance_uid text,
     series_instance_uid text,
     sop_instance_uid text
   )`,
]
