/** What goes wrong with certificates, in words: theirs is not trusted, or they do not take ours. */
import { GatewayError } from '../gateway/errors.ts'
import { errnoOf } from '../gateway/store/io-error.ts'

/** The error for a failure of TLS that is about certificates; undefined for any other. */
export function certificateError(error: unknown): GatewayError | undefined {
  const reason = errnoOf(error) ?? ''
  if (/ALERT|HANDSHAKE_FAILURE/.test(reason))
    return new GatewayError(
      'ENDPOINT_LOGIN',
      `the endpoint refuses our client certificate, or wants one: ${reason}; see its --client-cert-file`,
      { cause: error },
    )
  if (!/^ERR_TLS|CERT|SIGNATURE/.test(reason)) return undefined
  return new GatewayError(
    'ENDPOINT_HOST_KEY',
    `the certificate of the endpoint is not trusted: ${reason}; check the authority (ca) that is set, its host name and its dates`,
    { cause: error },
  )
}
