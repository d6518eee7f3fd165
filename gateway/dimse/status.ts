/**
 * Outcomes as DIMSE statuses: PS3.4 Table B.2-1 for C-STORE, PS3.7 Annex C for the general ones.
 * The only place of this module where codes of `errors.ts` are translated. Error Comment is a fixed
 * text for each code, never an error's message, so that no patient data can get into it.
 */
import { type ErrorCode, isGatewayError } from '../errors.ts'

/** Status (0000,0900) and Error Comment (0000,0902) of a response. */
export interface Outcome {
  readonly status: number
  readonly comment?: string
}

/** Statuses with a meaning of their own here. */
export const status = {
  success: 0x0000,
  invalidAttributeValue: 0x0106,
  processingFailure: 0x0110,
  duplicateSopInstance: 0x0111,
  noSuchInstance: 0x0112,
  noSuchEventType: 0x0113,
  invalidArgument: 0x0115,
  invalidObjectInstance: 0x0117,
  missingAttribute: 0x0120,
  missingAttributeValue: 0x0121,
  sopClassNotSupported: 0x0122,
  noSuchAction: 0x0123,
  notAuthorized: 0x0124,
  unrecognizedOperation: 0x0211,
  resourceLimitation: 0x0213,
  outOfResources: 0xa700,
  dataSetMismatch: 0xa900,
  cannotUnderstand: 0xc000,
  /** PS3.4 Table C.4-2. */
  cannotPerformSubOperations: 0xa702,
  moveDestinationUnknown: 0xa801,
  subOperationsFailed: 0xb000,
  cancel: 0xfe00,
  pending: 0xff00,
  /** Matches are coming, and some optional keys were not supported (PS3.4 Table C.4-1). */
  pendingWithWarning: 0xff01,
} as const

/** True for success and for warnings (0001, Bxxx), after which the SCU may forget the instance. */
export function isStored(code: number): boolean {
  return code === status.success || code === 0x0001 || (code & 0xf000) === 0xb000
}

/** True where more responses follow: FF00 and FF01 (PS3.7 Annex C). */
export function isPending(code: number): boolean {
  return (code & 0xff00) === 0xff00
}

const comments: Partial<Record<ErrorCode, string>> = {
  STORAGE_FULL: 'out of storage space, send again later',
  STORAGE_IO: 'storage failed, send again later',
  DATABASE_UNAVAILABLE: 'temporarily unavailable, send again later',
  UNAVAILABLE: 'temporarily unavailable, send again later',
  TOO_MANY_REQUESTS: 'busy, send again later',
  DICOM_MISMATCH: 'data set is of another SOP class or instance',
  DICOM_UNREADABLE: 'data set cannot be read',
  DICOM_LIMIT: 'data set exceeds a limit',
  TOO_LARGE: 'data set exceeds a limit',
  FORBIDDEN: 'not authorized',
}

/** The status of an error; one that is not ours is a processing failure without detail. */
export function outcomeOfError(error: unknown): Outcome {
  if (!isGatewayError(error)) return { status: status.processingFailure, comment: 'internal error' }
  return { status: error.meaning.dimse, comment: comments[error.code] ?? error.code.toLowerCase().replaceAll('_', ' ') }
}

/**
 * The status of a request that a service could not perform. Those of the DIMSE-N services are all of PS3.7 Annex C:
 * the failures of PS3.4 for storage and query mean nothing there.
 */
export function outcomeOfFailure(error: unknown, commandField: number): Outcome {
  const outcome = outcomeOfError(error)
  // Command fields of DIMSE-N have this bit (PS3.7 Table E.1-1).
  if ((commandField & 0x0100) === 0 || outcome.status < 0x8000) return outcome
  const isShort = outcome.status === status.outOfResources
  return { ...outcome, status: isShort ? status.resourceLimitation : status.processingFailure }
}

/** What ingest says of an instance whose bytes are kept. */
export type IngestKind = 'stored' | 'duplicate' | 'conflict' | 'variant'

/**
 * The status of an instance whose bytes are durable. Conflicts and variants are successes for the
 * sender: its bytes are held apart and retrievable, and it can do nothing about the other ones.
 */
export function outcomeOfIngest(kind: IngestKind): Outcome {
  switch (kind) {
    case 'stored':
    case 'duplicate':
    case 'conflict':
    case 'variant':
      return { status: status.success }
    default:
      return kind satisfies never
  }
}
