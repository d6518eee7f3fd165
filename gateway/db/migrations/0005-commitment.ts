/**
 * Storage commitment in both roles (DICOM PS3.4 Annex J), and transfers whose destination is an archive
 * inside the hospital.
 *
 * A commitment's items hold their outcome one by one, so that a request of thousands of instances is
 * verified in pages and goes on where a killed process was.
 */
import { type Kysely, sql } from 'kysely'

export async function up(db: Kysely<never>): Promise<void> {
  for (const statement of statements) await sql.raw(statement).execute(db)
}

const statements = [
  // ---- storage commitment --------------------------------------------------------------------
  // The same request again is the same row; the same transaction UID with other instances is another.
  `create table commitments (
     id uuid primary key,
     direction text not null check (direction in ('received', 'sent')),
     transaction_uid text not null,
     ae_title text not null,
     content_sha256 bytea not null check (length(content_sha256) = 32),
     transfer uuid references transfers on delete cascade,
     state text not null check (state in
       ('verifying', 'reporting', 'reported', 'asking', 'waiting', 'committed', 'failed', 'unanswered', 'abandoned')),
     is_duplicate boolean not null default false,
     instance_count integer not null,
     failed_count integer not null default 0,
     attempts integer not null default 0,
     error_code text,
     error text,
     next_attempt_at timestamptz,
     expires_at timestamptz not null,
     created_at timestamptz not null default now(),
     updated_at timestamptz not null default now(),
     unique (direction, ae_title, transaction_uid, content_sha256)
   )`,
  'create index commitments_transaction on commitments (transaction_uid)',
  'create index commitments_created on commitments (created_at, id)',
  'create index commitments_transfer on commitments (transfer) where transfer is not null',
  `create index commitments_open on commitments (updated_at)
     where state in ('verifying', 'reporting', 'asking', 'waiting')`,
  // outcome: null as long as nobody knows, 0 committed, else the Failure Reason (0008,1197).
  `create table commitment_items (
     commitment uuid not null references commitments on delete cascade,
     ordinal integer not null,
     sop_class_uid text not null,
     sop_instance_uid text not null,
     outcome integer,
     primary key (commitment, ordinal)
   )`,
  'create index commitment_items_instance on commitment_items (sop_instance_uid)',

  // ---- transfers to an archive ----------------------------------------------------------------
  // A destination is a peer or a modality; terms: what the rule asks of a delivery to a modality.
  'alter table transfers add column modality text, add column terms jsonb',
  'alter table transfers drop constraint transfers_state_check',
  `alter table transfers add constraint transfers_state_check check (state in
     ('planned','prepared','signed','sent','receipted','delivered','archived','held','refused','cancelled','expired'))`,
  // What became of one instance: the archive's answer to its C-STORE, and to the commitment request.
  `alter table transfer_items
     add column delivered_at timestamptz,
     add column archived_at timestamptz,
     add column problem text`,
  'create index transfer_items_archived on transfer_items (sop_instance_uid) where archived_at is not null',

  // A foreign patient as the archive knows the same person.
  `create table patient_links (
     issuer text not null,
     patient_id text not null,
     archive_patient_id text not null,
     archive_issuer text,
     archive_name text,
     linked_by text not null,
     created_at timestamptz not null default now(),
     primary key (issuer, patient_id)
   )`,
]
