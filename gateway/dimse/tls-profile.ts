/**
 * The BCP 195 RFC 8996, 9325 TLS Secure Transport Connection Profile, PS3.15 §B.12: TLS 1.2 and 1.3, the
 * latter preferred, nothing older, and of TLS 1.2 the cipher suites with forward secrecy and authenticated
 * encryption (RFC 9325 §4.2). The Modified Profile, §B.13, names the same and rarer ones; what it forbids is
 * not offered either, but its Camellia suites are not in OpenSSL, so that we do not claim it.
 */
import { constants } from 'node:crypto'
import type { SecureContextOptions } from 'node:tls'

const cipherSuites = [
  'TLS_AES_256_GCM_SHA384',
  'TLS_AES_128_GCM_SHA256',
  'TLS_CHACHA20_POLY1305_SHA256',
  'ECDHE-ECDSA-AES256-GCM-SHA384',
  'ECDHE-RSA-AES256-GCM-SHA384',
  'ECDHE-ECDSA-AES128-GCM-SHA256',
  'ECDHE-RSA-AES128-GCM-SHA256',
  'ECDHE-ECDSA-CHACHA20-POLY1305',
  'ECDHE-RSA-CHACHA20-POLY1305',
  // RSA keys of at least 2048 bits, elliptic ones of 224, no SHA-1 (RFC 9325 §4.5).
  '@SECLEVEL=2',
]

/** Versions, cipher suites and options of both sides. */
export const tlsProfile = {
  minVersion: 'TLSv1.2',
  maxVersion: 'TLSv1.3',
  ciphers: cipherSuites.join(':'),
  // A resumed session would carry the verdict of an earlier handshake past a change of the registry.
  secureOptions: constants.SSL_OP_NO_TICKET | constants.SSL_OP_NO_RENEGOTIATION,
} as const satisfies SecureContextOptions
