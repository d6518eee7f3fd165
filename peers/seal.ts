/**
 * Sealing: bytes that only the receiving site can read, such as a manifest's identifying section.
 *
 * A sealed box hides but does not authenticate: anybody can seal to a public key. Who wrote it is
 * proven by the signature over the message that carries the box.
 * @see libsodium `crypto_box_seal` (X25519, XSalsa20-Poly1305, ephemeral sender key)
 */
import { GatewayError } from '../gateway/errors.ts'
import { sealBytes } from './sodium.ts'

/** By how much a sealed box is longer than what is in it: ephemeral key and authenticator. */
export const sealOverheadBytes = 48

/**
 * Seals `bytes` to a site's X25519 sealing key. Each call gives another box: a caller that must sign
 * the same bytes again after a crash stores the box first.
 *
 * @throws GatewayError PEER_CARD_INVALID when the key is not a usable X25519 key
 */
export function seal(bytes: Uint8Array, sealingKey: Uint8Array): Uint8Array {
  if (sealingKey.length === 32) {
    try {
      return sealBytes(bytes, sealingKey)
    } catch {
      // libsodium refuses keys of small order: everybody could open what is sealed to them
    }
  }
  throw new GatewayError('PEER_CARD_INVALID', 'expected an X25519 key of 32 bytes to seal to')
}
