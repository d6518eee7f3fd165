/**
 * The signature of a delivery, `manifest.sig` (`endpoints/PACKAGES.md` §Signature): size and SHA-256 of every other file
 * but `.done`, signed with the site's key.
 */
import { decode, describeExpected, integer, list, object, oneOf, text } from '../../gateway/decode.ts'
import { GatewayError } from '../../gateway/errors.ts'
import {
  encodePayload,
  openEnvelope,
  openSelfSigned,
  type SignatureContext,
  type Signer,
  type SigningKey,
  signEnvelope,
} from '../../peers/envelope.ts'
import { instant, sha256, siteId } from '../../peers/fields.ts'
import { base64 } from '../../peers/json.ts'
import type { PackageFile } from '../package.ts'

export const statementType: SignatureContext = 'application/vnd.hanse.delivery.v1+json'
const maxStatementBytes = 268_435_456
const roles = ['content', 'certificate', 'manifest'] as const

/** What was signed. */
export interface Statement {
  readonly from: string
  readonly created: Date
  readonly signingKey: SigningKey
  /** In the order in which they are delivered. */
  readonly files: readonly SignedFile[]
}

export interface SignedFile {
  /** Path below the folder of the delivery, as the sender wrote it. */
  readonly name: string
  readonly role: (typeof roles)[number]
  readonly size: number
  readonly sha256: string
}

/** The file's bytes. Ed25519 is deterministic: the same files give the same bytes. */
export function signStatement(
  files: readonly PackageFile[],
  { from, created, signer }: { readonly from: string; readonly created: Date; readonly signer: Signer },
): Uint8Array {
  const payload = {
    version: 1,
    from,
    created: created.toISOString(),
    signingKey: Buffer.from(signer.signingKey).toString('base64'),
    files: files.map(({ name, role, size, sha256 }) => ({ name, role, size, sha256 })),
  }
  return signEnvelope(statementType, encodePayload(payload), signer)
}

/**
 * Verifies a signature.
 *
 * @param keys  of the sender; without them the signature proves only that nothing was changed since somebody made it
 * @throws GatewayError MANIFEST_MALFORMED, MANIFEST_SIGNATURE
 */
export function openStatement(bytes: Uint8Array, keys: readonly SigningKey[] | undefined): Statement {
  const rules = {
    context: statementType,
    maxBytes: maxStatementBytes,
    maxDepth: 6,
    malformed: 'MANIFEST_MALFORMED',
    untrusted: 'MANIFEST_SIGNATURE',
  } as const
  if (keys !== undefined) return readStatement(openEnvelope(bytes, { ...rules, keys }).value)
  return readStatement(openSelfSigned(bytes, { ...rules, keyOf: value => readStatement(value).signingKey }).value)
}

const shape = object(
  {
    version: integer({ min: 1, max: 1 }),
    from: siteId,
    created: instant,
    signingKey: base64({ bytes: 32 }),
    files: list(
      object(
        {
          name: text({ min: 1, max: 4096 }),
          role: oneOf(...roles),
          size: integer({ min: 0 }),
          sha256,
        },
        { unknown: 'keep' },
      ),
      { max: 1_000_000 },
    ),
  },
  { unknown: 'keep' },
)

function readStatement(value: unknown): Statement {
  const found = decode(shape, value)
  if (found.ok) return found.value
  throw new GatewayError('MANIFEST_MALFORMED', `not the signature of a delivery: ${describeExpected(found.problems)}`)
}
