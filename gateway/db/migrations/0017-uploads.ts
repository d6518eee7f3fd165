/** Uploads that may be interrupted and resumed, and what became of each of their files. */
import { type Kysely, sql } from 'kysely'

export async function up(db: Kysely<never>): Promise<void> {
  for (const statement of statements) await sql.raw(statement).execute(db)
}

const statements = [
  // The bytes lie in a file of the same name until they are stored.
  `create table uploads (
     id uuid primary key,
     principal text not null,
     remote_address text,
     size_bytes bigint check (size_bytes >= 0),
     metadata jsonb not null,
     state text not null default 'receiving' check (state in ('receiving', 'storing', 'disc', 'done', 'failed')),
     job uuid,
     error_code text,
     error text,
     created_at timestamptz not null default now(),
     updated_at timestamptz not null default now()
   )`,
  'create index uploads_state on uploads (state, created_at)',
  `create table upload_files (
     upload uuid not null references uploads on delete cascade,
     position integer not null,
     name text not null,
     outcome text not null check (outcome in ('stored', 'duplicate', 'conflict', 'variant', 'not-dicom', 'refused')),
     instance text,
     conflict bigint,
     error_code text,
     error text,
     primary key (upload, position)
   )`,
]
