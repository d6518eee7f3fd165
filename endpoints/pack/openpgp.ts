/** OpenPGP messages (RFC 9580) for the public keys of an endpoint, as binary, written in constant memory. */
import { createMessage, encrypt, type Key, readKey } from 'openpgp'
import { GatewayError } from '../../gateway/errors.ts'

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

async function* copies(chunks: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array<ArrayBuffer>> {
  for await (const chunk of chunks) yield Uint8Array.from(chunk)
}
