/** OpenPGP messages (RFC 9580) for the public keys of an endpoint, as binary, written in constant memory. */
import {
  createMessage,
  decrypt,
  encrypt,
  type Key,
  type PrivateKey,
  readKey,
  readMessage,
  readPrivateKey,
} from 'openpgp'
import { GatewayError, isGatewayError } from '../../gateway/errors.ts'
import { errnoOf } from '../../gateway/store/io-error.ts'

/**
 * Encrypts for each of the keys; the message names no file.
 *
 * @param chunks  each may be overwritten once the next one is asked for
 * @throws GatewayError BAD_REQUEST when a key cannot be used
 */
export async function* encryptOpenpgp(
  chunks: AsyncIterable<Uint8Array>,
  armoredKeys: readonly string[],
): AsyncGenerator<Uint8Array> {
  const encryptionKeys = await readEncryptionKeys(armoredKeys)
  // Copies: the stream may hold a chunk beyond the time for which it is ours.
  const binary = ReadableStream.from(copies(chunks))
  yield* await encrypt({
    message: await createMessage({ binary }),
    encryptionKeys,
    format: 'binary',
  })
}

/** Reads public keys that can encrypt today. @throws GatewayError BAD_REQUEST with what is wrong with which */
export async function readEncryptionKeys(armoredKeys: readonly string[]): Promise<Key[]> {
  const keys: Key[] = []
  for (const [index, armoredKey] of armoredKeys.entries()) {
    try {
      const key = await readKey({ armoredKey })
      if (key.isPrivate()) throw new Error('a private key')
      await key.getEncryptionKey()
      keys.push(key)
    } catch (cause) {
      throw new GatewayError(
        'BAD_REQUEST',
        `OpenPGP key ${index + 1} cannot be used: expected a public key that can encrypt and has not expired`,
        { cause },
      )
    }
  }
  return keys
}

/**
 * Decrypts. What is given is only authenticated with the last byte: it must not be used when this throws.
 *
 * @param armoredKeys  private keys without a passphrase
 * @throws GatewayError OBJECT_DIGEST when a bit was changed, or none of the keys is a recipient's; what `chunks` throws
 */
export async function* decryptOpenpgp(
  chunks: AsyncIterable<Uint8Array>,
  armoredKeys: readonly string[],
): AsyncGenerator<Uint8Array> {
  try {
    const message = await readMessage({ binaryMessage: ReadableStream.from(copies(chunks)) })
    // Else the package gathers all of it before it gives the first byte.
    const config = { allowUnauthenticatedStream: true }
    const decryptionKeys = await readPrivateKeys(armoredKeys)
    const { data } = await decrypt({ message, decryptionKeys, format: 'binary', config })
    yield* data
  } catch (cause) {
    if (isGatewayError(cause) || errnoOf(cause) !== undefined) throw cause
    throw new GatewayError('OBJECT_DIGEST', 'the file was encrypted for other keys, or was changed or cut since', {
      cause,
    })
  }
}

/** Reads private keys. @throws GatewayError BAD_REQUEST for one that is protected by a passphrase, or is none */
export async function readPrivateKeys(armoredKeys: readonly string[]): Promise<PrivateKey[]> {
  const keys: PrivateKey[] = []
  for (const armoredKey of armoredKeys) {
    const key = await readPrivateKey({ armoredKey }).catch(() => undefined)
    if (!key?.isDecrypted())
      throw new GatewayError(
        'BAD_REQUEST',
        'expected an OpenPGP private key without a passphrase: others are for gpg -d',
      )
    keys.push(key)
  }
  return keys
}

async function* copies(chunks: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array<ArrayBuffer>> {
  for await (const chunk of chunks) yield Uint8Array.from(chunk)
}
