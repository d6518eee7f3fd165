/**
 * The manifest: what one site sends another, why, and by which decision, signed by the sender.
 *
 * It travels as an *offer*: line 1 is the DSSE envelope over the manifest, each further line a page
 * of objects that the manifest names by hash (`PROTOCOL.md` §Manifest). Bytes are stored and hashed as
 * signed; nothing is ever re-encoded, so there is no canonical form to disagree about.
 */
import { GatewayError } from '../gateway/errors.ts'
import { sha256Hex } from './envelope.ts'

export const manifestVersion = 1
/** DSSE payload type, and with it the signature's context. */
export const manifestType = 'application/vnd.hanse.manifest.v1+json'
/** Most objects in a manifest, or in one of its pages. */
export const maxPageObjects = 5_000
export const maxPages = 10
/** Most objects of a transfer. */
export const maxObjects = maxPageObjects * maxPages
/** Most bytes of an offer, pages included. */
export const maxOfferBytes = 32 * 1024 * 1024

export const priorities = ['urgent', 'deadline', 'normal', 'bulk'] as const
export type Priority = (typeof priorities)[number]

/** How the sender knows that a study is complete. */
export const countBases = ['timer', 'mpps', 'archive', 'person'] as const
export type CountBasis = (typeof countBases)[number]

/**
 * A run of an object's bytes: SHA-256 in hex, length in bytes, and for a long one the SHA-256 of each
 * of its 1 MiB chunks (32 bytes each, base64).
 */
export type Segment =
  | readonly [sha256: string, sizeBytes: number]
  | readonly [sha256: string, sizeBytes: number, chunks: string]

/** One DICOM file as it is sent. */
export interface ManifestObject {
  readonly sopInstanceUid: string
  readonly sopClassUid: string
  readonly transferSyntaxUid: string
  /** Place of its study in `studies`. */
  readonly study: number
  readonly sizeBytes: number
  /** SHA-256 of the whole file, lower-case hex. */
  readonly sha256: string
  /** Absent: the file is one segment. */
  readonly segments?: readonly Segment[]
}

export interface ManifestStudy {
  readonly studyInstanceUid: string
  readonly instances: number
  readonly basis: CountBasis
}

/** A document that goes along (request, report); its bytes follow the objects' on the byte line. */
export interface Attachment {
  readonly kind: string
  readonly mediaType: string
  readonly sizeBytes: number
  readonly sha256: string
}

/** The sharing agreement that a transfer rests on, as the sender's policy has it. */
export interface ManifestAgreement {
  readonly id: string
  /** SHA-256 of its canonical JSON, hex. */
  readonly sha256: string
  /** Its legal basis, such as `consent`; older senders do not say. */
  readonly basis?: string
}

export interface Manifest {
  /** Site ids. */
  readonly from: string
  readonly to: string
  readonly created: Date
  readonly expires: Date
  readonly priority: Priority
  readonly deadline?: Date
  readonly purpose: string
  readonly agreement?: ManifestAgreement
  /** Reference to the consent at the sender. */
  readonly consent?: string
  readonly policy: { readonly version: number; readonly sha256: string }
  readonly rule: string
  readonly profile: string
  /** SHA-256 of the de-identification certificate. */
  readonly deidentification?: string
  /** The certificate itself, base64 of its envelope; see `deid-certificate.ts`. */
  readonly certificate?: string
  readonly studies: readonly ManifestStudy[]
  readonly objects: readonly ManifestObject[]
  readonly attachments: readonly Attachment[]
  /** Id of the manifest that this one adds to. */
  readonly amends?: string
  /** Identifying text for a person's eyes, sealed to the receiver; base64. */
  readonly sealed?: string
  /** 32 bytes, base64: two transfers of the same objects have different ids. */
  readonly nonce: string
}

/** A manifest's payload and the pages it names; pages are empty up to 5,000 objects. */
export interface EncodedManifest {
  readonly payload: Uint8Array
  readonly pages: readonly Uint8Array[]
}

/**
 * Writes the payload. The same manifest gives the same bytes.
 *
 * @throws GatewayError MANIFEST_LIMIT above 50,000 objects
 */
export function encodeManifest(manifest: Manifest): EncodedManifest {
  const { objects, created, expires, deadline } = manifest
  if (objects.length === 0 || objects.length > maxObjects) {
    throw new GatewayError('MANIFEST_LIMIT', `expected 1 to ${maxObjects} objects, got ${objects.length}`)
  }
  const rows = objects.map(encodeObject)
  const pages: Uint8Array[] = []
  if (rows.length > maxPageObjects) {
    for (let start = 0; start < rows.length; start += maxPageObjects) {
      pages.push(Buffer.from(JSON.stringify({ objects: rows.slice(start, start + maxPageObjects) })))
    }
  }
  const payload = {
    version: manifestVersion,
    from: manifest.from,
    to: manifest.to,
    created: created.toISOString(),
    expires: expires.toISOString(),
    priority: manifest.priority,
    deadline: deadline?.toISOString(),
    purpose: manifest.purpose,
    agreement: manifest.agreement && {
      id: manifest.agreement.id,
      sha256: manifest.agreement.sha256,
      basis: manifest.agreement.basis,
    },
    consent: manifest.consent,
    policy: { version: manifest.policy.version, sha256: manifest.policy.sha256 },
    rule: manifest.rule,
    profile: manifest.profile,
    deidentification: manifest.deidentification,
    certificate: manifest.certificate,
    studies: manifest.studies.map(({ studyInstanceUid, instances, basis }) => ({ studyInstanceUid, instances, basis })),
    totals: { objects: objects.length, bytes: objects.reduce((sum, object) => sum + object.sizeBytes, 0) },
    objects: pages.length === 0 ? rows : undefined,
    pages: pages.length === 0 ? undefined : pages.map(page => ({ sha256: sha256Hex(page), sizeBytes: page.length })),
    attachments: manifest.attachments.map(({ kind, mediaType, sizeBytes, sha256 }) => ({
      kind,
      mediaType,
      sizeBytes,
      sha256,
    })),
    amends: manifest.amends,
    sealed: manifest.sealed,
    nonce: manifest.nonce,
  }
  return { payload: Buffer.from(JSON.stringify(payload)), pages }
}

const encodeObject = (object: ManifestObject) => ({
  sopInstanceUid: object.sopInstanceUid,
  sopClassUid: object.sopClassUid,
  transferSyntaxUid: object.transferSyntaxUid,
  study: object.study,
  sizeBytes: object.sizeBytes,
  sha256: object.sha256,
  segments: object.segments,
})

/** Joins a signed manifest and its pages to the bytes that are offered and stored. */
export function joinOffer(envelope: Uint8Array, pages: readonly Uint8Array[]): Uint8Array {
  return Buffer.concat([envelope, ...pages.flatMap(page => [Buffer.from('\n'), page])])
}

/**
 * Cuts an offer into its envelope and pages.
 *
 * @throws GatewayError MANIFEST_LIMIT when it is larger, or has more pages, than any offer may have
 */
export function splitOffer(offer: Uint8Array): { envelope: Uint8Array; pages: Uint8Array[] } {
  if (offer.length > maxOfferBytes) throw new GatewayError('MANIFEST_LIMIT', `expected at most ${maxOfferBytes} bytes`)
  const lines: Uint8Array[] = []
  let start = 0
  for (let end = offer.indexOf(0x0a); end >= 0; end = offer.indexOf(0x0a, start)) {
    lines.push(offer.subarray(start, end))
    start = end + 1
    if (lines.length > maxPages) throw new GatewayError('MANIFEST_LIMIT', `expected at most ${maxPages} pages`)
  }
  lines.push(offer.subarray(start))
  const [envelope = new Uint8Array(), ...pages] = lines
  return { envelope, pages }
}

/** A manifest's name: SHA-256 of its envelope's bytes, lower-case hex. */
export function manifestId(envelope: Uint8Array): string {
  return sha256Hex(envelope)
}

/** True for text that can be a manifest's name. */
export function isManifestId(text: string): boolean {
  return /^[0-9a-f]{64}$/.test(text)
}
