/**
 * Reads a manifest that somebody else wrote. A peer's signature says who wrote it, not that it is
 * sane: every number is bounded, every sum is checked, and nothing in it becomes a path.
 */
import {
  type Decoder,
  decode,
  describeExpected,
  integer,
  list,
  object,
  oneOf,
  optional,
  type Problems,
  text,
} from '../gateway/decode.ts'
import { GatewayError } from '../gateway/errors.ts'
import { sha256Hex } from './envelope.ts'
import { base64, definedFields, instant, sha256, siteId, uid } from './fields.ts'
import { parseJson } from './json.ts'
import { leafBytes } from './leaves.ts'
import {
  countBases,
  type Manifest,
  type ManifestAgreement,
  type ManifestObject,
  manifestVersion,
  maxObjects,
  maxOfferBytes,
  maxPageObjects,
  maxPages,
  priorities,
  type Segment,
} from './manifest.ts'

/** Most bytes of one object: 1 TiB; of a transfer: 16 TiB. Both sides of a sum stay exact. */
const maxObjectBytes = 2 ** 40
const maxTotalBytes = 2 ** 44
const maxLifetimeMs = 366 * 86_400_000

/**
 * Decodes a manifest's parsed payload and its pages (empty when the objects are in the payload).
 *
 * @throws GatewayError MANIFEST_VERSION for a version that is not ours, MANIFEST_LIMIT above a limit,
 *   MANIFEST_MALFORMED for everything else
 */
export function decodeManifest(raw: unknown, pages: readonly Uint8Array[]): Manifest {
  const version = decode(object({ version: integer({ min: 1 }) }, { unknown: 'keep' }), raw)
  if (!version.ok) throw malformed(describeExpected(version.problems))
  if (version.value.version !== manifestVersion) {
    throw new GatewayError(
      'MANIFEST_VERSION',
      `expected manifest version ${manifestVersion}, got ${version.value.version}`,
    )
  }
  const root = decode(rootDecoder, raw)
  if (!root.ok) throw malformed(describeExpected(root.problems.slice(0, 10)))
  const { version: _version, totals, pages: pageNames, objects: inlined, created, expires, ...rest } = root.value
  if (totals.objects > maxObjects) {
    throw new GatewayError('MANIFEST_LIMIT', `expected at most ${maxObjects} objects, got ${totals.objects}`)
  }
  if ((inlined === undefined) === (pageNames === undefined)) throw malformed('expected either objects or pages')
  const objects = inlined ?? decodePages(pageNames ?? [], pages)
  if (inlined && pages.length > 0) throw malformed('expected no pages beside objects in the manifest')
  if (expires <= created) throw malformed('expected expires after created')
  if (expires.getTime() - created.getTime() > maxLifetimeMs) {
    throw new GatewayError('MANIFEST_LIMIT', 'expected at most 366 days between created and expires')
  }
  checkSums(rest.studies, objects, totals)
  return definedFields({ ...rest, created, expires, objects })
}

function decodePages(
  names: readonly { sha256: string; sizeBytes: number }[],
  pages: readonly Uint8Array[],
): ManifestObject[] {
  if (names.length !== pages.length) throw malformed(`expected ${names.length} pages, got ${pages.length}`)
  return names.flatMap((name, index) => {
    const page = pages[index]
    if (!page || page.length !== name.sizeBytes || sha256Hex(page) !== name.sha256) {
      throw malformed(`expected page ${index} to be the bytes that the manifest names`)
    }
    const decoded = decode(
      pageDecoder,
      parseJson(page, { maxBytes: maxOfferBytes, maxDepth: 8, code: 'MANIFEST_MALFORMED' }),
    )
    if (!decoded.ok) throw malformed(`page ${index}: ${describeExpected(decoded.problems.slice(0, 10))}`)
    return decoded.value.objects
  })
}

function checkSums(
  studies: readonly { studyInstanceUid: string; instances: number }[],
  objects: readonly ManifestObject[],
  totals: { objects: number; bytes: number },
): void {
  const counts = new Array<number>(studies.length).fill(0)
  const seen = new Set<string>()
  let bytes = 0
  for (const [ordinal, entry] of objects.entries()) {
    const count = counts[entry.study]
    if (count === undefined) throw malformed(`objects[${ordinal}].study: expected a place below ${studies.length}`)
    counts[entry.study] = count + 1
    if (seen.has(entry.sopInstanceUid)) throw malformed(`objects[${ordinal}]: expected each SOP Instance UID once`)
    seen.add(entry.sopInstanceUid)
    bytes += entry.sizeBytes
    if (bytes > maxTotalBytes) throw new GatewayError('MANIFEST_LIMIT', `expected at most ${maxTotalBytes} bytes`)
    checkSegments(entry, ordinal)
  }
  if (objects.length !== totals.objects || bytes !== totals.bytes) {
    throw malformed(`expected totals of ${objects.length} objects and ${bytes} bytes`)
  }
  if (new Set(studies.map(study => study.studyInstanceUid)).size !== studies.length) {
    throw malformed('expected each study once')
  }
  for (const [index, study] of studies.entries()) {
    if (counts[index] !== study.instances) throw malformed(`studies[${index}].instances: expected ${counts[index]}`)
  }
}

function checkSegments({ segments, sizeBytes, sha256 }: ManifestObject, ordinal: number): void {
  if (!segments) return
  const sum = segments.reduce((total, [, length]) => total + length, 0)
  const isSame = segments.length > 1 || segments[0]?.[0] === sha256
  if (sum !== sizeBytes || !isSame) throw malformed(`objects[${ordinal}].segments: expected them to make the object`)
}

const word: Decoder<string> = text({
  min: 1,
  max: 64,
  pattern: /^[\w.:/+-]+$/,
  expected: 'a word of at most 64 characters',
})
const label: Decoder<string> = text({ min: 1, max: 256 })
const size: Decoder<number> = integer({ min: 1, max: maxObjectBytes })

const segment: Decoder<Segment> = (raw, path, problems) => {
  if (!Array.isArray(raw) || raw.length < 2 || raw.length > 3) {
    problems.add(path, 'expected [sha256, length] or [sha256, length, chunk hashes]')
    return undefined
  }
  const name = sha256(raw[0], `${path}[0]`, problems)
  const length = size(raw[1], `${path}[1]`, problems)
  if (name === undefined || length === undefined) return undefined
  if (raw.length === 2) return [name, length]
  const chunks = base64({ bytes: 32 * Math.ceil(length / leafBytes) })(raw[2], `${path}[2]`, problems)
  return chunks === undefined ? undefined : [name, length, chunks]
}

const objectFields = object(
  {
    sopInstanceUid: uid,
    sopClassUid: uid,
    transferSyntaxUid: uid,
    study: integer({ min: 0, max: maxObjects }),
    sizeBytes: size,
    sha256,
    segments: optional(list(segment, { min: 1, max: 1_000 })),
  },
  { unknown: 'keep' },
)
const objectDecoder: Decoder<ManifestObject> = (raw, path, problems: Problems) => {
  const fields = objectFields(raw, path, problems)
  return fields && definedFields(fields)
}
const objects = list(objectDecoder, { min: 1, max: maxPageObjects })
const pageDecoder = object({ objects }, { unknown: 'keep' })

const agreementFields = object({ id: word, sha256, basis: optional(word) }, { unknown: 'keep' })
const agreement: Decoder<ManifestAgreement> = (raw, path, problems) => {
  const fields = agreementFields(raw, path, problems)
  return fields && definedFields(fields)
}

/** Unknown fields are left alone, so that a newer sender can say more; they are signed all the same. */
const rootDecoder = object(
  {
    version: integer({ min: 1 }),
    from: siteId,
    to: siteId,
    created: instant,
    expires: instant,
    priority: oneOf(...priorities),
    deadline: optional(instant),
    purpose: word,
    agreement: optional(agreement),
    consent: optional(label),
    policy: object({ version: integer({ min: 1 }), sha256 }, { unknown: 'keep' }),
    rule: label,
    profile: label,
    deidentification: optional(sha256),
    certificate: optional(base64({ most: 65_536 })),
    studies: list(
      object(
        { studyInstanceUid: uid, instances: integer({ min: 1, max: maxObjects }), basis: oneOf(...countBases) },
        { unknown: 'keep' },
      ),
      { min: 1, max: 1_000 },
    ),
    totals: object({ objects: integer({ min: 1 }), bytes: integer({ min: 1 }) }, { unknown: 'keep' }),
    objects: optional(objects),
    pages: optional(
      list(object({ sha256, sizeBytes: integer({ min: 1 }) }, { unknown: 'keep' }), { min: 2, max: maxPages }),
    ),
    attachments: list(object({ kind: word, mediaType: word, sizeBytes: size, sha256 }, { unknown: 'keep' }), {
      max: 100,
    }),
    amends: optional(sha256),
    sealed: optional(base64({ most: 65_536 })),
    nonce: base64({ bytes: 32 }),
  },
  { unknown: 'keep' },
)

const malformed = (message: string): GatewayError => new GatewayError('MANIFEST_MALFORMED', message)
