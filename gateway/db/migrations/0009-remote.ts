/** Stored queries of other nodes, users by password, what is being moved in, uploads. */
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
]
