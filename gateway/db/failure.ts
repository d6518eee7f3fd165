/** What a failed statement means to the gateway. */
import { GatewayError, isGatewayError } from '../errors.ts'

/** `rerun`: the transaction was rolled back for concurrency alone; `lost`: the connection is gone. */
export type FailureKind = 'rerun' | 'lost' | 'full' | 'other'

const codes: Readonly<Record<string, FailureKind>> = {
  '40001': 'rerun', // serialization_failure
  '40P01': 'rerun', // deadlock_detected
  '57P01': 'lost', // admin_shutdown
  '57P02': 'lost', // crash_shutdown
  '57P03': 'lost', // cannot_connect_now
  '53300': 'lost', // too_many_connections
  '25P03': 'lost', // idle_in_transaction_session_timeout
  '53100': 'full', // disk_full
  ECONNREFUSED: 'lost',
  ECONNRESET: 'lost',
  ENOENT: 'lost', // the socket file
  EPIPE: 'lost',
  ETIMEDOUT: 'lost',
  EHOSTUNREACH: 'lost',
  ENETUNREACH: 'lost',
  EAI_AGAIN: 'lost',
}

/** Classifies an error of `pg`, its pool, or what `databaseError` made of one. */
export function failureKind(error: unknown): FailureKind {
  if (isGatewayError(error, 'DATABASE_UNAVAILABLE')) return 'lost'
  if (!(error instanceof Error)) return 'other'
  const code = 'code' in error && typeof error.code === 'string' ? error.code : ''
  if (Object.hasOwn(codes, code)) return codes[code] ?? 'other'
  if (/^08/.test(code)) return 'lost' // class 08, connection exception
  return uncoded.test(error.message) ? 'lost' : 'other'
}

/** PostgreSQL stores no NUL and no half of a surrogate pair: who sent such a text is told so. */
function isUnstorable(error: unknown): boolean {
  // character_not_in_repertoire, untranslatable_character, invalid_text_representation (of JSON)
  const code = error instanceof Error && 'code' in error ? error.code : undefined
  return code === '22021' || code === '22P05' || (code === '22P02' && /type json/.test(String(error)))
}

/** pg gives its own connection errors no code. */
const uncoded =
  /^(connection terminated|client has encountered a connection error|timeout exceeded when trying to connect|client was closed)/i

/** The GatewayError for a failure of the database itself; constraint violations and the like pass through. */
export function databaseError(error: unknown): unknown {
  if (error instanceof GatewayError) return error
  const kind = failureKind(error)
  const message = error instanceof Error ? error.message : String(error)
  if (kind === 'lost') return new GatewayError('DATABASE_UNAVAILABLE', `no database: ${message}`, { cause: error })
  if (isUnstorable(error)) {
    return new GatewayError('BAD_REQUEST', 'a text holds a character that cannot be stored', { cause: error })
  }
  if (kind === 'full') return new GatewayError('STORAGE_FULL', 'the database has no room left', { cause: error })
  return error
}

/** True when `error` says that a row like this exists (of this unique constraint, when one is named). */
export function isUniqueViolation(error: unknown, constraint?: string): boolean {
  if (!(error instanceof Error) || !('code' in error) || error.code !== '23505') return false
  return constraint === undefined || ('constraint' in error && error.constraint === constraint)
}
