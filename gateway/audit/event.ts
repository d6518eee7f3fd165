/**
 * Audit events in the vocabulary of DICOM PS3.15 §A.5 (2025e): what happened, its outcome, who took
 * part, and what it was about. The fields and codes are the standard's, so that an export to its XML
 * form (§A.5.1) or to FHIR AuditEvent is a change of spelling only. The builders below cover the
 * messages of §A.5.3 that the gateway emits; a study-related event names one patient at most, as
 * §A.5.3 demands of each message.
 */
import type { Principal } from '../principal.ts'

/** EventID, DICOM PS3.16 CID 400 (coding scheme DCM). */
export const eventIds = {
  applicationActivity: '110100',
  auditLogUsed: '110101',
  beginTransferring: '110102',
  instancesAccessed: '110103',
  instancesTransferred: '110104',
  studyDeleted: '110105',
  dataExport: '110106',
  dataImport: '110107',
  networkEntry: '110108',
  orderRecord: '110109',
  procedureRecord: '110111',
  query: '110112',
  securityAlert: '110113',
  userAuthentication: '110114',
} as const

/** EventTypeCode, DICOM PS3.16 CID 401 and CID 403 (coding scheme DCM). */
export const eventTypes = {
  applicationStart: '110120',
  applicationStop: '110121',
  login: '110122',
  logout: '110123',
  nodeAuthentication: '110126',
  networkConfiguration: '110128',
  securityConfiguration: '110129',
  softwareConfiguration: '110131',
  restrictedFunction: '110132',
  auditRecordingStopped: '110133',
  auditRecordingStarted: '110134',
  objectSecurityAttributesChanged: '110135',
  accessControlDecision: '110147',
} as const

/** RoleIDCode, DICOM PS3.16 CID 402 (coding scheme DCM). */
export const roles = { application: '110150', destination: '110152', source: '110153' } as const

type ValueOf<T> = T[keyof T]
export type EventId = ValueOf<typeof eventIds>
export type EventType = ValueOf<typeof eventTypes>
export type Role = ValueOf<typeof roles>

/** EventActionCode: create, read, update, delete, execute. */
export type Action = 'C' | 'R' | 'U' | 'D' | 'E'

/** EventOutcomeIndicator 0, 4, 8, 12 of the standard. */
export type Outcome = 'success' | 'minor-failure' | 'serious-failure' | 'major-failure'

/** ActiveParticipant: a person, a process, an AE, or a peer site. */
export interface Participant {
  /** Principal, AE title or site id. */
  readonly userId: string
  readonly role?: Role
  /** UserIsRequestor: did this participant start it? */
  readonly requestor?: boolean
  /** NetworkAccessPointID: address or host name. */
  readonly address?: string
}

/** ParticipantObjectIdentification: what the event is about. */
export type AuditObject =
  | {
      readonly kind: 'study'
      readonly studyInstanceUid: string
      readonly sopClassUids?: readonly string[]
      readonly instanceCount?: number
    }
  | { readonly kind: 'patient'; readonly patientId: string; readonly issuer?: string }
  | { readonly kind: 'instance'; readonly sopInstanceUid: string; readonly fileSha256?: string }
  | { readonly kind: 'node'; readonly nodeId: string }
  | { readonly kind: 'transfer'; readonly transferId: string; readonly manifestId?: string }
  | { readonly kind: 'policy'; readonly version: number; readonly sha256?: string }
  | { readonly kind: 'audit-log'; readonly checkpointSize?: number }
  | { readonly kind: 'audit-record'; readonly eventId: number }
  | { readonly kind: 'setting'; readonly name: string }

/** One audit event. Free text is not a field: `reason` is a stable code, `detail` ids and counts. */
export interface AuditEvent {
  readonly event: EventId
  readonly type?: EventType
  readonly action: Action
  readonly outcome: Outcome
  /** When it happened; when absent, when it was appended. */
  readonly at?: Date
  /** An error code (`gateway/errors.ts`) or another stable word: why it failed or was decided so. */
  readonly reason?: string
  readonly participants: readonly Participant[]
  readonly objects: readonly AuditObject[]
  readonly detail?: Readonly<Record<string, string | number | boolean | undefined>>
}

/** What every builder takes beside its own fields. */
interface Common {
  readonly outcome?: Outcome
  readonly at?: Date
  readonly reason?: string
  readonly detail?: AuditEvent['detail']
}

type Transfer = Common & {
  /** Who sent. */
  readonly source: Participant
  /** Who received. */
  readonly destination: Participant
  /** A person or rule behind it, when it is neither. */
  readonly requestor?: Participant
  readonly objects: readonly AuditObject[]
}

const parties = (transfer: Transfer): Participant[] => [
  { ...transfer.source, role: roles.source },
  { ...transfer.destination, role: roles.destination },
  ...(transfer.requestor ? [{ ...transfer.requestor, requestor: true }] : []),
]

const common = ({ outcome = 'success', at, reason, detail }: Common) => ({
  outcome,
  ...(at && { at }),
  ...(reason !== undefined && { reason }),
  ...(detail && { detail }),
})

/** The gateway started or stopped (§A.5.3.1). */
export function applicationActivity(input: Common & { what: 'start' | 'stop'; participant: Participant }): AuditEvent {
  return {
    event: eventIds.applicationActivity,
    type: input.what === 'start' ? eventTypes.applicationStart : eventTypes.applicationStop,
    action: 'E',
    ...common(input),
    participants: [{ ...input.participant, role: roles.application }],
    objects: [],
  }
}

/** Somebody read or verified the audit log (§A.5.3.2). */
export function auditLogUsed(
  input: Common & { participants: readonly Participant[]; checkpointSize?: number },
): AuditEvent {
  const { checkpointSize } = input
  return {
    event: eventIds.auditLogUsed,
    action: 'R',
    ...common(input),
    participants: input.participants,
    objects: [{ kind: 'audit-log', ...(checkpointSize !== undefined && { checkpointSize }) }],
  }
}

/** A transfer between two nodes begins: the intent (§A.5.3.3). */
export function beginTransferring(input: Transfer): AuditEvent {
  return {
    event: eventIds.beginTransferring,
    action: 'E',
    ...common(input),
    participants: parties(input),
    objects: input.objects,
  }
}

/** Data left the system on a medium or as a file: an archive, a download (§A.5.3.4). */
export function dataExported(
  input: Common & { exporter: Participant; media: Participant; objects: readonly AuditObject[] },
): AuditEvent {
  return {
    event: eventIds.dataExport,
    action: 'R',
    ...common(input),
    participants: [
      { ...input.exporter, role: roles.source },
      { ...input.media, role: roles.destination },
    ],
    objects: input.objects,
  }
}

/** Data came into the system from a medium or as files (§A.5.3.5). */
export function dataImported(
  input: Common & { importer: Participant; media: Participant; objects: readonly AuditObject[] },
): AuditEvent {
  return {
    event: eventIds.dataImport,
    action: 'C',
    ...common(input),
    participants: [
      { ...input.media, role: roles.source },
      { ...input.importer, role: roles.destination },
    ],
    objects: input.objects,
  }
}

/** Who asks for something, as a participant of its event. */
export const requestorOf = ({ id, address }: Pick<Principal, 'id' | 'address'>): Participant => ({
  userId: id,
  requestor: true,
  ...(address && { address }),
})

/** Instances were read, shown, changed or deleted here (§A.5.3.6). */
export function instancesAccessed(
  input: Common & {
    action: 'C' | 'R' | 'U' | 'D'
    participants: readonly Participant[]
    objects: readonly AuditObject[]
  },
): AuditEvent {
  const { action, participants, objects } = input
  return { event: eventIds.instancesAccessed, action, ...common(input), participants, objects }
}

/**
 * A transfer has ended (§A.5.3.7). `action` as the clause says: C when the receiver did not hold the
 * instances, R when it did (or when that is unknown here), U when it changed the ones it held.
 */
export function instancesTransferred(input: Transfer & { action: 'C' | 'R' | 'U' }): AuditEvent {
  return {
    event: eventIds.instancesTransferred,
    action: input.action,
    ...common(input),
    participants: parties(input),
    objects: input.objects,
  }
}

/** A transfer of ours has ended; `reason` says why without success. Whether the receiver held the instances is not known here. */
export function transferEnded(
  transfer: Pick<Transfer, 'source' | 'destination' | 'objects'>,
  reason: string | undefined,
): AuditEvent {
  return instancesTransferred({
    action: 'R',
    outcome: reason === undefined ? 'success' : 'serious-failure',
    ...(reason !== undefined && { reason }),
    ...transfer,
  })
}

/** Somebody searched the store (§A.5.3.10). */
export function queried(input: Common & { requestor: Participant }): AuditEvent {
  return {
    event: eventIds.query,
    action: 'E',
    ...common(input),
    participants: [
      { ...input.requestor, role: roles.source, requestor: true },
      { userId: 'gateway', role: roles.destination },
    ],
    objects: [],
  }
}

/** A whole study was deleted (§A.5.3.8). */
export function studyDeleted(
  input: Common & { participants: readonly Participant[]; objects: readonly AuditObject[] },
): AuditEvent {
  const { participants, objects } = input
  return { event: eventIds.studyDeleted, action: 'D', ...common(input), participants, objects }
}

/**
 * A refusal, a failed authentication, a change of security configuration, a decision (§A.5.3.11).
 * Success is informative; minor and serious failures were contained, a major one may not have been.
 */
export function securityAlert(
  input: Common & { type: EventType; participants: readonly Participant[]; objects?: readonly AuditObject[] },
): AuditEvent {
  return {
    event: eventIds.securityAlert,
    type: input.type,
    action: 'E',
    ...common(input),
    participants: input.participants,
    objects: input.objects ?? [],
  }
}

/** A log-in or log-out, or an attempt (§A.5.3.12). */
export function userAuthentication(
  input: Common & { what: 'login' | 'logout'; participants: readonly Participant[] },
): AuditEvent {
  return {
    event: eventIds.userAuthentication,
    type: input.what === 'login' ? eventTypes.login : eventTypes.logout,
    action: 'E',
    ...common(input),
    participants: input.participants,
    objects: [],
  }
}

/** An order record was made, read, changed or deleted here (§A.5.3.13): a worklist item, whatever brought it. */
export function orderRecord(input: RecordChange): AuditEvent {
  return recordEvent(eventIds.orderRecord, input)
}

/** A procedure record was made, read, changed or deleted here (§A.5.3.15): a performed procedure step. */
export function procedureRecord(input: RecordChange): AuditEvent {
  return recordEvent(eventIds.procedureRecord, input)
}

type RecordChange = Common & {
  readonly action: 'C' | 'R' | 'U' | 'D'
  readonly participants: readonly Participant[]
  readonly objects: readonly AuditObject[]
}

function recordEvent(event: EventId, input: RecordChange): AuditEvent {
  const { action, participants, objects } = input
  return { event, action, ...common(input), participants, objects }
}
