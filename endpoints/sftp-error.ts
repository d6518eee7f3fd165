/** What goes wrong with SSH and SFTP, in words that say what to do. */
import { GatewayError } from '../gateway/errors.ts'
import { errnoOf } from '../gateway/store/io-error.ts'

/** The status of an SFTP answer (draft-ietf-secsh-filexfer-02 §7), where the error is one. */
export function statusOf(error: unknown): number | undefined {
  const code: unknown = Object(error).code
  return typeof code === 'number' ? code : undefined
}

/** Of a request on an open session. */
export function sftpError(error: unknown): GatewayError {
  if (error instanceof GatewayError) return error
  switch (statusOf(error)) {
    case 2:
      return new GatewayError('ENDPOINT_DENIED', 'a folder or file of the endpoint is not there', { cause: error })
    case 3:
      return new GatewayError('ENDPOINT_DENIED', 'the endpoint forbids it: check the permissions of its folder', {
        cause: error,
      })
    case 14:
    case 15:
      return new GatewayError('ENDPOINT_FULL', 'the endpoint has no room', { cause: error })
    case 4:
      // The only answer that OpenSSH has for a full disk, and for much else.
      return new GatewayError('ENDPOINT_FULL', 'the endpoint could not write: is its disk full?', { cause: error })
    case 8:
      return new GatewayError('ENDPOINT_UNSUPPORTED', 'the endpoint cannot do this', { cause: error })
    case 6:
    case 7:
    case undefined:
      return new GatewayError('ENDPOINT_UNREACHABLE', 'the connection to the endpoint broke', { cause: error })
    default:
      return new GatewayError('ENDPOINT_PROTOCOL', `the endpoint answered with status ${statusOf(error)}`, {
        cause: error,
      })
  }
}

/** Of connecting and logging in. */
export function sshError(error: unknown): GatewayError {
  if (error instanceof GatewayError) return error
  const level: unknown = Object(error).level
  if (level === 'client-authentication')
    return new GatewayError('ENDPOINT_LOGIN', 'the endpoint refuses the login: check user, password or key', {
      cause: error,
    })
  const reason = errnoOf(error)
  if (reason === 'ENOTFOUND' || reason === 'EAI_AGAIN')
    return new GatewayError('ENDPOINT_UNREACHABLE', 'the host name of the endpoint is not known', { cause: error })
  return new GatewayError('ENDPOINT_UNREACHABLE', `no connection to the endpoint${reason ? `: ${reason}` : ''}`, {
    cause: error,
  })
}

/** Of asking for SFTP after the login: a shell that says that the password has expired ends the session by itself. */
export function sessionError(error: unknown): GatewayError {
  const isRefused = statusOf(error) !== undefined || /^Unable to start subsystem/.test(String(Object(error).message))
  if (error instanceof GatewayError || !isRefused) return sshError(error)
  return new GatewayError(
    'ENDPOINT_LOGIN',
    'the endpoint takes the login but begins no SFTP: has the password expired, or may this user not use SFTP?',
    { cause: error },
  )
}
