/** Workitems of the unified procedure step (DICOM PS3.18 §11): each document whole, with the columns that say who may change it. */
import { type Kysely, sql } from 'kysely'

export async function up(db: Kysely<never>): Promise<void> {
  for (const statement of statements) await sql.raw(statement).execute(db)
}

const statements = [
  `create table workitems (
     id bigint generated always as identity primary key,
     uid text not null unique,
     state text not null check (state in ('SCHEDULED', 'IN PROGRESS', 'COMPLETED', 'CANCELED')),
     transaction_uid text,
     document jsonb not null,
     created_by text not null,
     created_at timestamptz not null default now(),
     updated_at timestamptz not null default now(),
     check ((transaction_uid is null) = (state = 'SCHEDULED') or state = 'CANCELED')
   )`,
  'create index workitems_state on workitems (state, id)',
]
