/** Endpoints of third parties, the transfers that go to them, and what they answer. */
import { type Kysely, sql } from 'kysely'

export async function up(db: Kysely<never>): Promise<void> {
  for (const statement of statements) await sql.raw(statement).execute(db)
}

const statements = [
  // `sealed` opens with a key that is a file; `pin` is what a person has confirmed, `shown_pin` what the server showed since.
  `create table endpoints (
     name text primary key,
     kind text not null check (kind in ('sftp', 'ftp', 'folder', 's3', 'dimse', 'stow', 'orthanc', 'hand')),
     description text not null default '',
     settings jsonb not null,
     sealed bytea,
     secret_names jsonb not null default '[]',
     pin text,
     shown_pin text,
     packaging jsonb not null,
     rules jsonb not null,
     acknowledgement jsonb,
     profile text,
     state text not null check (state in ('unconfirmed', 'active', 'stopped')),
     reason_code text,
     reason text,
     created_by text not null,
     created_at timestamptz not null default now(),
     updated_at timestamptz not null default now(),
     check ((state = 'stopped') = (reason is not null))
   )`,
  // By name, as modalities: what was sent stays readable when the endpoint is gone.
  'alter table transfers add column endpoint text, add column names jsonb',
  'create index transfers_endpoint on transfers (endpoint, state) where endpoint is not null',
  // The files of a delivery, in their order; what has a time is there under its final name.
  `create table transfer_files (
     transfer uuid not null references transfers on delete cascade,
     ordinal integer not null,
     name text not null,
     role text not null check (role in ('content', 'certificate', 'manifest', 'done')),
     size_bytes bigint not null,
     sha256 bytea not null check (length(sha256) = 32),
     delivered_at timestamptz,
     primary key (transfer, name)
   )`,
  // What the recipient said, by a receipt file or to a person; the file itself is a blob.
  `create table transfer_acknowledgements (
     transfer uuid primary key references transfers on delete cascade,
     outcome text not null check (outcome in ('accepted', 'rejected')),
     reason text not null default '',
     file_name text not null,
     file_sha256 bytea not null check (length(file_sha256) = 32),
     size_bytes bigint not null,
     taken_by text not null,
     taken_at timestamptz not null default now()
   )`,
  'create index transfer_acknowledgements_file on transfer_acknowledgements (file_sha256)',
  `create or replace view transfer_consents as
     select t.id, coalesce(r.site_id, t.modality, t.endpoint) as recipient,
            consent_gap(p.issuer, p.patient_id, t.purpose, coalesce(r.site_id, t.modality, t.endpoint), t.needs_consent,
                        t.zone) as gap
       from transfers t
       left join studies s on s.id = t.study
       left join patients p on p.id = s.patient
       left join peers r on r.id = t.peer`,
]
