/**
 * The de-identification certificate of a transfer (`PROTOCOL.md` §De-identification certificate): what was done to its
 * objects, signed by the site that did it. It binds the objects as they leave, and says nothing of where they came from:
 * no source digest, no source UID, nothing that two recipients could join on.
 */
import { createHash } from 'node:crypto'
import { decode, describeExpected, integer, list, object, oneOf, record, text } from '../gateway/decode.ts'
import { GatewayError } from '../gateway/errors.ts'
import { encodePayload, openEnvelope, type Signer, type SigningKey, sha256Hex, signEnvelope } from './envelope.ts'
import { instant, sha256, siteId } from './fields.ts'
import type { Manifest, ManifestObject } from './manifest.ts'

export const certificateType = 'application/vnd.hanse.deidentification.v1+json'
/** Most bytes of a signed certificate. */
export const maxCertificateBytes = 48 * 1024
/** Most groups of objects that were treated alike. */
const maxGroups = 100

/** Objects of which the same is true. */
export interface TreatedGroup {
  readonly instances: number
  readonly sopClassUid: string
  /** What became of the pixels: `no pixels`, `unchanged`, `blanked` or `released`. */
  readonly pixels: string
  /** Codes of CID 7050 that are true of the objects. */
  readonly methods: readonly string[]
}

export interface DeidCertificate {
  readonly from: string
  readonly to: string
  readonly created: Date
  /** SHA-256 of the canonical profile document, its legal basis, and the edition of DICOM PS3.15 that it follows. */
  readonly profile: { readonly name: string; readonly sha256: string; readonly basis: string; readonly edition: string }
  readonly dates: 'removed' | 'shifted' | 'kept'
  /** Codes of CID 7050 that the profile asks for and that were not carried out. */
  readonly notDone: readonly string[]
  /** How often each action was taken, over all objects. */
  readonly counts: Readonly<Record<string, number>>
  readonly groups: readonly TreatedGroup[]
  /** The objects, in the manifest's order. */
  readonly objects: { readonly count: number; readonly sha256: string }
}

/** SHA-256 in hex over a line `<SOP Instance UID> <SHA-256 of the file>\n` for each object, in order. */
export function objectsDigest(objects: readonly Pick<ManifestObject, 'sopInstanceUid' | 'sha256'>[]): string {
  const hash = createHash('sha256')
  for (const { sopInstanceUid, sha256 } of objects) hash.update(`${sopInstanceUid} ${sha256}\n`)
  return hash.digest('hex')
}

/**
 * Signs a certificate. The same certificate gives the same bytes.
 *
 * @throws GatewayError MANIFEST_LIMIT when it becomes too long
 */
export function signCertificate(
  certificate: DeidCertificate,
  signer: Signer,
): { readonly envelope: Uint8Array; readonly sha256: string } {
  const { from, to, created, profile, dates, notDone, counts, groups, objects } = certificate
  const payload = {
    version: 1,
    from,
    to,
    created: created.toISOString(),
    profile,
    dates,
    notDone,
    counts,
    groups,
    objects,
  }
  const envelope = signEnvelope(certificateType, encodePayload(payload), signer)
  if (envelope.length > maxCertificateBytes || groups.length > maxGroups)
    throw new GatewayError('MANIFEST_LIMIT', `expected a certificate of at most ${maxCertificateBytes} bytes`)
  return { envelope, sha256: sha256Hex(envelope) }
}

/**
 * Verifies the certificate of a manifest whose own signature was verified; undefined when it carries none.
 *
 * @throws GatewayError CERTIFICATE_INVALID when it is not signed by the sender, or speaks of something else
 */
export function openCertificate(
  manifest: Manifest,
  keys: readonly SigningKey[],
): { readonly envelope: Uint8Array; readonly sha256: string; readonly certificate: DeidCertificate } | undefined {
  if (manifest.certificate === undefined) return undefined
  const envelope = Buffer.from(manifest.certificate, 'base64')
  const digest = sha256Hex(envelope)
  if (digest !== manifest.deidentification) throw invalid('expected the certificate that the manifest names')
  const { value } = openEnvelope(envelope, {
    context: certificateType,
    maxBytes: maxCertificateBytes,
    maxDepth: 6,
    keys,
    malformed: 'CERTIFICATE_INVALID',
    untrusted: 'CERTIFICATE_INVALID',
  })
  const decoded = decode(shape, value)
  if (!decoded.ok) throw invalid(describeExpected(decoded.problems))
  const certificate = decoded.value
  const { from, to, profile, objects } = certificate
  if (from !== manifest.from || to !== manifest.to) throw invalid('expected a certificate of this sender for this site')
  if (profile.name !== manifest.profile) throw invalid('expected a certificate of the profile of the manifest')
  if (objects.count !== manifest.objects.length || objects.sha256 !== objectsDigest(manifest.objects))
    throw invalid('expected a certificate of the objects of the manifest')
  if (certificate.groups.reduce((sum, group) => sum + group.instances, 0) !== objects.count)
    throw invalid('expected groups that add up')
  return { envelope, sha256: digest, certificate }
}

const label = text({ min: 1, max: 256 })
const code = text({ min: 1, max: 64, pattern: /^[\w .-]+$/, expected: 'a code' })
const count = integer({ min: 0 })
const shape = object(
  {
    from: siteId,
    to: siteId,
    created: instant,
    profile: object({ name: label, sha256, basis: label, edition: label }, { unknown: 'keep' }),
    dates: oneOf('removed', 'shifted', 'kept'),
    notDone: list(code, { max: 64 }),
    counts: record(count, { max: 64 }),
    groups: list(
      object(
        { instances: integer({ min: 1 }), sopClassUid: label, pixels: code, methods: list(code, { max: 64 }) },
        { unknown: 'keep' },
      ),
      { min: 1, max: maxGroups },
    ),
    objects: object({ count: integer({ min: 1 }), sha256 }, { unknown: 'keep' }),
  },
  { unknown: 'keep' },
)

function invalid(message: string): GatewayError {
  return new GatewayError('CERTIFICATE_INVALID', message)
}
