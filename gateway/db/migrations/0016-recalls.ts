/** Recalls: what was sent to a peer and is asked back, and what peers ask back of us. */
import { type Kysely, sql } from 'kysely'

export async function up(db: Kysely<never>): Promise<void> {
  for (const statement of statements) await sql.raw(statement).execute(db)
}

const statements = [
  // Without references: what was asked back stays on record when the transfer's row is gone.
  `create table recalls (
     id uuid primary key,
     direction text not null check (direction in ('sent', 'received')),
     transfer uuid not null,
     peer uuid not null,
     manifest_id text not null,
     state text not null check (state in ('pending', 'recalled', 'refused')),
     reason text not null,
     envelope bytea not null,
     answer bytea,
     instances integer not null default 0,
     requested_by text not null,
     why text,
     decided_by text,
     decided_at timestamptz,
     error_code text,
     attempts integer not null default 0,
     created_at timestamptz not null default now(),
     updated_at timestamptz not null default now(),
     unique (direction, peer, manifest_id)
   )`,
  'create index recalls_created on recalls (created_at desc, id desc)',
]
