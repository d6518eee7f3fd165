/** Policy: drafts, immutable signed versions, consents, what was decided about offers, and dry runs. */
import { type Kysely, sql } from 'kysely'

export async function up(db: Kysely<never>): Promise<void> {
  for (const statement of statements) await sql.raw(statement).execute(db)
}

const statements = [
  // ---- versions ------------------------------------------------------------------------------
  // publisher: null where the version is older than the record of it. signature: Ed25519 of the site.
  `alter table policy_versions
     add column publisher text,
     add column two_persons boolean not null default false,
     add column rollback_of integer references policy_versions,
     add column signature bytea check (length(signature) = 64)`,
  `create function refuse_policy_change() returns trigger language plpgsql as $$
   begin
     raise exception 'a published policy version cannot be changed' using errcode = 'restrict_violation';
   end $$`,
  `create trigger policy_versions_immutable before update or delete on policy_versions
     for each row execute function refuse_policy_change()`,
  `create trigger policy_versions_kept before truncate on policy_versions
     for each statement execute function refuse_policy_change()`,
  // Everybody who wrote at a draft is an author of it.
  `create table policy_drafts (
     id uuid primary key,
     title text not null,
     document jsonb not null,
     authors text[] not null check (cardinality(authors) > 0),
     based_on integer references policy_versions,
     state text not null default 'open' check (state in ('open', 'published', 'discarded')),
     version integer references policy_versions,
     revision integer not null default 1,
     created_at timestamptz not null default now(),
     updated_at timestamptz not null default now(),
     check ((state = 'published') = (version is not null))
   )`,
  'create index policy_drafts_created on policy_drafts (created_at, id)',

  // ---- consents ------------------------------------------------------------------------------
  // '*' stands for every purpose, and for every recipient. A recipient is a site's id, or a modality's name.
  `create table consents (
     id uuid primary key,
     kind text not null check (kind in ('consent', 'objection')),
     issuer text not null,
     patient_id text not null,
     purpose text not null,
     recipient text not null,
     valid_from timestamptz not null,
     valid_until timestamptz check (valid_until > valid_from),
     source text not null,
     recorded_by text not null,
     created_at timestamptz not null default now(),
     withdrawn_at timestamptz,
     withdrawn_by text,
     check ((withdrawn_at is null) = (withdrawn_by is null))
   )`,
  'create index consents_patient on consents (patient_id, issuer)',
  'create index consents_created on consents (created_at, id)',
  `alter table transfers
     add column agreement text,
     add column needs_consent boolean not null default false,
     add column zone text not null default 'outside' check (zone in ('inside', 'outside'))`,
  // Until now nothing went to modalities outside.
  `update transfers set zone = 'inside' where modality is not null`,
  // Why nothing of a patient may be sent; null when it may. An objection concerns what goes outside on any basis.
  `create function consent_gap(
     the_issuer text, the_patient text, the_purpose text, the_recipient text, needs_consent boolean, zone text
   ) returns text language sql stable as $$
     select case
       when (needs_consent or zone = 'outside') and bool_or(c.kind = 'objection') then 'CONSENT_OBJECTED'
       when needs_consent and not coalesce(bool_or(c.kind = 'consent'), false) then 'CONSENT_MISSING' end
       from consents c
      where c.patient_id = the_patient and c.issuer = the_issuer
        and c.purpose in ('*', the_purpose) and c.recipient in ('*', the_recipient)
        and c.withdrawn_at is null and c.valid_from <= statement_timestamp()
        and (c.valid_until is null or c.valid_until > statement_timestamp())
   $$`,
  // A transfer whose study is gone has no patient, and so no consent.
  `create view transfer_consents as
     select t.id, coalesce(r.site_id, t.modality) as recipient,
            consent_gap(p.issuer, p.patient_id, t.purpose, coalesce(r.site_id, t.modality), t.needs_consent, t.zone) as gap
       from transfers t
       left join studies s on s.id = t.study
       left join patients p on p.id = s.patient
       left join peers r on r.id = t.peer`,
  'create index transfers_study on transfers (study, state)',

  // ---- identity --------------------------------------------------------------------------------
  // Whatever changes whose study it is, or brings the same study under another patient of the same issuer, holds what of
  // it was decided and not sent yet, with step and audit event. Here, so that no way of changing it can forget it.
  `create function hold_changed_identity(the_study bigint) returns void language plpgsql as $$
   declare
     held record;
     salt bytea;
     payload text;
   begin
     for held in select id, study_instance_uid from transfers
                  where study = the_study and state in ('planned', 'prepared', 'signed') order by id for update loop
       update transfers set state = 'held', error_code = 'IDENTITY_CHANGED', next_attempt_at = null, updated_at = now(),
              error = 'patient or study are not the ones that were decided about any more'
        where id = held.id;
       insert into transfer_steps (transfer, step, detail) values (held.id, 'held', '{"code": "IDENTITY_CHANGED"}');
       salt := uuid_send(gen_random_uuid());
       payload := json_build_object('event', '110113', 'type', '110135', 'action', 'E', 'outcome', 'serious-failure',
         'at', to_char(now() at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'), 'reason', 'IDENTITY_CHANGED',
         'participants', json_build_array(json_build_object('userId', 'gateway', 'requestor', true)),
         'objects', json_build_array(
           json_build_object('kind', 'study', 'studyInstanceUid', held.study_instance_uid),
           json_build_object('kind', 'transfer', 'transferId', held.id)))::text;
       insert into audit_events (salt, payload, commitment)
       values (salt, payload, sha256(salt || convert_to(payload, 'UTF8')));
     end loop;
   end $$`,
  `create function follow_study_identity() returns trigger language plpgsql as $$
   begin
     if tg_op = 'UPDATE' then
       perform hold_changed_identity(new.id);
     end if;
     perform hold_changed_identity(other.id)
        from studies other join patients theirs on theirs.id = other.patient join patients ours on ours.id = new.patient
       where other.study_instance_uid = new.study_instance_uid and other.id <> new.id and theirs.issuer = ours.issuer;
     return null;
   end $$`,
  'create trigger studies_new_identity after insert on studies for each row execute function follow_study_identity()',
  `create trigger studies_changed_identity after update of patient, study_instance_uid on studies for each row
     when (old.patient is distinct from new.patient or old.study_instance_uid is distinct from new.study_instance_uid)
     execute function follow_study_identity()`,
  `create function follow_patient_identity() returns trigger language plpgsql as $$
   begin
     perform hold_changed_identity(id) from studies where patient = new.id;
     return null;
   end $$`,
  `create trigger patients_changed_identity after update of issuer, patient_id on patients for each row
     when (old.issuer is distinct from new.issuer or old.patient_id is distinct from new.patient_id)
     execute function follow_patient_identity()`,

  // ---- offers of peers -------------------------------------------------------------------------
  `alter table inbound_transfers
     add column rule text,
     add column policy_version integer references policy_versions,
     add column hold_reason text`,

  // ---- dry runs --------------------------------------------------------------------------------
  `create table dry_runs (
     id uuid primary key,
     state text not null default 'waiting' check (state in ('waiting', 'running', 'done', 'cancelled', 'failed')),
     document jsonb not null,
     draft uuid references policy_drafts,
     baseline integer references policy_versions,
     days integer not null,
     since timestamptz not null,
     until timestamptz not null,
     at timestamptz not null,
     requested_by text not null,
     last_study bigint not null default 0,
     studies integer not null,
     studies_done integer not null default 0,
     counts jsonb not null default '{}',
     error text,
     created_at timestamptz not null default now(),
     updated_at timestamptz not null default now()
   )`,
  `create table dry_run_results (
     run uuid not null references dry_runs on delete cascade,
     study bigint not null,
     study_instance_uid text not null,
     origin text not null,
     destination text not null,
     outcome text not null check (outcome in ('go', 'held', 'denied', 'none')),
     rule text,
     reason text,
     purpose text,
     profile text,
     before text not null check (before in ('go', 'held', 'denied', 'none')),
     before_rule text,
     primary key (run, study, origin, destination)
   )`,
]
