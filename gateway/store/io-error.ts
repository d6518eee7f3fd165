/** What a failed file operation means to the gateway. */
import { GatewayError } from '../errors.ts'

/** The GatewayError for an error of `node:fs`: STORAGE_FULL, else STORAGE_IO; a GatewayError as it is. */
export function storageError(error: unknown, doing: string): GatewayError {
  if (error instanceof GatewayError) return error
  const code = errnoOf(error)
  if (code === 'ENOSPC' || code === 'EDQUOT') {
    return new GatewayError('STORAGE_FULL', `no room left while ${doing}`, { cause: error })
  }
  return new GatewayError('STORAGE_IO', `${code ?? 'error'} while ${doing}`, { cause: error })
}

/** The system's name of the error (`ENOENT`), if it has one. */
export function errnoOf(error: unknown): string | undefined {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : undefined
}
