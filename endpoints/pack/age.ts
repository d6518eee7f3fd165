/**
 * age v1 files (https://age-encryption.org/v1), written and read in constant memory. The header with its recipients is
 * the package's; the payload, which is STREAM over ChaCha20-Poly1305 in parts of 64 KiB, is enciphered by OpenSSL.
 */
import { createCipheriv, createDecipheriv, hkdfSync, randomBytes } from 'node:crypto'
import { Decrypter, Encrypter } from 'age-encryption'
import { GatewayError } from '../../gateway/errors.ts'

const partBytes = 65_536
const tagBytes = 16
const nonceBytes = 16
const cipher = 'chacha20-poly1305'
/** Bounds a header: some thirty recipients need 4 KiB. */
const maxHeaderBytes = 65_536

/** True for an X25519 recipient, `age1…`, whose checksum is right. */
export function isAgeRecipient(text: string): boolean {
  // Of the other kinds of recipients, which begin alike, the age of distributions knows nothing.
  if (!/^age1[02-9ac-hj-np-z]{58}$/.test(text)) return false
  try {
    new Encrypter().addRecipient(text)
    return true
  } catch {
    return false
  }
}

/**
 * Encrypts for each of the recipients.
 *
 * @param chunks  each may be overwritten once the next one is asked for
 */
export async function* encryptAge(
  chunks: AsyncIterable<Uint8Array>,
  recipients: readonly string[],
): AsyncGenerator<Uint8Array> {
  const { header, fileKey } = await newHeader(recipients)
  const nonce = randomBytes(nonceBytes)
  yield header
  yield nonce
  const parts = new Parts(fileKey, nonce)
  const part = Buffer.alloc(partBytes)
  let filled = 0
  for await (const chunk of chunks) {
    for (let at = 0; at < chunk.length; ) {
      // A full part waits for the next byte: the last one is marked, and is only empty in an empty file.
      if (filled === partBytes) {
        yield parts.seal(part, 'more')
        filled = 0
      }
      const taken = chunk.subarray(at, at + partBytes - filled)
      part.set(taken, filled)
      filled += taken.length
      at += taken.length
    }
  }
  yield parts.seal(part.subarray(0, filled), 'last')
}

/**
 * Decrypts; each part is authenticated before it is given. Only with the last one is the file whole: what was given
 * before must not be used when this throws.
 *
 * @param identities  `AGE-SECRET-KEY-1…`
 * @throws GatewayError OBJECT_DIGEST when a bit was changed, or none of the identities is a recipient
 */
export async function* decryptAge(
  chunks: AsyncIterable<Uint8Array>,
  identities: readonly string[],
): AsyncGenerator<Uint8Array> {
  let parts: Parts | undefined
  let held: Buffer = Buffer.alloc(0)
  let isFirst = true
  for await (const chunk of chunks) {
    held = Buffer.concat([held, chunk])
    if (parts === undefined) {
      const end = headerEnd(held)
      if (end === undefined || held.length < end + nonceBytes) {
        if (held.length > maxHeaderBytes + nonceBytes) throw damaged()
        continue
      }
      const fileKey = await openHeader(held.subarray(0, end), identities)
      parts = new Parts(fileKey, held.subarray(end, end + nonceBytes))
      held = held.subarray(end + nonceBytes)
    }
    while (held.length > partBytes + tagBytes) {
      yield parts.open(held.subarray(0, partBytes + tagBytes), 'more')
      isFirst = false
      held = held.subarray(partBytes + tagBytes)
    }
  }
  if (parts === undefined || held.length < tagBytes || (held.length === tagBytes && !isFirst)) throw damaged()
  yield parts.open(held, 'last')
}

/** The parts of a payload in their order: a nonce is a counter of 11 bytes and a mark of the last part. */
class Parts {
  readonly #key: Buffer
  #count = 0

  constructor(fileKey: Uint8Array, nonce: Uint8Array) {
    this.#key = Buffer.from(hkdfSync('sha256', fileKey, nonce, 'payload', 32))
  }

  seal(plain: Uint8Array, place: 'more' | 'last'): Buffer {
    const sealing = createCipheriv(cipher, this.#key, this.#nonce(place), { authTagLength: tagBytes })
    return Buffer.concat([sealing.update(plain), sealing.final(), sealing.getAuthTag()])
  }

  open(sealed: Uint8Array, place: 'more' | 'last'): Buffer {
    const opening = createDecipheriv(cipher, this.#key, this.#nonce(place), { authTagLength: tagBytes })
    opening.setAuthTag(sealed.subarray(sealed.length - tagBytes))
    const plain = opening.update(sealed.subarray(0, sealed.length - tagBytes))
    try {
      opening.final()
    } catch {
      throw damaged()
    }
    return plain
  }

  #nonce(place: 'more' | 'last'): Buffer {
    const nonce = Buffer.alloc(12)
    nonce.writeUIntBE(this.#count++, 5, 6)
    nonce[11] = place === 'last' ? 1 : 0
    return nonce
  }
}

/** The package wraps a new file key for each recipient; a recipient that wraps nothing lets us know it. */
async function newHeader(recipients: readonly string[]): Promise<{ header: Uint8Array; fileKey: Uint8Array }> {
  const encrypter = new Encrypter()
  for (const recipient of recipients) encrypter.addRecipient(recipient)
  const known = Promise.withResolvers<Uint8Array>()
  encrypter.addRecipient({
    wrapFileKey: key => {
      known.resolve(Uint8Array.from(key))
      return []
    },
  })
  const empty = await encrypter.encrypt(new Uint8Array())
  // Behind the header are the nonce and the tag of an empty payload.
  return { header: empty.subarray(0, empty.length - nonceBytes - tagBytes), fileKey: await known.promise }
}

async function openHeader(header: Uint8Array, identities: readonly string[]): Promise<Uint8Array> {
  const decrypter = new Decrypter()
  for (const identity of identities) decrypter.addIdentity(identity)
  try {
    return await decrypter.decryptHeader(header)
  } catch {
    // The package's message tells more of the file than a person needs.
    throw new GatewayError('OBJECT_DIGEST', 'the file was encrypted for other recipients, or its header was changed')
  }
}

/** Where the payload begins: after the line of the header's MAC. */
function headerEnd(bytes: Buffer): number | undefined {
  const mac = bytes.indexOf('\n--- ', 0, 'latin1')
  if (mac < 0) return undefined
  const end = bytes.indexOf(0x0a, mac + 1)
  return end < 0 ? undefined : end + 1
}

function damaged(): GatewayError {
  return new GatewayError('OBJECT_DIGEST', 'the file was changed or cut after it was encrypted')
}
