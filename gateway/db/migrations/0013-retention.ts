/** Legal holds: what nobody may delete, whatever the retention rules say. */
import { type Kysely, sql } from 'kysely'

export async function up(db: Kysely<never>): Promise<void> {
  for (const statement of statements) await sql.raw(statement).execute(db)
}

const statements = [
  // By identifiers, not rows: a hold of a patient is for the studies that are still to come, too.
  `create table legal_holds (
     id uuid primary key,
     issuer text,
     patient_id text,
     study_instance_uid text,
     reason text not null,
     placed_by text not null,
     created_at timestamptz not null default now(),
     released_at timestamptz,
     released_by text,
     check ((issuer is null) = (patient_id is null)),
     check ((patient_id is null) <> (study_instance_uid is null))
   )`,
  'create index legal_holds_patient on legal_holds (issuer, patient_id) where released_at is null',
  'create index legal_holds_study on legal_holds (study_instance_uid) where released_at is null',
]
