/**
 * Signed notes and checkpoints: C2SP signed-note and tlog-checkpoint (https://c2sp.org).
 *
 *     hanse/0f3c…/audit
 *     20852
 *     CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=
 *
 *     — hanse/0f3c…/audit Az3grlgtzPICa5OS8npVmf1Myq/5…
 *
 * Origin, tree size, base64 of the root; a blank line; one signature line per key, holding the first
 * 4 bytes of SHA-256(name, newline, signature type, public key) and the signature. Signature lines of
 * unknown keys are ignored, as the specification demands.
 */
import { createPublicKey, hash, verify as verifyEd25519 } from 'node:crypto'
import { GatewayError } from '../errors.ts'

/** What a checkpoint says. */
export interface TreeHead {
  readonly origin: string
  readonly size: number
  /** 32 bytes. */
  readonly root: Buffer
}

/** Signs the text of a note: answers its signature line or lines. */
export interface NoteSigner {
  /** The log's identity: first line of its checkpoints. */
  readonly origin: string
  sign(text: string): Promise<string>
}

/** A key that signatures are checked with. */
export interface NoteKey {
  readonly name: string
  /** 4 bytes, the hint in signature lines. */
  readonly id: Buffer
  verify(text: string, signature: Uint8Array): boolean
}

/** Signature type 0x01: Ed25519 over the note's text itself. */
export const ed25519Type: Uint8Array = Uint8Array.of(1)

/** Signature type 0xff with a name: a scheme of our own, such as Ed25519 over an encoding of the text. */
export function namedType(name: string): Uint8Array {
  return Uint8Array.of(0xff, ...Buffer.from(name, 'utf8'))
}

interface KeyOptions {
  /** Key name without spaces or plus; for a log, its origin. */
  readonly name: string
  /** Ed25519 public key, 32 bytes. */
  readonly publicKey: Uint8Array
  /** `ed25519Type` by default. */
  readonly type?: Uint8Array
}

/** A signer whose key name is the log's origin. `sign` gets the text in UTF-8 and answers 64 bytes. */
export function noteSigner(
  options: KeyOptions & { sign: (text: Uint8Array) => Uint8Array | Promise<Uint8Array> },
): NoteSigner {
  const id = keyId(options)
  return {
    origin: options.name,
    async sign(text) {
      const signature = await options.sign(Buffer.from(text, 'utf8'))
      return `— ${options.name} ${Buffer.concat([id, signature]).toString('base64')}\n`
    },
  }
}

/** The key to check that signer's notes with. `verify` is Ed25519 over the text by default. */
export function noteKey(
  options: KeyOptions & { verify?: (text: Uint8Array, signature: Uint8Array) => boolean },
): NoteKey {
  const check = options.verify ?? ed25519(options.publicKey)
  return {
    name: options.name,
    id: keyId(options),
    verify: (text, signature) => check(Buffer.from(text, 'utf8'), signature),
  }
}

function keyId({ name, publicKey, type = ed25519Type }: KeyOptions): Buffer {
  if (name === '' || /[\s+]/u.test(name)) throw new RangeError('a key name is not empty and has no space or plus')
  return hash('sha256', Buffer.concat([Buffer.from(`${name}\n`, 'utf8'), type, publicKey]), 'buffer').subarray(0, 4)
}

function ed25519(publicKey: Uint8Array): (text: Uint8Array, signature: Uint8Array) => boolean {
  const key = createPublicKey({
    key: { kty: 'OKP', crv: 'Ed25519', x: Buffer.from(publicKey).toString('base64url') },
    format: 'jwk',
  })
  return (text, signature) => signature.length === 64 && verifyEd25519(null, text, key, signature)
}

/** The text of a checkpoint, with its final newline: what is signed. */
export function checkpointText({ origin, size, root }: TreeHead): string {
  return `${origin}\n${size}\n${root.toString('base64')}\n`
}

/**
 * Reads a note as a checkpoint; verifies nothing.
 *
 * @throws GatewayError AUDIT_BROKEN when it is not one
 */
export function parseCheckpoint(note: string): TreeHead & { readonly text: string } {
  const text = splitNote(note)?.text
  const [origin = '', size = '', root = ''] = text?.split('\n') ?? []
  const rootBytes = Buffer.from(root, 'base64')
  const valid =
    text !== undefined &&
    origin !== '' &&
    /^(0|[1-9]\d{0,15})$/.test(size) &&
    rootBytes.length === 32 &&
    rootBytes.toString('base64') === root
  if (!valid) throw new GatewayError('AUDIT_BROKEN', 'not a checkpoint: expected origin, tree size and root hash')
  return { origin, size: Number(size), root: rootBytes, text }
}

/** True when one of the keys has signed the note. */
export function isSigned(note: string, keys: readonly NoteKey[]): boolean {
  const parts = splitNote(note)
  if (!parts) return false
  return parts.signatures.some(line => {
    const [, name, encoded = ''] = /^— (\S+) (\S+)$/u.exec(line) ?? []
    const bytes = Buffer.from(encoded, 'base64')
    const [id, signature] = [bytes.subarray(0, 4), bytes.subarray(4)]
    return keys.some(key => key.name === name && key.id.equals(id) && key.verify(parts.text, signature))
  })
}

/** Text with its final newline, and signature lines: they are parted by the last empty line. */
function splitNote(note: string): { text: string; signatures: readonly string[] } | undefined {
  const cut = note.lastIndexOf('\n\n')
  if (cut < 0 || !note.endsWith('\n')) return undefined
  return { text: note.slice(0, cut + 1), signatures: note.slice(cut + 2, -1).split('\n') }
}
