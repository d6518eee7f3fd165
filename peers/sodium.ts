/**
 * The only import of libsodium: Ed25519 signatures and X25519 sealed boxes over raw bytes.
 *
 * libsodium rather than node:crypto, because it refuses small-order and non-canonical points when it
 * verifies, and because sealed boxes exist only there. The top-level `await` is the one piece of work
 * at import: the library is WebAssembly that must be compiled once, and waiting for it here keeps
 * every signing and verifying function synchronous.
 */
import sodium from 'libsodium-wrappers'

await sodium.ready

/** A key pair; `privateKey` is 64 bytes for Ed25519 (seed and public key), 32 for X25519. */
export interface KeyPair {
  readonly publicKey: Uint8Array
  readonly privateKey: Uint8Array
}

/** The Ed25519 key pair of a 32-byte seed (RFC 8032 §5.1.5). */
export function signingKeyPair(seed: Uint8Array): KeyPair {
  const { publicKey, privateKey } = sodium.crypto_sign_seed_keypair(seed)
  return { publicKey, privateKey }
}

/** The X25519 key pair of a 32-byte seed (libsodium `crypto_box_seed_keypair`). */
export function sealingKeyPair(seed: Uint8Array): KeyPair {
  const { publicKey, privateKey } = sodium.crypto_box_seed_keypair(seed)
  return { publicKey, privateKey }
}

/** Ed25519 signature, 64 bytes. */
export function signBytes(bytes: Uint8Array, privateKey: Uint8Array): Uint8Array {
  return sodium.crypto_sign_detached(bytes, privateKey)
}

/** True when `signature` verifies; false for anything else, wrong lengths included. */
export function verifyBytes(signature: Uint8Array, bytes: Uint8Array, publicKey: Uint8Array): boolean {
  if (signature.length !== 64 || publicKey.length !== 32) return false
  return sodium.crypto_sign_verify_detached(signature, bytes, publicKey)
}

/** Anonymous box to an X25519 public key: 48 bytes longer than `bytes`. */
export function sealBytes(bytes: Uint8Array, publicKey: Uint8Array): Uint8Array {
  return sodium.crypto_box_seal(bytes, publicKey)
}

/** Opens a sealed box; undefined when it was not made for this key or was changed. */
export function openSealedBytes(box: Uint8Array, keys: KeyPair): Uint8Array | undefined {
  try {
    return sodium.crypto_box_seal_open(box, keys.publicKey, keys.privateKey)
  } catch {
    return undefined // the library throws for every reason alike, and the reason must not leave either
  }
}

/** A box under a secret key of 32 bytes: random nonce of 24 bytes, then the ciphertext, 16 bytes longer than `bytes`. */
export function lockBytes(bytes: Uint8Array, key: Uint8Array): Uint8Array {
  const nonce = sodium.randombytes_buf(sodium.crypto_secretbox_NONCEBYTES)
  return Buffer.concat([nonce, sodium.crypto_secretbox_easy(bytes, nonce, key)])
}

/** Opens a box of `lockBytes`; undefined when it was not made with this key or was changed. */
export function unlockBytes(box: Uint8Array, key: Uint8Array): Uint8Array | undefined {
  const { crypto_secretbox_NONCEBYTES: nonceBytes } = sodium
  try {
    return sodium.crypto_secretbox_open_easy(box.subarray(nonceBytes), box.subarray(0, nonceBytes), key)
  } catch {
    return undefined // as above
  }
}
