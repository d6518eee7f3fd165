/**
 * The identifying section of a manifest: what a person at the receiver needs to recognise a study before
 * it is imported. It is sealed to the receiver, so that nobody who only carries or stores the manifest
 * can read it, and padded, so that its length says little.
 */
import { type Decoder, decode, list, object, optional, text } from '../gateway/decode.ts'
import { definedFields, uid } from './fields.ts'
import { parseJson } from './json.ts'
import type { SiteKeys } from './keys.ts'
import type { Manifest } from './manifest.ts'
import { seal } from './seal.ts'

export interface Identifying {
  readonly patient: { readonly id: string; readonly name: string; readonly birthDate?: string; readonly sex?: string }
  readonly studies: readonly {
    readonly studyInstanceUid: string
    readonly date?: string
    readonly description?: string
    readonly accessionNumber?: string
  }[]
}

const paddedTo = 512

/** Seals the section to the receiver; base64 for `Manifest.sealed`. Each call gives other bytes. */
export function sealIdentifying(section: Identifying, sealingKey: Uint8Array): string {
  const bytes = Buffer.from(JSON.stringify(section))
  const padded = Buffer.alloc(Math.ceil(bytes.length / paddedTo) * paddedTo, ' ')
  bytes.copy(padded)
  return Buffer.from(seal(padded, sealingKey)).toString('base64')
}

/** Opens the section; undefined when there is none, or it was not sealed to us, or it cannot be read. */
export function openIdentifying(manifest: Manifest, keys: Pick<SiteKeys, 'openSealed'>): Identifying | undefined {
  if (manifest.sealed === undefined) return undefined
  const opened = keys.openSealed(Buffer.from(manifest.sealed, 'base64'))
  if (!opened) return undefined
  const decoded = decode(section, parseJson(opened, { maxBytes: 65_536, maxDepth: 6, code: 'MANIFEST_MALFORMED' }))
  return decoded.ok ? decoded.value : undefined
}

/** Long enough for the longest names; hidden from error messages, which never leave `decode` here. */
const line = text({ max: 1_024 })
const patientFields = object(
  { id: line, name: line, birthDate: optional(line), sex: optional(line) },
  { unknown: 'keep' },
)
const studyFields = object(
  { studyInstanceUid: uid, date: optional(line), description: optional(line), accessionNumber: optional(line) },
  { unknown: 'keep' },
)
const defined =
  <T extends object>(decoder: Decoder<T>) =>
  (raw: unknown, path: string, problems: Parameters<Decoder<T>>[2]) => {
    const fields = decoder(raw, path, problems)
    return fields && definedFields(fields)
  }
const section = object(
  { patient: defined(patientFields), studies: list(defined(studyFields), { max: 1_000 }) },
  { unknown: 'keep' },
)
