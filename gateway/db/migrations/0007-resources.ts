/**
 * What Orthanc's API keeps beside the hierarchy: the feed of changes, metadata, labels and attachments of resources,
 * and what is needed to delete them.
 *
 * Changes get their position after commit, by one sequencer at a time: a sequence drawn before commit becomes visible
 * out of order, and whoever reads by position would skip rows. Until then they wait in `change_intake`, one row for
 * each transaction.
 */
import { type Kysely, sql } from 'kysely'

export async function up(db: Kysely<never>): Promise<void> {
  for (const statement of statements) await sql.raw(statement).execute(db)
}

const levelCheck = `check (level in ('patient', 'study', 'series', 'instance'))`
const tables = { patient: 'patients', study: 'studies', series: 'series', instance: 'instances' }

const statements = [
  // ---- changes ---------------------------------------------------------------------------------
  // Lists of equal length: kind, level and Orthanc id of each change.
  `create table change_intake (
     id bigint generated always as identity primary key,
     at timestamptz not null default now(),
     kinds text[] not null,
     levels text[] not null,
     resources text[] not null
   )`,
  `create table changes (
     seq bigint primary key,
     kind text not null,
     level text not null ${levelCheck},
     resource text not null,
     at timestamptz not null
   )`,
  // Readers that do not ask for deletions do not walk through them, nor readers of rare kinds through instances.
  `create index changes_present on changes (seq) where kind <> 'Deleted'`,
  `create index changes_rare on changes (kind, seq) where kind <> 'NewInstance'`,
  'create index changes_resource on changes using hash (resource)',
  `create table change_feed (
     singleton boolean primary key default true check (singleton),
     last bigint not null default 0
   )`,
  `insert into changes (seq, kind, level, resource, at)
   select row_number() over (order by at, place, id), kind, level, orthanc_id, at from (
     select 'NewInstance' as kind, 'instance' as level, orthanc_id, created_at as at, 1 as place, id from instances
     union all select 'NewSeries', 'series', orthanc_id, created_at, 2, id from series
     union all select 'NewStudy', 'study', orthanc_id, created_at, 3, id from studies
     union all select 'NewPatient', 'patient', orthanc_id, created_at, 4, id from patients
   ) known`,
  'insert into change_feed (last) select coalesce(max(seq), 0) from changes',

  // ---- beside the hierarchy -----------------------------------------------------------------------
  `create table resource_metadata (
     level text not null ${levelCheck},
     resource bigint not null,
     name integer not null check (name between 0 and 65535),
     value text not null,
     revision bigint not null default 0,
     primary key (level, resource, name)
   )`,
  `create table resource_labels (
     level text not null ${levelCheck},
     resource bigint not null,
     label text not null check (label ~ '^[A-Za-z0-9_-]{1,64}$'),
     primary key (level, resource, label)
   )`,
  'create index resource_labels_label on resource_labels (label, level, resource)',
  // The bytes are blobs: as they are stored (compressed or not), with what they are when they are uncompressed.
  `create table resource_attachments (
     level text not null ${levelCheck},
     resource bigint not null,
     name integer not null check (name between 0 and 65535),
     uuid uuid not null,
     revision bigint not null default 0,
     is_compressed boolean not null default false,
     file_sha256 bytea not null check (length(file_sha256) = 32),
     size_bytes bigint not null,
     stored_md5 text not null,
     content_bytes bigint not null,
     content_md5 text not null,
     primary key (level, resource, name)
   )`,
  'create index resource_attachments_file on resource_attachments (file_sha256)',
  'alter table patients add column is_protected boolean not null default false',

  // ---- queries in any case --------------------------------------------------------------------------
  `create index studies_by_folded_accession on studies (lower(accession_number collate "C") text_pattern_ops)`,
  `create index studies_odd_accession on studies (id) where accession_number ~ '[^ -~]'`,
  `create index patients_by_folded_id on patients (lower(patient_id collate "C") text_pattern_ops)`,
  `create index patients_odd_id on patients (id) where patient_id ~ '[^ -~]'`,

  // ---- deletion -----------------------------------------------------------------------------------
  // Whatever deletes a resource, nothing that was said of it stays.
  `create function forget_resource() returns trigger language plpgsql as $$
   begin
     delete from resource_metadata m using gone where m.level = tg_argv[0] and m.resource = gone.id;
     delete from resource_labels l using gone where l.level = tg_argv[0] and l.resource = gone.id;
     delete from resource_attachments a using gone where a.level = tg_argv[0] and a.resource = gone.id;
     return null;
   end $$`,
  ...Object.entries(tables).map(
    ([level, table]) =>
      `create trigger ${table}_forget after delete on ${table} referencing old table as gone
         for each statement execute function forget_resource('${level}')`,
  ),
  // Records of transfers and decisions stay readable without their study or instance.
  'alter table transfers drop constraint transfers_study_fkey',
  `alter table transfers add constraint transfers_study_fkey foreign key (study) references studies on delete set null`,
  'alter table conflicts drop constraint conflicts_instance_fkey',
  `alter table conflicts add constraint conflicts_instance_fkey foreign key (instance) references instances
     on delete set null`,
  'create index conflicts_instance on conflicts (instance) where instance is not null',
  'create index modality_jobs_study on modality_jobs (study) where study is not null',
  // Bytes that a row named until it was deleted; they go after a while, if no row names them by then.
  `create table removed_blobs (
     file_sha256 bytea primary key check (length(file_sha256) = 32),
     removed_at timestamptz not null default now()
   )`,
  'create index removed_blobs_age on removed_blobs (removed_at)',
]
