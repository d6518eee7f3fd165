/** Transfers that are de-identified: their outputs, projects, pseudonyms, certificates, and why they are held. */
import { type Kysely, sql } from 'kysely'

export async function up(db: Kysely<never>): Promise<void> {
  for (const statement of statements) await sql.raw(statement).execute(db)
}

const statements = [
  // One recipient, one project, one key; the key is a file, `key_check` tells whether it is still the same one.
  `create table deid_projects (
     id bigint generated always as identity primary key,
     recipient text not null,
     name text not null,
     key_check bytea not null check (length(key_check) = 32),
     next_number integer not null default 1,
     created_at timestamptz not null default now(),
     unique (recipient, name)
   )`,
  'alter table transfers add column project bigint references deid_projects',
  // What is sent in the place of an item. Source and output are named side by side here and nowhere else.
  `create table transfer_outputs (
     transfer uuid not null references transfers on delete cascade,
     ordinal integer not null,
     sop_instance_uid text not null,
     study_instance_uid text not null,
     transfer_syntax_uid text not null,
     size_bytes bigint not null,
     sha256 bytea not null check (length(sha256) = 32),
     facts jsonb not null,
     primary key (transfer, ordinal)
   )`,
  // Subjects and pseudonyms are found by keyed digests; what they are is sealed.
  `create table pseudonyms (
     id bigint generated always as identity primary key,
     project bigint not null references deid_projects,
     subject bytea not null check (length(subject) = 32),
     pseudonym bytea not null check (length(pseudonym) = 32),
     sealed bytea not null,
     origin text not null check (origin in ('keyed', 'sequential', 'imported')),
     created_at timestamptz not null default now(),
     unique (project, subject),
     unique (project, pseudonym)
   )`,
  `create table reidentifications (
     id uuid primary key,
     project bigint not null references deid_projects,
     pseudonym text,
     purpose text not null,
     why text not null,
     state text not null default 'requested' check (state in ('requested', 'approved', 'refused')),
     requested_by text not null,
     requested_at timestamptz not null default now(),
     decided_by text,
     decided_at timestamptz,
     expires_at timestamptz not null,
     check (decided_by is null or decided_by <> requested_by)
   )`,
  'create index reidentifications_requested on reidentifications (requested_at, id)',
  `create table deid_certificates (
     transfer uuid primary key,
     direction text not null check (direction in ('issued', 'received')),
     envelope bytea not null,
     sha256 bytea not null check (length(sha256) = 32),
     created_at timestamptz not null default now()
   )`,
  `alter table quarantine
     add column transfer uuid references transfers on delete cascade,
     add column sop_instance_uid text,
     add column evidence jsonb not null default '[]',
     add column is_alert boolean not null default false,
     add column decided_at timestamptz,
     add column decided_by text,
     add column why text`,
  'create index quarantine_transfer on quarantine (transfer, id)',
]
