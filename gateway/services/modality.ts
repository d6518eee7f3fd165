/**
 * One entry of the registry of modalities: who calls us or is called by us, from where, and what it may do.
 */
import { X509Certificate } from 'node:crypto'
import {
  boolean,
  type Decoder,
  integer,
  list,
  type ObjectValue,
  object,
  oneOf,
  optional,
  type Problems,
  text,
} from '../decode.ts'

/** What a caller may ask of us, by DICOM service. `find`, `move` and `get` are Query/Retrieve, `commit` is Storage Commitment. */
export const modalityServices = ['echo', 'store', 'find', 'move', 'get', 'commit', 'worklist', 'mpps'] as const

export type ModalityService = (typeof modalityServices)[number]

/** What everybody who is served at all may ask: nothing that tells what we have. */
export const unknownCallerServices: readonly ModalityService[] = ['echo', 'store']

/** DICOM PS3.5 §6.2, VR AE: at most 16 characters, no backslash or control characters, not only spaces. */
const aeTitle = text({
  min: 1,
  max: 16,
  pattern: /^(?=.*[^ ])[ -[\]-~]+$/,
  expected: 'an AE title of 1 to 16 ASCII characters',
})
const name = text({
  min: 1,
  max: 64,
  pattern: /^(?! )[ -[\]-~]+(?<! )$/,
  expected: 'a name of 1 to 64 ASCII characters without backslash',
})
const host = text({ min: 1, max: 253, pattern: /^[0-9A-Za-z.:_-]+$/, expected: 'a host name or IP address' })
const uid = text({ min: 3, max: 64, pattern: /^(0|[1-9]\d*)(\.(0|[1-9]\d*))+$/, expected: 'a DICOM UID' })
const specificCharacterSet = text({
  max: 200,
  pattern: /^[A-Z0-9_ -]*(\\[A-Z0-9_ -]+)*$/,
  expected: 'defined terms of (0008,0005), such as ISO_IR 100',
})

/** Certificates in PEM; what stands around them is left out. */
const pem: Decoder<string> = (raw, path, problems: Problems) => {
  const blocks = typeof raw === 'string' && raw.length <= 65_536 ? (raw.match(certificateBlock) ?? []) : []
  if (blocks.length > 0 && blocks.every(isCertificate)) return `${blocks.join('\n')}\n`
  problems.add(path, 'expected certificates in PEM')
  return undefined
}
const certificateBlock = /-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----/g

function isCertificate(block: string): boolean {
  try {
    return new X509Certificate(block).raw.length > 0
  } catch {
    return false
  }
}

/** SHA-256 of a certificate in DER: 64 hex digits, in any case and with or without colons. */
const fingerprint: Decoder<string> = (raw, path, problems: Problems) => {
  const plain = typeof raw === 'string' ? raw.replaceAll(':', '').toLowerCase() : ''
  if (/^[0-9a-f]{64}$/.test(plain)) return plain
  problems.add(path, 'expected the SHA-256 of a certificate, 64 hex digits', raw)
  return undefined
}

const tls = object({
  /** False takes any certificate: for systems that have none worth the name, against eavesdroppers only. */
  verify: optional(boolean, true),
  /** The name its certificate must have; its host when absent. */
  servername: optional(text({ min: 1, max: 253, pattern: /^[0-9A-Za-z._-]+$/, expected: 'a host name' })),
  /** Authorities that may have issued its certificate, PEM; those of the configuration when absent. */
  ca: optional(pem),
})

const limits = object({
  /** Associations at a time, in each direction. */
  associations: optional(integer({ min: 1, max: 10_000 })),
  /** Silence between messages until we end its association. */
  idleSeconds: optional(integer({ min: 1, max: 24 * 3600 })),
  /** How long we wait for its answers. */
  timeoutSeconds: optional(integer({ min: 1, max: 3600 })),
})

const shape = {
  name: optional(name),
  aeTitle,
  /** IP address or host name it calls from and is called at; absent: it may call from anywhere and cannot be called. */
  host: optional(host),
  /** Where it listens; absent: it cannot be called. */
  port: optional(integer({ min: 1, max: 65_535 })),
  description: optional(text({ max: 200 })),
  manufacturer: optional(text({ max: 64 })),
  /** Whose network it is in: `outside` is that of another organization. */
  zone: optional(oneOf('inside', 'outside'), 'inside'),
  /** What it may ask of us; see `defaultPermissions`. */
  permissions: optional(list(oneOf(...modalityServices), { max: modalityServices.length })),
  /** How long nothing more may arrive from it until its study counts as complete; the site's default when absent. */
  stableAgeSeconds: optional(integer({ min: 1, max: 7 * 24 * 3600 })),
  /** It is called by TLS. */
  tls: optional(tls),
  /** Its certificate: the only one that it may present, and then only by TLS; signed by whomever. */
  certificateFingerprint: optional(fingerprint),
  /** Common name of the subject of its certificate, from an authority of the configuration; then only by TLS. */
  certificateName: optional(text({ min: 1, max: 64 })),
  /** Specific Character Set for text that we send to it; as stored when absent. */
  charset: optional(specificCharacterSet),
  /** Transfer syntaxes that it wants, the best one first; those in which instances are stored when empty. */
  transferSyntaxes: optional(list(uid, { max: 32 }), []),
  /** May instances be sent to it in another transfer syntax than stored? */
  allowTranscoding: optional(boolean, true),
  limits: optional(limits),
} as const

const decodeShape = object(shape)
type Decoded = ObjectValue<typeof shape>

/** A registration as given: what is absent takes its default. */
export interface ModalityInput
  extends Readonly<Partial<Omit<Decoded, 'aeTitle' | 'permissions' | 'transferSyntaxes' | 'tls' | 'limits'>>> {
  readonly aeTitle: string
  readonly permissions?: readonly ModalityService[] | undefined
  readonly transferSyntaxes?: readonly string[] | undefined
  readonly tls?: Partial<NonNullable<Decoded['tls']>> | undefined
  readonly limits?: Partial<NonNullable<Decoded['limits']>> | undefined
}

/** A registration. */
export interface Modality extends Readonly<Omit<Decoded, 'name' | 'permissions' | 'zone' | 'transferSyntaxes'>> {
  /** Symbolic name, unique; other registrations may have the same AE title on other hosts. */
  readonly name: string
  readonly zone: 'inside' | 'outside'
  readonly permissions: readonly ModalityService[]
  readonly transferSyntaxes: readonly string[]
}

/**
 * What a registration permits that does not say: everything to a caller from a known host or with a known
 * certificate, echo and store to one who merely knows an AE title.
 */
export function defaultPermissions(
  entry: Pick<ModalityInput, 'host' | 'certificateFingerprint' | 'certificateName'>,
): readonly ModalityService[] {
  const isIdentified = (entry.host ?? entry.certificateFingerprint ?? entry.certificateName) !== undefined
  return isIdentified ? modalityServices : unknownCallerServices
}

/** Services by which a caller brings something and is told nothing about patients. */
const bringing: ReadonlySet<ModalityService> = new Set(['echo', 'store', 'commit'])

/** Reads a new registration. */
export const modalityInput: Decoder<Modality> = complete(defaultPermissions)

/** Reads a stored registration; those from before there were permissions keep what they could do. */
export const storedModality: Decoder<Modality> = complete(() => unknownCallerServices)

function complete(fallback: (entry: Decoded) => readonly ModalityService[]): Decoder<Modality> {
  return (raw, path, problems) => {
    const entry = decodeShape(raw, path, problems)
    if (!entry) return undefined
    const zone = entry.zone ?? 'inside'
    const permitted = entry.permissions ?? fallback(entry)
    return {
      ...entry,
      name: entry.name ?? entry.aeTitle.trim(),
      zone,
      // Whoever is outside of the hospital gets something by a transfer with its decision, never by asking.
      permissions: [...new Set(zone === 'inside' ? permitted : permitted.filter(service => bringing.has(service)))],
      transferSyntaxes: entry.transferSyntaxes ?? [],
    }
  }
}
