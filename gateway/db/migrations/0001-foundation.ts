/**
 * The first schema: store, peers, transfers, policy, audit.
 *
 * Constraints carry the invariants; code maps their violations. Digests are 32-byte `bytea`,
 * instants `timestamptz`, sizes bytes. Keys that are matched are bounded, folded columns: one
 * over-long or NUL-carrying value must not fail its batch.
 */
import { type Kysely, sql } from 'kysely'

export async function up(db: Kysely<never>): Promise<void> {
  for (const statement of statements) await sql.raw(statement).execute(db)
}

const statements = [
  // Settings of the site that change without a restart (JSON by name), with their version.
  `create table settings (
     name text primary key,
     value jsonb not null,
     version integer not null default 1,
     updated_at timestamptz not null default now()
   )`,

  // Bearer tokens of the HTTP API: only their digests are kept.
  `create table access_tokens (
     id bigint generated always as identity primary key,
     name text not null,
     sha256 bytea not null unique check (length(sha256) = 32),
     created_by text not null,
     created_at timestamptz not null default now(),
     revoked_at timestamptz
   )`,
  'create unique index access_tokens_name on access_tokens (name) where revoked_at is null',

  // ---- store -------------------------------------------------------------------------------
  // A patient is (issuer, id). '' is the site's own issuer; foreign sites' patients stay foreign.
  `create table patients (
     id bigint generated always as identity primary key,
     issuer text not null default '',
     patient_id text not null default '',
     orthanc_id text not null unique,
     name_folded text not null default '',
     birth_date text,
     sex text,
     attributes jsonb not null default '{}',
     created_at timestamptz not null default now(),
     updated_at timestamptz not null default now(),
     unique (issuer, patient_id)
   )`,
  `create table studies (
     id bigint generated always as identity primary key,
     patient bigint not null references patients,
     study_instance_uid text not null,
     orthanc_id text not null unique,
     domain text not null default '',
     study_date text,
     study_time text,
     accession_number text,
     study_description text,
     modalities text[] not null default '{}',
     instance_count integer not null default 0,
     size_bytes bigint not null default 0,
     attributes jsonb not null default '{}',
     origin jsonb not null default '{}',
     due_at timestamptz,
     created_at timestamptz not null default now(),
     updated_at timestamptz not null default now(),
     unique (patient, study_instance_uid)
   )`,
  'create index studies_uid on studies (study_instance_uid)',
  'create index studies_due on studies (due_at) where due_at is not null',
  `create table series (
     id bigint generated always as identity primary key,
     study bigint not null references studies,
     series_instance_uid text not null,
     orthanc_id text not null unique,
     modality text,
     instance_count integer not null default 0,
     attributes jsonb not null default '{}',
     created_at timestamptz not null default now(),
     updated_at timestamptz not null default now(),
     unique (study, series_instance_uid)
   )`,
  'create index series_uid on series (series_instance_uid)',
  `create table instances (
     id bigint generated always as identity primary key,
     series bigint not null references series,
     sop_instance_uid text not null unique,
     sop_class_uid text not null,
     transfer_syntax_uid text not null,
     orthanc_id text not null unique,
     file_sha256 bytea not null check (length(file_sha256) = 32),
     dataset_sha256 bytea not null check (length(dataset_sha256) = 32),
     size_bytes bigint not null,
     attributes jsonb not null default '{}',
     origin jsonb not null default '{}',
     created_at timestamptz not null default now()
   )`,
  'create index instances_series on instances (series)',
  'create index instances_file on instances (file_sha256)',
  // Same SOP Instance UID, other bytes: kept, listed, retrievable, decided by a person.
  `create table conflicts (
     id bigint generated always as identity primary key,
     instance bigint references instances,
     sop_instance_uid text not null,
     kind text not null check (kind in ('conflict', 'variant')),
     state text not null default 'held' check (state in ('held', 'kept', 'replaced', 'discarded')),
     sop_class_uid text not null,
     transfer_syntax_uid text not null,
     file_sha256 bytea not null check (length(file_sha256) = 32),
     dataset_sha256 bytea not null check (length(dataset_sha256) = 32),
     size_bytes bigint not null,
     origin jsonb not null default '{}',
     created_at timestamptz not null default now(),
     decided_at timestamptz,
     decided_by text,
     unique (sop_instance_uid, transfer_syntax_uid, dataset_sha256)
   )`,
  'create index conflicts_file on conflicts (file_sha256)',
  // What could not become an instance: unreadable or refused bytes worth a person's look.
  `create table quarantine (
     id bigint generated always as identity primary key,
     reason_code text not null,
     reason text not null,
     file_sha256 bytea check (length(file_sha256) = 32),
     size_bytes bigint,
     inbound uuid,
     object integer,
     origin jsonb not null default '{}',
     state text not null default 'held' check (state in ('held', 'released', 'rejected')),
     created_at timestamptz not null default now()
   )`,
  'create index quarantine_file on quarantine (file_sha256)',

  // ---- peers -------------------------------------------------------------------------------
  `create table peers (
     id uuid primary key,
     site_id text not null,
     name text not null,
     state text not null check (state in ('pending', 'active', 'revoked')),
     url text,
     card bytea not null,
     ca_certificate text not null,
     ca_fingerprint bytea not null check (length(ca_fingerprint) = 32),
     signing_key bytea not null check (length(signing_key) = 32),
     sealing_key bytea not null check (length(sealing_key) = 32),
     sas text,
     agreement jsonb not null default '{}',
     confirmed_at timestamptz,
     revoked_at timestamptz,
     created_at timestamptz not null default now()
   )`,
  // A revoked peer keeps its row; the same site, paired again, is a new one of the same name and CA.
  `create unique index peers_site on peers (site_id) where state <> 'revoked'`,
  `create unique index peers_name on peers (name) where state <> 'revoked'`,
  `create unique index peers_ca on peers (ca_fingerprint) where state <> 'revoked'`,
  `create table invitations (
     id uuid primary key,
     certificate_fingerprint bytea not null unique,
     state text not null default 'open' check (state in ('open', 'started', 'redeemed', 'cancelled')),
     exchange jsonb,
     peer uuid references peers,
     expires_at timestamptz not null,
     created_at timestamptz not null default now()
   )`,

  // ---- policy ------------------------------------------------------------------------------
  `create table policy_versions (
     version integer primary key,
     document jsonb not null,
     sha256 bytea not null check (length(sha256) = 32),
     author text not null,
     created_at timestamptz not null default now()
   )`,
  `create table policy_active (
     singleton boolean primary key default true check (singleton),
     version integer not null references policy_versions,
     published_by text not null,
     published_at timestamptz not null default now()
   )`,

  // ---- outbound transfers --------------------------------------------------------------------
  `create table transfers (
     id uuid primary key,
     study bigint references studies,
     study_instance_uid text not null,
     domain text not null default '',
     destination text not null,
     peer uuid references peers,
     trigger text not null,
     rule text not null,
     policy_version integer not null references policy_versions,
     profile text not null,
     purpose text not null,
     priority text not null default 'normal',
     requested_by text not null,
     snapshot_sha256 bytea not null check (length(snapshot_sha256) = 32),
     state text not null check (state in ('planned','prepared','signed','sent','receipted','held','refused','cancelled','expired')),
     nonce bytea not null,
     manifest_created timestamptz not null,
     manifest bytea,
     manifest_id text unique,
     object_count integer not null,
     bytes_total bigint not null,
     bytes_acknowledged bigint not null default 0,
     bytes_sent bigint not null default 0,
     attempts integer not null default 0,
     error_code text,
     error text,
     next_attempt_at timestamptz,
     expires_at timestamptz not null,
     created_at timestamptz not null default now(),
     updated_at timestamptz not null default now(),
     unique (study, destination, snapshot_sha256, trigger)
   )`,
  'create index transfers_state on transfers (state, created_at)',
  'create index transfers_created on transfers (created_at, id)',
  `create table transfer_items (
     transfer uuid not null references transfers on delete cascade,
     ordinal integer not null,
     sop_instance_uid text not null,
     sop_class_uid text not null,
     transfer_syntax_uid text not null,
     size_bytes bigint not null,
     file_sha256 bytea not null check (length(file_sha256) = 32),
     primary key (transfer, ordinal)
   )`,
  'create index transfer_items_file on transfer_items (file_sha256)',
  // The time line a person reads: one row per step, either direction.
  `create table transfer_steps (
     id bigint generated always as identity primary key,
     transfer uuid not null,
     at timestamptz not null default now(),
     step text not null,
     detail jsonb not null default '{}'
   )`,
  'create index transfer_steps_transfer on transfer_steps (transfer, id)',

  // ---- inbound transfers ---------------------------------------------------------------------
  `create table inbound_transfers (
     id uuid primary key,
     peer uuid not null references peers,
     manifest_id text not null,
     manifest bytea not null,
     state text not null check (state in ('receiving','committing','imported','held','refused','cancelled','expired')),
     purpose text not null,
     object_count integer not null,
     leaf_count integer not null,
     bytes_total bigint not null,
     bytes_received bigint not null default 0,
     received bytea not null,
     refusals jsonb not null default '[]',
     error_code text,
     error text,
     expires_at timestamptz not null,
     created_at timestamptz not null default now(),
     updated_at timestamptz not null default now(),
     unique (peer, manifest_id)
   )`,
  'create index inbound_transfers_created on inbound_transfers (created_at, id)',
  // Receipts, ours and theirs: the exact signed envelope.
  `create table receipts (
     id bigint generated always as identity primary key,
     transfer uuid not null,
     direction text not null check (direction in ('issued', 'received')),
     kind text not null,
     envelope bytea not null,
     sha256 bytea not null check (length(sha256) = 32),
     created_at timestamptz not null default now(),
     unique (transfer, direction, kind)
   )`,

  // ---- audit ---------------------------------------------------------------------------------
  // An event is committed to by sha256(salt || payload): erasing salt and payload leaves the log verifiable.
  `create table audit_events (
     id bigint generated always as identity primary key,
     at timestamptz not null default now(),
     salt bytea,
     payload text,
     commitment bytea not null check (length(commitment) = 32),
     check ((salt is null) = (payload is null))
   )`,
  // The Merkle log (RFC 6962 tree over commitments), filled after commit by the one sequencer.
  `create table audit_leaves (
     leaf_index bigint primary key,
     event bigint not null unique,
     commitment bytea not null
   )`,
  // settled: every event id up to it is a leaf or will never exist (its transaction rolled back).
  `create table audit_tree (
     singleton boolean primary key default true check (singleton),
     size bigint not null,
     frontier bytea[] not null,
     settled bigint not null default 0
   )`,
  `insert into audit_tree (size, frontier) values (0, '{}')`,
  `create table audit_checkpoints (
     size bigint primary key,
     root bytea not null check (length(root) = 32),
     note text not null,
     created_at timestamptz not null default now()
   )`,
  // Append only, for the gateway's own role too.
  'revoke update, delete, truncate on audit_leaves, audit_checkpoints from current_user',
  'revoke update, delete, truncate on audit_events from current_user',
  'grant update (salt, payload) on audit_events to current_user',
]
