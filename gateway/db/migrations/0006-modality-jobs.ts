/** Long work with other DICOM nodes: retrievals into the store and sends to a modality. */
import { type Kysely, sql } from 'kysely'

export async function up(db: Kysely<never>): Promise<void> {
  for (const statement of statements) await sql.raw(statement).execute(db)
}

const statements = [
  `create table modality_jobs (
     id uuid primary key,
     kind text not null check (kind in ('retrieve','store')),
     modality text not null,
     keys jsonb not null,
     method text check (method in ('get','move')),
     purpose text not null check (purpose in ('manual','prefetch')),
     requested_by text not null,
     study bigint references studies on delete set null,
     state text not null default 'waiting' check (state in ('waiting','running','done','failed','cancelled')),
     completed integer not null default 0,
     failed integer not null default 0,
     warning integer not null default 0,
     remaining integer,
     attempts integer not null default 0,
     error_code text,
     error text,
     created_at timestamptz not null default now(),
     updated_at timestamptz not null default now()
   )`,
  'create index modality_jobs_created on modality_jobs (created_at, id)',
  // What is fetched for one study is planned once, however often the study is looked at.
  `create unique index modality_jobs_prior on modality_jobs (study, modality, (keys->>'studyUids')) where purpose = 'prefetch'`,
]
