/** Packs prepared objects as an endpoint wants them (`endpoints/PACKAGES.md`). */
import { GatewayError } from '../../gateway/errors.ts'
import { type Signer, sha256Hex } from '../../peers/envelope.ts'
import type { PackageFile, PreparedObject } from '../package.ts'
import { encryptAge } from './age.ts'
import { writeArchive } from './archive.ts'
import { dicomDirectoryName, type PlacedObject, placeObjects, writeDicomDirectory } from './file-set.ts'
import { type ManifestFacts, manifestCsv, manifestJson, type PackedFile } from './manifest.ts'
import { type DeliveryFields, ownName, packageName, refuseCollisions } from './names.ts'
import { readFrom, readObject, verifyObject } from './object-file.ts'
import { encryptOpenpgp } from './openpgp.ts'
import type { Encryption, PackOptions } from './options.ts'
import { signStatement } from './statement.ts'
import { type Unit, unitsOf } from './units.ts'
import { WorkFolder } from './work-folder.ts'

/** What is packed how, beside the objects. The same job gives the same names and, but for encryption, the same bytes. */
export interface PackJob {
  readonly options: PackOptions
  readonly fields: DeliveryFields
  /** When the delivery was made: it stands in manifests and archives. */
  readonly created: Date
  /** This site's keys, for the manifest. */
  readonly site: Signer & { readonly siteId: string }
  /** The signed de-identification certificate; undefined when the delivery has none. */
  readonly certificate: Uint8Array | undefined
}

/**
 * Makes the files of a delivery, in the order in which they are to arrive. Plain files are read from where they were
 * prepared; all others are written to the work folder, encrypted as they are written. Called again, it finds there what
 * was finished and is whole, and makes the rest; so a file's bytes stay the same as long as the work folder lives.
 *
 * @param objects     one delivery's, in their order
 * @param workFolder  of this delivery alone, on our disk; the caller removes it
 * @throws GatewayError BAD_REQUEST for names that cannot be given or a key that cannot be used, TOO_LARGE,
 *   STORAGE_CORRUPT when a prepared object is not what it was, STORAGE_IO, STORAGE_FULL; the reason of `signal`
 */
export async function pack(
  objects: readonly PreparedObject[],
  job: PackJob,
  workFolder: string,
  signal: AbortSignal,
): Promise<PackageFile[]> {
  if (objects.length === 0) throw new GatewayError('BAD_REQUEST', 'expected objects to pack, got none')
  const { options, fields } = job
  const extension = extensionOf(options)
  const named = unitsOf(objects, options.unit).map(unit => ({
    unit,
    name: packageName(options.names, { ...fields, ...unit.fields }, extension),
  }))
  const own = Object.values(ownNames).map(name => ownName(options.names, name))
  refuseCollisions([...named.map(({ name }) => `${name}${extension}`), ...own])
  const packing = { job, signal, work: await WorkFolder.open(workFolder) }
  const packed: PackedFile[] = []
  for (const { unit, name } of named) packed.push(...(await packUnit(unit, name, packing)))
  const files = [...packed.map(({ file }) => file), ...(await describe(packed, packing))]
  await packing.work.finish()
  return files
}

interface Packing {
  readonly job: PackJob
  readonly work: WorkFolder
  readonly signal: AbortSignal
}

type Content = () => AsyncIterable<Uint8Array>

const ownNames = {
  certificate: 'certificate.json',
  json: 'manifest.json',
  csv: 'manifest.csv',
  signature: 'manifest.sig',
  done: '.done',
} as const
/** A change of how files are made makes them anew. */
const edition = 1

/** The files of one package. */
async function packUnit(unit: Unit, name: string, packing: Packing): Promise<PackedFile[]> {
  const { job, signal } = packing
  const { unit: kind, container, compression, names } = job.options
  const single = ownName(names, `${name}.dcm`)
  const placed = kind === 'file' ? unit.objects.map(object => ({ object, path: single })) : placeObjects(unit.objects)
  const directory = kind === 'file' ? undefined : await writeDicomDirectory(placed, signal)
  if (container === 'zip') {
    const archive = { objects: placed, directory, compression, created: job.created }
    const parts = [compression, job.created, directory && sha256Hex(directory), ...placed.map(partOf)]
    const content = (): AsyncIterable<Uint8Array> => writeArchive(archive, signal)
    return [{ file: await sealed(ownName(names, `${name}.zip`), parts, content, packing), objects: placed }]
  }
  const files: PackedFile[] = []
  for (const { object, path } of placed) {
    const file = await objectFile(kind === 'file' ? path : `${name}/${path}`, object, packing)
    files.push({ file, objects: [{ object, path: '' }] })
  }
  if (directory !== undefined) {
    const place = `${name}/${dicomDirectoryName}`
    files.push({ file: await sealed(place, [sha256Hex(directory)], () => once(directory), packing), objects: [] })
  }
  return files
}

/** A prepared object as a file of its own: itself where nothing is encrypted. */
async function objectFile(name: string, object: PreparedObject, packing: Packing): Promise<PackageFile> {
  if (packing.job.options.encryption.kind !== 'none')
    return await sealed(name, [partOf({ object, path: name })], () => readObject(object, packing.signal), packing)
  await verifyObject(object, packing.signal)
  const { path, size, sha256 } = object
  return { name, role: 'content', size, sha256, open: start => readFrom(path, start) }
}

/** A content file, encrypted where the endpoint asks for it. `parts` are what it is made of. */
async function sealed(
  name: string,
  parts: readonly unknown[],
  content: Content,
  packing: Packing,
): Promise<PackageFile> {
  const { encryption, names } = packing.job.options
  const suffix = suffixes[encryption.kind]
  const key = sha256Hex(Buffer.from(JSON.stringify([edition, encryption, ...parts])))
  const wanted = { name: `${name}${ownName(names, suffix)}`, role: 'content', key } as const
  return await packing.work.file(wanted, () => encrypted(content(), encryption), packing.signal)
}

function encrypted(content: AsyncIterable<Uint8Array>, encryption: Encryption): AsyncIterable<Uint8Array> {
  switch (encryption.kind) {
    case 'none':
      return content
    case 'age':
      return encryptAge(content, encryption.recipients)
    case 'openpgp':
      return encryptOpenpgp(content, encryption.keys)
    default:
      return encryption satisfies never
  }
}

/** Certificate, manifests, their signature and `.done`, as far as the endpoint wants them. */
async function describe(packed: readonly PackedFile[], { job, work, signal }: Packing): Promise<PackageFile[]> {
  const { options, fields, created, site, certificate } = job
  const files: PackageFile[] = []
  const add = async (role: PackageFile['role'], name: string, bytes: Uint8Array): Promise<PackageFile> => {
    const wanted = { name: ownName(options.names, name), role, key: sha256Hex(bytes) }
    const file = await work.file(wanted, () => once(bytes), signal)
    files.push(file)
    return file
  }
  const from = site.siteId
  const certified =
    options.certificate && certificate ? await add('certificate', ownNames.certificate, certificate) : undefined
  const facts: ManifestFacts = { from, created, fields, options, certificate: certified }
  const { json, csv } = options.manifest
  if (json) await add('manifest', ownNames.json, manifestJson(packed, facts))
  if (csv) await add('manifest', ownNames.csv, manifestCsv(packed, facts))
  const all = (): PackageFile[] => [...packed.map(({ file }) => file), ...files]
  if (json || csv) await add('manifest', ownNames.signature, signStatement(all(), { from, created, signer: site }))
  if (options.done) await add('done', ownNames.done, checksumLines(all()))
  return files
}

/** As `sha256sum -c` reads it. */
const checksumLines = (files: readonly PackageFile[]): Uint8Array =>
  Buffer.from(files.map(({ name, sha256 }) => `${sha256}  ${name}\n`).join(''))

const suffixes = { none: '', age: '.age', openpgp: '.gpg' } as const

/** What follows the name of a package; a File-set in a folder has nothing, its files have. */
function extensionOf({ unit, container, encryption, names }: PackOptions): string {
  if (container === 'folder' && unit !== 'file') return ''
  return ownName(names, `${container === 'zip' ? '.zip' : '.dcm'}${suffixes[encryption.kind]}`)
}

const partOf = ({ object, path }: PlacedObject): readonly string[] => [path, object.sopInstanceUid, object.sha256]

async function* once(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield bytes
}
