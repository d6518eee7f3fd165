/** What arrives at endpoints: how they are looked at, what was found there, and what became of it. */
import { type Kysely, sql } from 'kysely'

export async function up(db: Kysely<never>): Promise<void> {
  for (const statement of statements) await sql.raw(statement).execute(db)
}

const statements = [
  `alter table endpoints
     add column inbound jsonb,
     add column poll_due_at timestamptz,
     add column polled_at timestamptz,
     add column poll_error_code text,
     add column poll_error text`,
  // Files of one folder that were taken together; `held` waits for a person, `released` for its import.
  `create table arrivals (
     id uuid primary key,
     endpoint text not null references endpoints on delete cascade,
     folder text not null,
     state text not null check (state in ('fetching', 'held', 'released', 'taken', 'refused')),
     signed_by text,
     rule text,
     policy_version integer,
     objects integer not null default 0,
     size_bytes bigint not null default 0,
     reason_code text,
     reason text,
     created_at timestamptz not null default now(),
     updated_at timestamptz not null default now()
   )`,
  `create index arrivals_open on arrivals (endpoint, created_at) where state in ('fetching', 'held', 'released')`,
  // One row for each file as it was seen: the same name with another size or time is another file.
  `create table arriving_files (
     id bigint generated always as identity primary key,
     endpoint text not null references endpoints on delete cascade,
     path text not null,
     size_bytes bigint not null,
     modified text not null default '',
     arrival uuid references arrivals on delete set null,
     state text not null check (state in ('seen', 'fetching', 'fetched', 'taken', 'known', 'failed', 'refused')),
     sha256 bytea check (length(sha256) = 32),
     instances integer not null default 0,
     error_code text,
     error text,
     is_settled boolean not null default false,
     seen_at timestamptz not null default now(),
     updated_at timestamptz not null default now(),
     unique (endpoint, path, size_bytes, modified)
   )`,
  'create index arriving_files_arrival on arriving_files (arrival)',
  'create index arriving_files_digest on arriving_files (endpoint, sha256) where sha256 is not null',
  `create index arriving_files_open on arriving_files (endpoint)
     where state in ('seen', 'fetching', 'fetched') or not is_settled`,
]
