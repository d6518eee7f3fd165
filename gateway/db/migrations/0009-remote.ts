/** Stored queries of other nodes, users by password, what is being moved in. */
import { type Kysely, sql } from 'kysely'

export async function up(db: Kysely<never>): Promise<void> {
  for (const statement of statements) await sql.raw(statement).execute(db)
}

const statements = [
  `create table remote_queries (
     id uuid primary key,
     modality text not null,
     level text not null check (level in ('patient','study','series','instance')),
     query jsonb not null,
     requested_by text not null,
     created_at timestamptz not null default now()
   )`,
  'create index remote_queries_created on remote_queries (created_at)',
  `create table remote_answers (
     query uuid not null references remote_queries on delete cascade,
     place integer not null,
     document jsonb not null,
     primary key (query, place)
   )`,
  `create table password_users (
     name text primary key,
     salt bytea not null,
     hash bytea not null,
     updated_at timestamptz not null default now()
   )`,
  `create table orthanc_imports (
     id uuid primary key,
     kind text not null check (kind in ('url','storage')),
     source text not null unique,
     sealed text not null,
     state text not null default 'running' check (state in ('running','done','failed')),
     error_code text,
     error text,
     requested_by text not null,
     created_at timestamptz not null default now(),
     updated_at timestamptz not null default now()
   )`,
  `create table orthanc_import_items (
     import uuid not null references orthanc_imports on delete cascade,
     item text not null,
     state text not null check (state in ('imported','failed')),
     problem text,
     primary key (import, item)
   )`,
]
