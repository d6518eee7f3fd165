/** Long work inside the gateway: modifications, anonymizations, archives, as rows with progress and outputs. */
import { type Kysely, sql } from 'kysely'

export async function up(db: Kysely<never>): Promise<void> {
  for (const statement of statements) await sql.raw(statement).execute(db)
}

const statements = [
  // `parameters` is what a job is run again from after a restart; without them it ends as interrupted.
  `create table background_jobs (
     id uuid primary key,
     type text not null,
     state text not null default 'pending'
       check (state in ('pending','running','paused','success','failure')),
     priority integer not null default 0,
     permissive boolean not null default false,
     parameters jsonb,
     content jsonb not null,
     outputs jsonb not null default '{}',
     progress integer not null default 0 check (progress between 0 and 100),
     error_code text,
     error text,
     requested_by text not null,
     requested_from text,
     runtime_ms bigint not null default 0,
     created_at timestamptz not null default clock_timestamp(),
     started_at timestamptz,
     ended_at timestamptz
   )`,
  'create index background_jobs_ended on background_jobs (ended_at, id) where ended_at is not null',
]
