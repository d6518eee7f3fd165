/**
 * The tables as Kysely sees them: what the migrations made. In a row read: bigint columns are safe
 * integers, `bytea` Buffers, `timestamptz` Dates, `jsonb` unknown (a decoder gives it its type),
 * absent values null. JSON is written as text (`JSON.stringify`), because `pg` would turn a list
 * into a PostgreSQL array.
 */
import type { ColumnType, Generated, GeneratedAlways, Insertable, Selectable } from 'kysely'

/** A `jsonb` column. */
type Json = ColumnType<unknown, string, string>
/** A `jsonb` column with a default. */
type DefaultJson = ColumnType<unknown, string | undefined, string>
type DefaultDate = ColumnType<Date, Date | undefined, Date>
/** SHA-256, 32 bytes. */
type Digest = Buffer

export interface Schema {
  settings: SettingsTable
  access_tokens: AccessTokensTable
  patients: PatientsTable
  studies: StudiesTable
  series: SeriesTable
  instances: InstancesTable
  exported_resources: ExportedResourcesTable
  conflicts: ConflictsTable
  quarantine: QuarantineTable
  peers: PeersTable
  invitations: InvitationsTable
  policy_versions: PolicyVersionsTable
  policy_active: PolicyActiveTable
  transfers: TransfersTable
  transfer_items: TransferItemsTable
  transfer_steps: TransferStepsTable
  inbound_transfers: InboundTransfersTable
  receipts: ReceiptsTable
  commitments: CommitmentsTable
  commitment_items: CommitmentItemsTable
  patient_links: PatientLinksTable
  legal_holds: LegalHoldsTable
  audit_events: AuditEventsTable
  audit_leaves: AuditLeavesTable
  audit_tree: AuditTreeTable
  audit_checkpoints: AuditCheckpointsTable
  worklist_items: WorklistItemsTable
  procedure_steps: ProcedureStepsTable
  modality_jobs: ModalityJobsTable
  change_intake: ChangeIntakeTable
  changes: ChangesTable
  change_feed: ChangeFeedTable
  resource_metadata: ResourceMetadataTable
  resource_labels: ResourceLabelsTable
  resource_attachments: ResourceAttachmentsTable
  removed_blobs: RemovedBlobsTable
  policy_drafts: PolicyDraftsTable
  consents: ConsentsTable
  transfer_consents: TransferConsentsView
  dry_runs: DryRunsTable
  dry_run_results: DryRunResultsTable
  deid_projects: DeidProjectsTable
  transfer_outputs: TransferOutputsTable
  transfer_files: TransferFilesTable
  transfer_acknowledgements: TransferAcknowledgementsTable
  endpoints: EndpointsTable
  pseudonyms: PseudonymsTable
  reidentifications: ReidentificationsTable
  deid_certificates: DeidCertificatesTable
  remote_queries: RemoteQueriesTable
  remote_answers: RemoteAnswersTable
  background_jobs: BackgroundJobsTable
  workitems: WorkitemsTable
  uploads: UploadsTable
  upload_files: UploadFilesTable
  password_users: PasswordUsersTable
  orthanc_imports: OrthancImportsTable
  orthanc_import_items: OrthancImportItemsTable
  recalls: RecallsTable
  trials: TrialsTable
  trial_subjects: TrialSubjectsTable
  trial_delegations: TrialDelegationsTable
  trial_uploads: TrialUploadsTable
  trial_upload_studies: TrialUploadStudiesTable
  trial_events: TrialEventsTable
  arrivals: ArrivalsTable
  arriving_files: ArrivingFilesTable
}

/** A row of table `T` as it is read. */
export type Row<T extends keyof Schema> = Selectable<Schema[T]>
/** A row of table `T` as it is inserted. */
export type NewRow<T extends keyof Schema> = Insertable<Schema[T]>

export interface SettingsTable {
  name: string
  value: Json
  version: Generated<number>
  updated_at: DefaultDate
}

export interface AccessTokensTable {
  id: GeneratedAlways<number>
  name: string
  sha256: Digest
  role: string
  domain: ColumnType<string | null, string | null | undefined, string | null>
  expires_at: ColumnType<Date | null, Date | null | undefined, Date | null>
  created_by: string
  created_at: DefaultDate
  revoked_at: Date | null
}

export interface PatientsTable {
  id: GeneratedAlways<number>
  issuer: Generated<string>
  patient_id: Generated<string>
  orthanc_id: string
  name_folded: Generated<string>
  birth_date: string | null
  sex: string | null
  /** Kept when others are recycled; a mark for clients, nothing is recycled here. */
  is_protected: Generated<boolean>
  attributes: DefaultJson
  created_at: DefaultDate
  updated_at: DefaultDate
}

export interface StudiesTable {
  id: GeneratedAlways<number>
  patient: number
  study_instance_uid: string
  orthanc_id: string
  /** The patient's name as this study has it. */
  name_folded: Generated<string>
  domain: Generated<string>
  study_date: string | null
  study_time: string | null
  accession_number: string | null
  study_description: string | null
  modalities: Generated<string[]>
  instance_count: Generated<number>
  size_bytes: Generated<number>
  attributes: DefaultJson
  origin: DefaultJson
  due_at: Date | null
  created_at: DefaultDate
  updated_at: DefaultDate
}

export interface SeriesTable {
  id: GeneratedAlways<number>
  study: number
  series_instance_uid: string
  orthanc_id: string
  modality: string | null
  instance_count: Generated<number>
  attributes: DefaultJson
  created_at: DefaultDate
  updated_at: DefaultDate
}

export interface InstancesTable {
  id: GeneratedAlways<number>
  series: number
  sop_instance_uid: string
  sop_class_uid: string
  transfer_syntax_uid: string
  orthanc_id: string
  file_sha256: Digest
  dataset_sha256: Digest
  size_bytes: number
  /** Null where there are none that could be read from that place of the file. */
  pixel_data_offset: number | null
  attributes: DefaultJson
  origin: DefaultJson
  created_at: DefaultDate
}

export interface ExportedResourcesTable {
  seq: GeneratedAlways<number>
  at: DefaultDate
  receiver: string
  level: string
  orthanc_id: string
  patient_id: string
  study_instance_uid: string | null
  series_instance_uid: string | null
  sop_instance_uid: string | null
}

export interface ConflictsTable {
  id: GeneratedAlways<number>
  instance: number | null
  sop_instance_uid: string
  kind: 'conflict' | 'variant'
  state: Generated<'held' | 'kept' | 'replaced' | 'discarded'>
  sop_class_uid: string
  transfer_syntax_uid: string
  file_sha256: Digest
  dataset_sha256: Digest
  size_bytes: number
  origin: DefaultJson
  created_at: DefaultDate
  decided_at: Date | null
  decided_by: string | null
}

export interface QuarantineTable {
  id: GeneratedAlways<number>
  reason_code: string
  reason: string
  file_sha256: Digest | null
  size_bytes: number | null
  inbound: string | null
  object: number | null
  origin: DefaultJson
  state: Generated<'held' | 'released' | 'rejected'>
  created_at: DefaultDate
  /** The outbound transfer that it stopped. */
  transfer: string | null
  sop_instance_uid: string | null
  evidence: DefaultJson
  is_alert: Generated<boolean>
  decided_at: Date | null
  decided_by: string | null
  why: string | null
}

export interface PeersTable {
  id: string
  site_id: string
  name: string
  state: 'pending' | 'active' | 'revoked'
  url: string | null
  card: Buffer
  ca_certificate: string
  ca_fingerprint: Digest
  signing_key: Buffer
  sealing_key: Buffer
  sas: string | null
  agreement: DefaultJson
  confirmed_at: Date | null
  revoked_at: Date | null
  created_at: DefaultDate
}

export interface InvitationsTable {
  id: string
  certificate_fingerprint: Digest
  state: Generated<'open' | 'started' | 'redeemed' | 'cancelled'>
  exchange: ColumnType<unknown, string | null | undefined, string | null>
  peer: string | null
  expires_at: Date
  created_at: DefaultDate
}

export interface PolicyVersionsTable {
  version: number
  document: Json
  sha256: Digest
  author: string
  created_at: DefaultDate
  publisher: ColumnType<string | null, string | undefined, never>
  two_persons: ColumnType<boolean, boolean | undefined, never>
  rollback_of: ColumnType<number | null, number | undefined, never>
  signature: ColumnType<Buffer | null, Buffer | undefined, never>
}

export interface PolicyDraftsTable {
  id: string
  title: string
  document: Json
  authors: string[]
  based_on: number | null
  state: Generated<'open' | 'published' | 'discarded'>
  version: number | null
  revision: Generated<number>
  created_at: DefaultDate
  updated_at: DefaultDate
}

export interface ConsentsTable {
  id: string
  kind: 'consent' | 'objection'
  issuer: string
  patient_id: string
  purpose: string
  recipient: string
  valid_from: Date
  valid_until: Date | null
  source: string
  recorded_by: string
  created_at: DefaultDate
  withdrawn_at: Date | null
  withdrawn_by: string | null
}

/** What consents and objections say of each transfer. */
export interface TransferConsentsView {
  /** Never null, which the database does not know of a view. */
  id: string | null
  /** Site id, or a modality's name. */
  recipient: string | null
  gap: 'CONSENT_MISSING' | 'CONSENT_OBJECTED' | null
}

export type DryRunState = 'waiting' | 'running' | 'done' | 'cancelled' | 'failed'
/** What would become of a study for one destination. */
export type DryRunOutcome = 'go' | 'held' | 'denied' | 'none'

export interface DryRunsTable {
  id: string
  state: Generated<DryRunState>
  document: Json
  draft: string | null
  baseline: number | null
  days: number
  since: Date
  until: Date
  at: Date
  requested_by: string
  last_study: Generated<number>
  studies: number
  studies_done: Generated<number>
  counts: DefaultJson
  error: string | null
  created_at: DefaultDate
  updated_at: DefaultDate
}

export interface DryRunResultsTable {
  run: string
  study: number
  study_instance_uid: string
  origin: string
  destination: string
  outcome: DryRunOutcome
  rule: string | null
  reason: string | null
  purpose: string | null
  profile: string | null
  before: DryRunOutcome
  before_rule: string | null
}

export interface PolicyActiveTable {
  singleton: Generated<boolean>
  version: number
  published_by: string
  published_at: DefaultDate
}

export type TransferState =
  | 'planned'
  | 'prepared'
  | 'signed'
  | 'sent'
  | 'receipted'
  /** An archive has taken every instance; nobody asked it to commit. */
  | 'delivered'
  /** An archive has committed every instance. */
  | 'archived'
  | 'held'
  | 'refused'
  | 'cancelled'
  | 'expired'

export interface TransfersTable {
  id: string
  study: number | null
  study_instance_uid: string
  domain: Generated<string>
  destination: string
  peer: string | null
  modality: string | null
  endpoint: ColumnType<string | null, string | null | undefined, string | null>
  names: ColumnType<unknown | null, string | null | undefined, string | null>
  terms: ColumnType<unknown, string | null | undefined, string | null>
  trigger: string
  rule: string
  policy_version: number
  profile: string
  purpose: string
  priority: Generated<string>
  requested_by: string
  agreement: ColumnType<string | null, string | null | undefined, string | null>
  needs_consent: Generated<boolean>
  zone: Generated<'inside' | 'outside'>
  snapshot_sha256: Digest
  state: TransferState
  nonce: Buffer
  manifest_created: Date
  manifest: Buffer | null
  manifest_id: string | null
  object_count: number
  bytes_total: number
  bytes_acknowledged: Generated<number>
  bytes_sent: Generated<number>
  project: number | null
  attempts: Generated<number>
  error_code: string | null
  error: string | null
  next_attempt_at: Date | null
  expires_at: Date
  created_at: DefaultDate
  updated_at: DefaultDate
}

export interface TransferItemsTable {
  transfer: string
  ordinal: number
  sop_instance_uid: string
  sop_class_uid: string
  transfer_syntax_uid: string
  size_bytes: number
  file_sha256: Digest
  delivered_at: ColumnType<Date | null, Date | undefined, Date | null>
  archived_at: ColumnType<Date | null, Date | undefined, Date | null>
  problem: ColumnType<string | null, string | undefined, string | null>
}

export interface TransferStepsTable {
  id: GeneratedAlways<number>
  transfer: string
  at: DefaultDate
  step: string
  detail: DefaultJson
}

export type InboundState = 'receiving' | 'committing' | 'imported' | 'held' | 'refused' | 'cancelled' | 'expired'

export interface InboundTransfersTable {
  id: string
  peer: string
  manifest_id: string
  manifest: Buffer
  state: InboundState
  purpose: string
  object_count: number
  leaf_count: number
  bytes_total: number
  bytes_received: Generated<number>
  received: Buffer
  refusals: DefaultJson
  rule: ColumnType<string | null, string | undefined, string | null>
  policy_version: ColumnType<number | null, number | undefined, number | null>
  hold_reason: ColumnType<string | null, string | undefined, string | null>
  error_code: string | null
  error: string | null
  expires_at: Date
  created_at: DefaultDate
  updated_at: DefaultDate
}

export interface ReceiptsTable {
  id: GeneratedAlways<number>
  transfer: string
  direction: 'issued' | 'received'
  kind: string
  envelope: Buffer
  sha256: Digest
  created_at: DefaultDate
}

export interface AuditEventsTable {
  id: GeneratedAlways<number>
  at: DefaultDate
  salt: Buffer | null
  payload: string | null
  commitment: Digest
}

export interface AuditLeavesTable {
  leaf_index: number
  event: number
  commitment: Digest
}

export interface AuditTreeTable {
  singleton: Generated<boolean>
  size: number
  frontier: Buffer[]
  settled: Generated<number>
}

export interface AuditCheckpointsTable {
  size: number
  root: Digest
  note: string
  created_at: DefaultDate
}

export type CommitmentState =
  | 'verifying'
  | 'reporting'
  | 'reported'
  | 'asking'
  | 'waiting'
  | 'committed'
  | 'failed'
  | 'unanswered'
  | 'abandoned'

export interface CommitmentsTable {
  id: string
  direction: 'received' | 'sent'
  transaction_uid: string
  ae_title: string
  content_sha256: Digest
  transfer: string | null
  state: CommitmentState
  is_duplicate: Generated<boolean>
  instance_count: number
  failed_count: Generated<number>
  attempts: Generated<number>
  error_code: string | null
  error: string | null
  next_attempt_at: Date | null
  expires_at: Date
  created_at: DefaultDate
  updated_at: DefaultDate
}

export interface CommitmentItemsTable {
  commitment: string
  ordinal: number
  sop_class_uid: string
  sop_instance_uid: string
  outcome: number | null
}

export interface PatientLinksTable {
  issuer: string
  patient_id: string
  archive_patient_id: string
  archive_issuer: string | null
  archive_name: string | null
  linked_by: string
  created_at: DefaultDate
}
export interface ModalityJobsTable {
  id: string
  kind: 'retrieve' | 'store'
  modality: string
  keys: Json
  method: 'get' | 'move' | null
  purpose: 'manual' | 'prefetch'
  requested_by: string
  study: number | null
  state: Generated<'waiting' | 'running' | 'done' | 'failed' | 'cancelled'>
  completed: Generated<number>
  failed: Generated<number>
  warning: Generated<number>
  remaining: number | null
  attempts: Generated<number>
  error_code: string | null
  error: string | null
  created_at: DefaultDate
  updated_at: DefaultDate
}

export type WorklistSource = 'file' | 'rest' | 'hl7'
export type WorklistState = 'scheduled' | 'started' | 'completed' | 'discontinued' | 'cancelled'

export interface WorklistItemsTable {
  id: string
  source: WorklistSource
  external_key: string | null
  order_key: string | null
  state: Generated<WorklistState>
  study_instance_uid: string
  step_id: string
  patient_id: string
  issuer: string
  name_folded: string
  accession_number: string
  station_aes: string[]
  modality: string
  start_date: string
  start_time: string
  document: Json
  created_at: DefaultDate
  updated_at: DefaultDate
}

export type ProcedureStepState = 'in-progress' | 'completed' | 'discontinued'

export interface ProcedureStepsTable {
  id: GeneratedAlways<number>
  sop_instance_uid: string
  state: ProcedureStepState
  calling_ae: string
  station_ae: string
  modality: string
  patient_id: string
  study_instance_uids: string[]
  document: Json
  created_at: DefaultDate
  updated_at: DefaultDate
}

type ResourceLevel = 'patient' | 'study' | 'series' | 'instance'

export interface ChangeIntakeTable {
  id: GeneratedAlways<number>
  at: DefaultDate
  kinds: string[]
  levels: string[]
  resources: string[]
}

export interface ChangesTable {
  seq: number
  kind: string
  level: ResourceLevel
  resource: string
  at: Date
}

export interface ChangeFeedTable {
  singleton: Generated<boolean>
  last: Generated<number>
}

export interface ResourceMetadataTable {
  level: ResourceLevel
  resource: number
  name: number
  value: string
  revision: Generated<number>
}

export interface ResourceLabelsTable {
  level: ResourceLevel
  resource: number
  label: string
}

export interface ResourceAttachmentsTable {
  level: ResourceLevel
  resource: number
  name: number
  uuid: string
  revision: Generated<number>
  is_compressed: Generated<boolean>
  file_sha256: Digest
  size_bytes: number
  stored_md5: string
  content_bytes: number
  content_md5: string
}

export interface RemovedBlobsTable {
  file_sha256: Digest
  removed_at: DefaultDate
}

export interface DeidProjectsTable {
  id: GeneratedAlways<number>
  /** Site id of the recipient. */
  recipient: string
  name: string
  key_check: Digest
  next_number: Generated<number>
  created_at: DefaultDate
}

export interface TransferOutputsTable {
  transfer: string
  ordinal: number
  sop_instance_uid: string
  study_instance_uid: string
  transfer_syntax_uid: string
  size_bytes: number
  sha256: Digest
  /** What the engine certifies of it, without the source's digest. */
  facts: Json
}

export interface PseudonymsTable {
  id: GeneratedAlways<number>
  project: number
  subject: Digest
  pseudonym: Digest
  sealed: Buffer
  origin: 'keyed' | 'sequential' | 'imported'
  created_at: DefaultDate
}

export interface ReidentificationsTable {
  id: string
  project: number
  /** Null: the whole table. */
  pseudonym: string | null
  purpose: string
  why: string
  state: Generated<'requested' | 'approved' | 'refused'>
  requested_by: string
  requested_at: DefaultDate
  decided_by: string | null
  decided_at: Date | null
  expires_at: Date
}

export interface DeidCertificatesTable {
  transfer: string
  direction: 'issued' | 'received'
  envelope: Buffer
  sha256: Digest
  created_at: DefaultDate
}

export interface RemoteQueriesTable {
  id: string
  modality: string
  level: 'patient' | 'study' | 'series' | 'instance'
  query: Json
  requested_by: string
  created_at: DefaultDate
}

export interface RemoteAnswersTable {
  query: string
  place: number
  document: Json
}

export type BackgroundJobState = 'pending' | 'running' | 'paused' | 'success' | 'failure'

export interface BackgroundJobsTable {
  id: string
  type: string
  state: Generated<BackgroundJobState>
  priority: Generated<number>
  permissive: Generated<boolean>
  parameters: Json | null
  content: Json
  outputs: Generated<Json>
  progress: Generated<number>
  error_code: string | null
  error: string | null
  requested_by: string
  requested_from: string | null
  runtime_ms: Generated<number>
  created_at: DefaultDate
  started_at: Date | null
  ended_at: Date | null
}

export interface RecallsTable {
  id: string
  direction: 'sent' | 'received'
  transfer: string
  peer: string
  manifest_id: string
  state: 'pending' | 'recalled' | 'refused'
  reason: string
  envelope: Buffer
  answer: ColumnType<Buffer | null, Buffer | undefined, Buffer | null>
  instances: Generated<number>
  requested_by: string
  why: ColumnType<string | null, string | undefined, string | null>
  decided_by: ColumnType<string | null, string | undefined, string | null>
  decided_at: ColumnType<Date | null, Date | undefined, Date | null>
  error_code: ColumnType<string | null, string | undefined, string | null>
  attempts: Generated<number>
  created_at: DefaultDate
  updated_at: DefaultDate
}

export interface TrialsTable {
  name: string
  endpoint: string
  protocol: string
  document: Json
  state: 'open' | 'closed'
  created_by: string
  created_at: DefaultDate
  updated_at: DefaultDate
}

export interface TrialSubjectsTable {
  id: GeneratedAlways<number>
  trial: string
  code: string
  state: 'declared' | 'enrolled' | 'withdrawn'
  /** `YYYY-MM-DD` */
  day_zero: string | null
  issuer: string | null
  patient_id: string | null
  created_at: DefaultDate
  updated_at: DefaultDate
}

export interface TrialDelegationsTable {
  id: string
  trial: string
  person: string
  task: 'upload' | 'approve' | 'answer'
  /** `YYYY-MM-DD`, both days included. */
  valid_from: string
  valid_until: string | null
  created_by: string
  created_at: DefaultDate
  revoked_by: ColumnType<string | null, undefined, string | null>
  revoked_at: ColumnType<Date | null, undefined, Date | null>
}

export interface TrialUploadsTable {
  id: string
  trial: string
  subject: number
  visit: string
  state: 'draft' | 'approved' | 'sent' | 'queried' | 'replaced' | 'cancelled'
  findings: DefaultJson
  replaces: string | null
  created_by: string
  approved_by: ColumnType<string | null, undefined, string | null>
  approved_at: ColumnType<Date | null, undefined, Date | null>
  why: ColumnType<string | null, undefined, string | null>
  query: ColumnType<string | null, undefined, string | null>
  created_at: DefaultDate
  updated_at: DefaultDate
}

export interface TrialUploadStudiesTable {
  upload: string
  ordinal: number
  study: number
  study_instance_uid: string
  /** Series Instance UIDs; null for all. */
  series: Json | null
  /** What was approved. */
  snapshot_sha256: ColumnType<Buffer | null, undefined, Buffer | null>
  transfer: ColumnType<string | null, undefined, string | null>
}

export interface TrialEventsTable {
  id: GeneratedAlways<number>
  trial: string
  subject: number | null
  upload: string | null
  at: DefaultDate
  person: string
  event: string
  detail: DefaultJson
}

export interface LegalHoldsTable {
  id: string
  issuer: ColumnType<string | null, string | undefined, string | null>
  patient_id: ColumnType<string | null, string | undefined, string | null>
  study_instance_uid: ColumnType<string | null, string | undefined, string | null>
  reason: string
  placed_by: string
  created_at: DefaultDate
  released_at: ColumnType<Date | null, Date | undefined, Date | null>
  released_by: ColumnType<string | null, string | undefined, string | null>
}

export interface WorkitemsTable {
  id: Generated<number>
  uid: string
  state: 'SCHEDULED' | 'IN PROGRESS' | 'COMPLETED' | 'CANCELED'
  transaction_uid: string | null
  document: Json
  created_by: string
  created_at: DefaultDate
  updated_at: DefaultDate
}

/** Users of an Orthanc's configuration: scrypt over salt and password. */
export interface PasswordUsersTable {
  name: string
  salt: Digest
  hash: Digest
  updated_at: DefaultDate
}

/** A running Orthanc, or its storage folder, that is taken over. */
/** Archives that are taken over; `sealed` holds the credentials, which only the site's key opens. */
export interface OrthancImportsTable {
  id: string
  kind: 'url' | 'storage'
  source: string
  sealed: string
  state: Generated<'running' | 'done' | 'failed'>
  error_code: string | null
  error: string | null
  requested_by: string
  created_at: DefaultDate
  updated_at: DefaultDate
}

export interface OrthancImportItemsTable {
  import: string
  item: string
  state: 'imported' | 'failed'
  problem: string | null
  /** Of what is said of a resource; null for a file. */
  said_sha256: ColumnType<Buffer | null, Buffer | null | undefined, Buffer | null>
}

/** Resumable uploads; the bytes lie in a file of the same name. */
export interface UploadsTable {
  id: string
  principal: string
  remote_address: string | null
  size_bytes: number | null
  metadata: Json
  state: Generated<'receiving' | 'storing' | 'disc' | 'done' | 'failed'>
  job: string | null
  error_code: string | null
  error: string | null
  created_at: DefaultDate
  updated_at: DefaultDate
}

/** What became of each file of an upload. */
export interface UploadFilesTable {
  upload: string
  position: number
  name: string
  outcome: 'stored' | 'duplicate' | 'conflict' | 'variant' | 'not-dicom' | 'refused'
  instance: string | null
  conflict: number | null
  error_code: string | null
  error: string | null
}

/** Places of third parties that transfers go to. */
export interface EndpointsTable {
  name: string
  kind: string
  description: string
  settings: Json
  sealed: Buffer | null
  secret_names: Json
  /** Confirmed host key or certificate. */
  pin: string | null
  /** What the server showed last, not confirmed. */
  shown_pin: string | null
  packaging: Json
  rules: Json
  acknowledgement: ColumnType<unknown | null, string | null, string | null>
  profile: string | null
  state: 'unconfirmed' | 'active' | 'stopped'
  reason_code: string | null
  reason: string | null
  created_by: string
  created_at: DefaultDate
  updated_at: DefaultDate
  /** How arriving files are looked for; null where nobody looks. */
  inbound: ColumnType<unknown | null, string | null | undefined, string | null>
  poll_due_at: ColumnType<Date | null, Date | null | undefined, Date | null>
  polled_at: ColumnType<Date | null, Date | null | undefined, Date | null>
  poll_error_code: ColumnType<string | null, string | null | undefined, string | null>
  poll_error: ColumnType<string | null, string | null | undefined, string | null>
}

/** Files of a delivery to an endpoint. */
export interface TransferFilesTable {
  transfer: string
  ordinal: number
  name: string
  role: 'content' | 'certificate' | 'manifest' | 'done'
  size_bytes: number
  sha256: Digest
  delivered_at: ColumnType<Date | null, Date | undefined, Date | null>
}

/** What a recipient has said of a delivery; the file is a blob. */
export interface TransferAcknowledgementsTable {
  transfer: string
  outcome: 'accepted' | 'rejected'
  reason: string
  file_name: string
  file_sha256: Digest
  size_bytes: number
  taken_by: string
  taken_at: DefaultDate
}

/** Files of one folder of an endpoint that were taken together. */
export interface ArrivalsTable {
  id: string
  endpoint: string
  folder: string
  state: 'fetching' | 'held' | 'released' | 'taken' | 'refused'
  /** Site id of the delivery's signature. */
  signed_by: string | null
  rule: string | null
  policy_version: number | null
  objects: Generated<number>
  size_bytes: Generated<number>
  reason_code: string | null
  reason: string | null
  created_at: DefaultDate
  updated_at: DefaultDate
}

/** A file at an endpoint, as it was seen. */
export interface ArrivingFilesTable {
  id: GeneratedAlways<number>
  endpoint: string
  path: string
  size_bytes: number
  /** When it was changed, as the place tells; empty where it does not. */
  modified: Generated<string>
  arrival: string | null
  state: 'seen' | 'fetching' | 'fetched' | 'taken' | 'known' | 'failed' | 'refused'
  sha256: Buffer | null
  instances: Generated<number>
  error_code: string | null
  error: string | null
  /** Moved or deleted there, where the endpoint is set so. */
  is_settled: Generated<boolean>
  seen_at: DefaultDate
  updated_at: DefaultDate
}
