/** Trials: protocols, subjects, who may do what from when to when, uploads, and what happened. */
import { type Kysely, sql } from 'kysely'

export async function up(db: Kysely<never>): Promise<void> {
  for (const statement of statements) await sql.raw(statement).execute(db)
}

const statements = [
  // One trial for each endpoint and protocol: they decide on the keys of its pseudonyms.
  `create table trials (
     name text primary key,
     endpoint text not null,
     protocol text not null,
     document jsonb not null,
     state text not null check (state in ('open', 'closed')),
     created_by text not null,
     created_at timestamptz not null default now(),
     updated_at timestamptz not null default now(),
     unique (endpoint, protocol)
   )`,
  // By the patient's name, not its row: a subject stays whose it is when the images are gone.
  `create table trial_subjects (
     id bigint generated always as identity primary key,
     trial text not null references trials,
     code text not null,
     state text not null check (state in ('declared', 'enrolled', 'withdrawn')),
     day_zero text check (day_zero ~ '^\\d{4}-\\d\\d-\\d\\d$'),
     issuer text,
     patient_id text,
     created_at timestamptz not null default now(),
     updated_at timestamptz not null default now(),
     unique (trial, code),
     unique (trial, issuer, patient_id),
     check ((issuer is null) = (patient_id is null))
   )`,
  `create table trial_delegations (
     id uuid primary key,
     trial text not null references trials,
     person text not null,
     task text not null check (task in ('upload', 'approve', 'answer')),
     valid_from text not null check (valid_from ~ '^\\d{4}-\\d\\d-\\d\\d$'),
     valid_until text check (valid_until ~ '^\\d{4}-\\d\\d-\\d\\d$'),
     created_by text not null,
     created_at timestamptz not null default now(),
     revoked_by text,
     revoked_at timestamptz
   )`,
  'create index trial_delegations_person on trial_delegations (trial, person)',
  `create table trial_uploads (
     id uuid primary key,
     trial text not null references trials,
     subject bigint not null references trial_subjects,
     visit text not null,
     state text not null check (state in ('draft', 'approved', 'sent', 'queried', 'replaced', 'cancelled')),
     findings jsonb not null default '[]',
     replaces uuid references trial_uploads,
     created_by text not null,
     approved_by text,
     approved_at timestamptz,
     why text,
     query text,
     created_at timestamptz not null default now(),
     updated_at timestamptz not null default now()
   )`,
  'create index trial_uploads_visit on trial_uploads (trial, subject, visit)',
  // What was chosen, by UID: rows of studies come and go. The transfer is there once it was sent.
  `create table trial_upload_studies (
     upload uuid not null references trial_uploads on delete cascade,
     ordinal integer not null,
     study bigint not null,
     study_instance_uid text not null,
     series jsonb,
     snapshot_sha256 bytea check (length(snapshot_sha256) = 32),
     transfer uuid,
     primary key (upload, ordinal)
   )`,
  'create index trial_upload_studies_study on trial_upload_studies (study_instance_uid)',
  'create index trial_upload_studies_transfer on trial_upload_studies (transfer) where transfer is not null',
  // The export log: what happened, in order; nothing of the patient.
  `create table trial_events (
     id bigint generated always as identity primary key,
     trial text not null references trials,
     subject bigint references trial_subjects,
     upload uuid references trial_uploads,
     at timestamptz not null default now(),
     person text not null,
     event text not null,
     detail jsonb not null default '{}'
   )`,
  'create index trial_events_trial on trial_events (trial, id)',
]
