/** The manifest of a delivery (`endpoints/PACKAGES.md` §Manifest): what lies in which file, for people and programs. */
import { type Decoder, decode, describeExpected, integer, list, object, text } from '../../gateway/decode.ts'
import { GatewayError } from '../../gateway/errors.ts'
import { sha256, uid } from '../../peers/fields.ts'
import { parseJson } from '../../peers/json.ts'
import type { PackageFile, PreparedObject } from '../package.ts'
import type { DeliveryFields } from './names.ts'
import type { PackOptions } from './options.ts'

/** One finished content file with what it holds. */
export interface PackedFile {
  readonly file: PackageFile
  /** Where each object lies within the file; empty where it is the file, but for its encryption. */
  readonly objects: readonly { readonly path: string; readonly object: PreparedObject }[]
}

/** What a manifest tells beside the files. */
export interface ManifestFacts {
  /** Site id of the sender. */
  readonly from: string
  readonly created: Date
  readonly fields: DeliveryFields
  readonly options: PackOptions
  /** The de-identification certificate's file in the delivery. */
  readonly certificate: Pick<PackageFile, 'name' | 'sha256'> | undefined
}

/** Bounds a manifest that is read: some 400 bytes for each object. */
export const maxManifestBytes = 268_435_456

/** The manifest as JSON; the same delivery gives the same bytes. */
export function manifestJson(packed: readonly PackedFile[], facts: ManifestFacts): Uint8Array {
  const { from, created, fields, options, certificate } = facts
  const { unit, container, encryption } = options
  const document = {
    version: 1,
    from,
    created: created.toISOString(),
    fields,
    packaging: { unit, container, encryption: encryption.kind },
    ...(certificate && { certificate: { name: certificate.name, sha256: certificate.sha256 } }),
    series: seriesOf(packed),
    files: packed.map(({ file, objects }) => ({
      name: file.name,
      size: file.size,
      sha256: file.sha256,
      objects: objects.map(({ path, object }) => ({
        path,
        studyInstanceUid: object.studyInstanceUid,
        seriesInstanceUid: object.seriesInstanceUid,
        sopInstanceUid: object.sopInstanceUid,
        sopClassUid: object.sopClassUid,
        transferSyntaxUid: object.transferSyntaxUid,
        size: object.size,
        sha256: object.sha256,
      })),
    })),
  }
  return Buffer.from(`${JSON.stringify(document, null, 1)}\n`)
}

/** The same as a table with a line for each object (RFC 4180), and one for each file that holds none. */
export function manifestCsv(packed: readonly PackedFile[], { certificate }: ManifestFacts): Uint8Array {
  const counts = new Map(seriesOf(packed).map(series => [series.seriesInstanceUid, series.instances]))
  const rows = packed.flatMap(({ file, objects }) => {
    const ofFile = [file.size, file.sha256, certificate?.sha256 ?? '']
    if (objects.length === 0) return [[file.name, '', '', '', '', '', '', '', '', '', '', ...ofFile]]
    return objects.map(({ path, object: o }) => [
      ...[file.name, path, o.studyInstanceUid, o.seriesInstanceUid, o.modality, counts.get(o.seriesInstanceUid) ?? 0],
      ...[o.sopInstanceUid, o.sopClassUid, o.transferSyntaxUid, o.size, o.sha256, ...ofFile],
    ])
  })
  return Buffer.from([csvColumns, ...rows].map(row => `${row.map(csvCell).join(',')}\r\n`).join(''))
}

const csvColumns = [
  ...['file', 'path', 'study_instance_uid', 'series_instance_uid', 'modality', 'series_instances'],
  ...['sop_instance_uid', 'sop_class_uid', 'transfer_syntax_uid', 'size_bytes', 'sha256'],
  ...['file_size_bytes', 'file_sha256', 'certificate_sha256'],
]

/** A cell that no spreadsheet takes for a formula. */
export function csvCell(value: string | number): string {
  const plain = String(value)
  const safe = /^[=+\-@\t\r\n]/.test(plain) ? `'${plain}` : plain
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe
}

function seriesOf(packed: readonly PackedFile[]) {
  const objects = packed.flatMap(file => file.objects.map(({ object }) => object))
  return [...Map.groupBy(objects, ({ seriesInstanceUid }) => seriesInstanceUid)].map(([seriesInstanceUid, all]) => ({
    studyInstanceUid: all[0]?.studyInstanceUid,
    seriesInstanceUid,
    modality: all[0]?.modality,
    instances: all.length,
    size: all.reduce((sum, { size }) => sum + size, 0),
    sopClasses: countsOf(all.map(({ sopClassUid }) => sopClassUid)),
    transferSyntaxes: countsOf(all.map(({ transferSyntaxUid }) => transferSyntaxUid)),
  }))
}

const countsOf = (values: readonly string[]): Record<string, number> =>
  Object.fromEntries([...Map.groupBy(values, value => value)].map(([value, all]) => [value, all.length]))

/** What a reader needs of a manifest. */
export interface ReadManifest {
  readonly files: readonly {
    readonly name: string
    readonly objects: readonly {
      readonly path: string
      readonly sopInstanceUid: string
      readonly size: number
      readonly sha256: string
    }[]
  }[]
}

const name = text({ max: 4096 })
const manifest: Decoder<ReadManifest> = object(
  {
    version: integer({ min: 1, max: 1 }),
    files: list(
      object(
        {
          name,
          objects: list(
            object({ path: name, sopInstanceUid: uid, size: integer({ min: 0 }), sha256 }, { unknown: 'keep' }),
            { max: 1_000_000 },
          ),
        },
        { unknown: 'keep' },
      ),
      { max: 1_000_000 },
    ),
  },
  { unknown: 'keep' },
)

/** Reads a manifest whose digest was verified. @throws GatewayError MANIFEST_MALFORMED */
export function readManifest(bytes: Uint8Array): ReadManifest {
  const raw = parseJson(bytes, { maxBytes: maxManifestBytes, maxDepth: 8, code: 'MANIFEST_MALFORMED' })
  const found = decode(manifest, raw)
  if (found.ok) return found.value
  throw new GatewayError('MANIFEST_MALFORMED', `not the manifest of a delivery: ${describeExpected(found.problems)}`)
}
