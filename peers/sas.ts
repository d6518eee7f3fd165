/**
 * The values that two administrators compare, and the commitment that makes a short one safe.
 *
 * Online, the joining site commits to its card and nonce before it sees the other's nonce, so an
 * attacker in the middle has one blind guess per invitation: 12 digits (39.8 bits) are plenty. By
 * files there is no such order: who changes an answer can try values at leisure until a short string
 * fits. So that one has 30 digits (99.6 bits), beyond what can be searched, and needs no commitment.
 */
import { createHash } from 'node:crypto'
import { preAuthEncoding } from './envelope.ts'

/** Labels keep the three hashes apart from each other and from signatures. */
export const pairingLabels = {
  commitment: 'hanse-pairing-commitment-v1',
  online: 'hanse-pairing-sas-online-v1',
  file: 'hanse-pairing-sas-file-v1',
} as const

/** What a site contributes: SHA-256 of its card's payload, and 32 random bytes. */
export interface Contribution {
  /** Lower-case hex. */
  readonly cardSha256: string
  readonly nonce: Uint8Array
}

/** SHA-256 by which the joining site commits to its contribution, 32 bytes. */
export function commitment(invitationId: string, joiner: Contribution): Buffer {
  return digest(pairingLabels.commitment, invitationId, [joiner])
}

/** The short authentication string, six digits a group: two groups online, five by files. */
export function shortAuthenticationString(
  mode: 'online' | 'file',
  invitationId: string,
  inviter: Contribution,
  joiner: Contribution,
): string {
  const groups = mode === 'online' ? 2 : 5
  const value = BigInt(`0x${digest(pairingLabels[mode], invitationId, [inviter, joiner]).toString('hex')}`)
  const digits = (value % 10n ** BigInt(groups * 6)).toString().padStart(groups * 6, '0')
  return digits.replace(/(\d{6})(?=\d)/g, '$1-')
}

/** Every part has a fixed length (16, then 32 + 32 bytes each), so no two inputs share an encoding. */
function digest(label: string, invitationId: string, parts: readonly Contribution[]): Buffer {
  const body = Buffer.concat([
    Buffer.from(invitationId.replaceAll('-', ''), 'hex'),
    ...parts.flatMap(({ cardSha256, nonce }) => [Buffer.from(cardSha256, 'hex'), nonce]),
  ])
  if (body.length !== 16 + parts.length * 64)
    throw new RangeError('expected a UUID, SHA-256 digests and 32-byte nonces')
  return createHash('sha256').update(preAuthEncoding(label, body)).digest()
}
