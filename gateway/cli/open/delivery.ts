/** A received delivery: which files its signature names, and what they hold. */
import { constants } from 'node:fs'
import { lstat, open, readdir } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { maxManifestBytes, type ReadManifest, readManifest } from '../../../endpoints/pack/manifest.ts'
import { openStatement, type SignedFile, type Statement } from '../../../endpoints/pack/statement.ts'
import { type SigningKey, sha256Hex } from '../../../peers/envelope.ts'
import { GatewayError } from '../../errors.ts'
import { UsageError } from '../command.ts'
import { isPlainPath } from './paths.ts'

/** One file to be opened. */
export interface ReceivedFile {
  /** Below the delivery's folder. */
  readonly name: string
  readonly path: string
  /** What was signed; undefined for a file that is opened unsigned. */
  readonly signed: SignedFile | undefined
  /** What it holds, where a manifest tells. */
  readonly objects: ReadManifest['files'][number]['objects'] | undefined
}

export interface Delivery {
  readonly statement: Statement | undefined
  readonly files: readonly ReceivedFile[]
  /** Files that nobody signed; they are left where they are. */
  readonly others: readonly string[]
}

const signatureName = 'manifest.sig'
const manifestName = 'manifest.json'
const mostFiles = 1_000_000

/**
 * Reads the signature beside or in what was named.
 *
 * @param place  folder of a delivery, or one of its files
 * @param trust  keys of the sender; `anybody` to accept what is signed by whomever; `unsigned` to do without
 * @throws UsageError when there is nothing; GatewayError MANIFEST_SIGNATURE, MANIFEST_MALFORMED
 */
export async function readDelivery(
  place: string,
  trust: readonly SigningKey[] | 'anybody' | 'unsigned',
): Promise<Delivery> {
  const found = await lstat(place).catch(() => undefined)
  if (!found?.isDirectory() && !found?.isFile())
    throw new UsageError(`${place}: expected a folder or file of a delivery`)
  const folder = found.isDirectory() ? place : dirname(place)
  const wanted = found.isDirectory() ? undefined : basename(place)
  const received = wanted === undefined ? await filesBelow(folder) : [wanted]
  if (trust === 'unsigned') {
    const files = received.map(name => ({ name, path: join(folder, name), signed: undefined, objects: undefined }))
    return { statement: undefined, files, others: [] }
  }
  const signature = (await readdir(folder)).find(name => name.toLowerCase() === signatureName)
  if (signature === undefined)
    throw new GatewayError(
      'MANIFEST_SIGNATURE',
      `${folder} holds no ${signatureName}: --unsigned opens what is there unverified`,
    )
  const statement = openStatement(await readWhole(join(folder, signature)), trust === 'anybody' ? undefined : trust)
  for (const { name } of statement.files)
    if (!isPlainPath(name))
      throw new GatewayError('MANIFEST_MALFORMED', 'the signature names a file outside of its folder')
  const manifest = await findManifest(folder, statement)
  const holds = new Map(manifest?.files.map(({ name, objects }) => [name, objects]))
  const files = statement.files
    .filter(({ name }) => wanted === undefined || name === wanted)
    .map(signed => ({ name: signed.name, path: join(folder, signed.name), signed, objects: holds.get(signed.name) }))
  if (wanted !== undefined && files.length === 0)
    throw new GatewayError(
      'MANIFEST_SIGNATURE',
      `the signature does not name ${wanted}: it is not part of this delivery`,
    )
  const known = new Set([...statement.files.map(({ name }) => name), signature])
  const isDone = (name: string): boolean => name.toLowerCase() === '.done'
  const others = wanted === undefined ? received.filter(name => !known.has(name) && !isDone(name)) : []
  return { statement, files, others }
}

/** The manifest, when the sender made one and it is what was signed; a damaged one is reported with the files. */
async function findManifest(folder: string, { files }: Statement): Promise<ReadManifest | undefined> {
  const signed = files.find(({ name, role }) => role === 'manifest' && name.toLowerCase() === manifestName)
  if (signed === undefined) return undefined
  const bytes = await readWhole(join(folder, signed.name)).catch(() => undefined)
  return bytes !== undefined && sha256Hex(bytes) === signed.sha256 ? readManifest(bytes) : undefined
}

async function readWhole(path: string): Promise<Uint8Array> {
  const file = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW)
  try {
    const { size } = await file.stat()
    if (size > maxManifestBytes) throw new GatewayError('MANIFEST_MALFORMED', `${path} is too large`)
    return await file.readFile()
  } finally {
    await file.close()
  }
}

async function filesBelow(folder: string): Promise<string[]> {
  const names: string[] = []
  const walk = async (below: string): Promise<void> => {
    for (const entry of await readdir(join(folder, below), { withFileTypes: true })) {
      const name = below === '' ? entry.name : `${below}/${entry.name}`
      if (entry.isDirectory()) await walk(name)
      else if (entry.isFile()) names.push(name)
      if (names.length > mostFiles) throw new UsageError(`${folder}: expected at most ${mostFiles} files`)
    }
  }
  await walk('')
  return names.sort()
}
