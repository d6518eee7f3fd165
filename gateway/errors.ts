/**
 * The one error class of the gateway and the one table that says what each code means to a peer,
 * to a client, to the job queue and to the audit log. Adapters translate codes in one place each:
 * `http/problem.ts` (RFC 9457) and `dimse/status.ts` (DICOM PS3.4 B.2.3, PS3.7 Annex C).
 */

/** What a code means on each side. `retry`: may the same request succeed later without a person? */
export interface ErrorMeaning {
  readonly http: number
  /** DIMSE status, DICOM PS3.4 Table B.2-1 for C-STORE. */
  readonly dimse: number
  readonly retry: 'yes' | 'no'
  readonly audit: 'none' | 'failure' | 'security-alert'
}

const meaning = (
  http: number,
  dimse: number,
  retry: ErrorMeaning['retry'],
  audit: ErrorMeaning['audit'] = 'none',
): ErrorMeaning => ({ http, dimse, retry, audit })

/** Every code that may leave a module. Stable: clients and peers match on it. */
export const errorTable = {
  // requests
  BAD_REQUEST: meaning(400, 0xc000, 'no'),
  UNAUTHENTICATED: meaning(401, 0x0124, 'no', 'failure'),
  FORBIDDEN: meaning(403, 0x0124, 'no', 'failure'),
  NOT_FOUND: meaning(404, 0xc000, 'no'),
  NOT_ACCEPTABLE: meaning(406, 0xc000, 'no'),
  MEDIA_TYPE: meaning(415, 0xc000, 'no'),
  STATE_CONFLICT: meaning(409, 0xc000, 'no'),
  TOO_LARGE: meaning(413, 0xc000, 'no'),
  TOO_MANY_REQUESTS: meaning(429, 0xa700, 'yes'),
  UNAVAILABLE: meaning(503, 0xa700, 'yes'),
  CONFIG_INVALID: meaning(500, 0xc000, 'no'),
  // DICOM
  DICOM_UNREADABLE: meaning(400, 0xc000, 'no'),
  DICOM_MISMATCH: meaning(400, 0xa900, 'no', 'failure'),
  DICOM_LIMIT: meaning(413, 0xc000, 'no'),
  TRANSCODE_UNSUPPORTED: meaning(406, 0xa900, 'no'),
  PIXELS_UNREADABLE: meaning(422, 0xc000, 'no'),
  PICTURE_UNSUPPORTED: meaning(415, 0xc000, 'no'),
  // storage
  STORAGE_FULL: meaning(507, 0xa700, 'yes', 'failure'),
  STORAGE_IO: meaning(500, 0xa700, 'yes', 'failure'),
  STORAGE_CORRUPT: meaning(500, 0xc000, 'no', 'security-alert'),
  DATABASE_UNAVAILABLE: meaning(503, 0xa700, 'yes'),
  DATABASE_MAJOR: meaning(500, 0xc000, 'no'),
  // peers: identity and pairing
  PEER_UNKNOWN: meaning(403, 0xc000, 'no', 'security-alert'),
  PEER_REVOKED: meaning(403, 0xc000, 'no', 'security-alert'),
  PEER_PENDING: meaning(409, 0xc000, 'yes'),
  PEER_CARD_INVALID: meaning(400, 0xc000, 'no', 'security-alert'),
  PEER_CLOCK_DRIFT: meaning(409, 0xc000, 'yes', 'failure'),
  PEER_TLS_INTERCEPTED: meaning(502, 0xc000, 'yes', 'security-alert'),
  PEER_UNREACHABLE: meaning(502, 0xc000, 'yes'),
  PEER_PROTOCOL: meaning(502, 0xc000, 'yes', 'failure'),
  // endpoints of third parties
  ENDPOINT_UNREACHABLE: meaning(502, 0xc000, 'yes'),
  ENDPOINT_LOGIN: meaning(502, 0xc000, 'no', 'failure'),
  ENDPOINT_HOST_KEY: meaning(502, 0xc000, 'no', 'security-alert'),
  ENDPOINT_DENIED: meaning(502, 0xc000, 'no', 'failure'),
  ENDPOINT_FULL: meaning(502, 0xc000, 'yes', 'failure'),
  ENDPOINT_UNSUPPORTED: meaning(422, 0xc000, 'no'),
  ENDPOINT_PROTOCOL: meaning(502, 0xc000, 'yes', 'failure'),
  ENDPOINT_STOPPED: meaning(409, 0xc000, 'yes'),
  ENDPOINT_REJECTED: meaning(502, 0xc000, 'no', 'failure'),
  PAIRING_INVALID: meaning(403, 0xc000, 'no', 'security-alert'),
  PAIRING_EXPIRED: meaning(410, 0xc000, 'no', 'failure'),
  PROXY_REFUSED: meaning(502, 0xc000, 'yes'),
  // peers: transfers
  MANIFEST_SIGNATURE: meaning(403, 0xc000, 'no', 'security-alert'),
  MANIFEST_MALFORMED: meaning(400, 0xc000, 'no', 'security-alert'),
  MANIFEST_RECIPIENT: meaning(403, 0xc000, 'no', 'security-alert'),
  MANIFEST_SENDER: meaning(403, 0xc000, 'no', 'security-alert'),
  MANIFEST_EXPIRED: meaning(410, 0xc000, 'no', 'failure'),
  MANIFEST_LIMIT: meaning(413, 0xc000, 'no', 'failure'),
  MANIFEST_VERSION: meaning(400, 0xc000, 'no', 'failure'),
  OFFER_REFUSED: meaning(403, 0xc000, 'no', 'failure'),
  OFFER_INCOMPLETE: meaning(409, 0xc000, 'yes'),
  CHUNK_DIGEST: meaning(400, 0xc000, 'yes', 'failure'),
  CHUNK_RANGE: meaning(416, 0xc000, 'no', 'failure'),
  CHUNK_CONFLICT: meaning(409, 0xc000, 'no', 'security-alert'),
  OBJECT_DIGEST: meaning(422, 0xc000, 'no', 'security-alert'),
  OBJECT_MISMATCH: meaning(422, 0xc000, 'no', 'failure'),
  RECEIPT_INVALID: meaning(502, 0xc000, 'no', 'security-alert'),
  TRANSFER_CANCELLED: meaning(410, 0xc000, 'no'),
  // policy
  POLICY_INVALID: meaning(400, 0xc000, 'no'),
  POLICY_DENIED: meaning(403, 0xc000, 'no', 'failure'),
  AGREEMENT_MISSING: meaning(403, 0xc000, 'no', 'failure'),
  CONSENT_MISSING: meaning(403, 0xc000, 'no', 'failure'),
  CONSENT_OBJECTED: meaning(403, 0xc000, 'no', 'failure'),
  IDENTITY_CHANGED: meaning(409, 0xc000, 'no', 'security-alert'),
  // de-identification
  DEIDENTIFICATION_HELD: meaning(409, 0xc000, 'no', 'security-alert'),
  PROJECT_KEY: meaning(409, 0xc000, 'no', 'security-alert'),
  CERTIFICATE_INVALID: meaning(422, 0xc000, 'no', 'security-alert'),
  // DICOM associations that we request
  ASSOCIATION_REFUSED: meaning(502, 0xc000, 'yes', 'failure'),
  REMOTE_STATUS: meaning(502, 0xc000, 'yes', 'failure'),
  // on to the archive
  MODALITY_UNKNOWN: meaning(409, 0xc000, 'no'),
  PATIENT_UNLINKED: meaning(409, 0xc000, 'no'),
  ARCHIVE_REFUSED: meaning(502, 0xc000, 'no', 'failure'),
  ARCHIVE_INCOMPLETE: meaning(502, 0xc000, 'yes', 'failure'),
  ARCHIVE_UNCOMMITTED: meaning(502, 0xc000, 'no', 'failure'),
  // audit
  AUDIT_BROKEN: meaning(500, 0xc000, 'no', 'security-alert'),
} as const satisfies Record<string, ErrorMeaning>

export type ErrorCode = keyof typeof errorTable

/** Ids, UIDs and counts only: an error's context may reach logs, so it never holds patient data. */
export type ErrorContext = Readonly<Record<string, string | number | boolean | undefined>>

/**
 * An outcome the caller cannot go on from. The message says what was expected and what was seen,
 * in lower case, without patient data.
 */
export class GatewayError extends Error {
  readonly code: ErrorCode
  readonly context: ErrorContext

  constructor(code: ErrorCode, message: string, options: { cause?: unknown; context?: ErrorContext } = {}) {
    super(message, 'cause' in options ? { cause: options.cause } : undefined)
    this.name = 'GatewayError'
    this.code = code
    this.context = options.context ?? {}
  }

  get meaning(): ErrorMeaning {
    return errorTable[this.code]
  }
}

/**
 * What an error says to other machines. A database's own words name hosts, users and paths, which concern
 * the administrator; they are in the log.
 */
export function outwardMessage(error: GatewayError): string {
  return error.code === 'DATABASE_UNAVAILABLE' ? 'the database does not answer' : error.message
}

/**
 * One line about an unexpected error for the log: what it was and where. PostgreSQL's messages quote values
 * (`invalid input syntax for type …: "…"`), so of its errors only code and names are told.
 */
export function errorLine(error: unknown): string {
  let inner = error
  for (let depth = 0; depth < 10 && inner instanceof Error && inner.cause !== undefined; depth++) inner = inner.cause
  const name = error instanceof GatewayError ? error.code : error instanceof Error ? error.name : typeof error
  if (!(inner instanceof Error)) return name
  const frame = inner.stack?.split('\n').find(line => line.startsWith('    at '))
  return `${name}: ${isOfDatabase(inner) ? namesOf(inner) : inner.message} ${frame?.trim() ?? ''}`.trim()
}

const text = (error: Error, key: string): string => {
  const value: unknown = Reflect.get(error, key)
  return typeof value === 'string' ? value : ''
}
const isOfDatabase = (error: Error): boolean =>
  /^[0-9A-Z]{5}$/.test(text(error, 'code')) && text(error, 'severity') !== ''
const namesOf = (error: Error): string =>
  ['code', 'table', 'column', 'constraint']
    .map(key => text(error, key))
    .filter(value => value !== '')
    .join(' ')

/** True for a GatewayError, of this code when one is named. */
export function isGatewayError(error: unknown, code?: ErrorCode): error is GatewayError {
  return error instanceof GatewayError && (code === undefined || error.code === code)
}
