/**
 * Opens one file of a delivery: hashed, decrypted and unpacked to temporary names, and moved to its final name only when
 * all of it has been verified.
 */
import { createHash } from 'node:crypto'
import { constants } from 'node:fs'
import { lstat, mkdir, open, rename, rm } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { decryptAge } from '../../../endpoints/pack/age.ts'
import { dicomDirectoryName } from '../../../endpoints/pack/file-set.ts'
import { decryptOpenpgp } from '../../../endpoints/pack/openpgp.ts'
import { GatewayError } from '../../errors.ts'
import { readZip } from '../../services/zip-upload.ts'
import type { ReceivedFile } from './delivery.ts'
import { isPlainPath } from './paths.ts'

/** What opens encrypted files. */
export interface Identities {
  /** `AGE-SECRET-KEY-1…` */
  readonly age: readonly string[]
  /** Armored private keys; without any, files for OpenPGP are verified and left as they are. */
  readonly openpgp: readonly string[]
}

/** Where and with what files are opened. */
export interface UnpackOptions {
  readonly out: string
  /** Folder on the same volume for what is not verified yet. */
  readonly stage: string
  readonly identities: Identities
  readonly signal: AbortSignal
}

/** What was opened. */
export interface Unpacked {
  /** Below `out`. */
  readonly place: string
  readonly objects: number
  /** Verified, but still encrypted with OpenPGP. */
  readonly isSealed: boolean
}

/** Bounds of an archive: what images deflate to, with room for small ones. */
const mostTimesInflated = 100
const roomBytes = 67_108_864
const mostEntries = 1_000_000
/** The DICOMDIR is in no manifest; it is part of what was hashed. */
const unlisted = dicomDirectoryName

/**
 * Opens a file and moves what it holds to `out`.
 *
 * @throws GatewayError OBJECT_DIGEST when anything is not what was signed or encrypted, BAD_REQUEST or DICOM_LIMIT for
 *   an archive that cannot be read or leads elsewhere, STATE_CONFLICT when the final name is taken; the reason of `signal`
 */
export async function unpack(file: ReceivedFile, options: UnpackOptions): Promise<Unpacked> {
  const { out, stage, signal } = options
  const kind = encryptionOf(file.name, options.identities)
  const opened = kind === 'none' || kind === 'sealed' ? file.name : file.name.replace(/\.[a-z]+$/i, '')
  const isSealed = kind === 'sealed'
  if (!isPlainPath(opened)) throw new GatewayError('BAD_REQUEST', 'expected a plain name')
  const [plain, folder] = [join(stage, 'plain'), join(stage, 'folder')]
  try {
    const inner = await copyVerified(file, plain, options)
    if (/\.zip$/i.test(opened)) {
      const place = opened.slice(0, -4)
      const objects = await unzip(plain, inner.size, folder, { file, signal })
      await release(folder, join(out, place))
      return { place, isSealed, objects }
    }
    const [object] = file.objects ?? []
    if (object !== undefined && !isSealed && inner.sha256 !== object.sha256) throw notSigned()
    await release(plain, join(out, opened))
    return { place: opened, isSealed, objects: file.objects?.length ?? 0 }
  } catch (error) {
    signal.throwIfAborted()
    throw error
  } finally {
    await rm(plain, { force: true })
    await rm(folder, { recursive: true, force: true })
  }
}

/** How a file is encrypted, by its name; `sealed` when nobody gave us a key for it. */
function encryptionOf(name: string, { openpgp }: Identities): 'none' | 'age' | 'openpgp' | 'sealed' {
  if (/\.age$/i.test(name)) return 'age'
  if (!/\.(gpg|pgp)$/i.test(name)) return 'none'
  return openpgp.length > 0 ? 'openpgp' : 'sealed'
}

/** Copies a file, decrypted; what was copied is nothing worth when this throws. */
async function copyVerified(
  { name, path, signed }: ReceivedFile,
  to: string,
  { identities, signal }: UnpackOptions,
): Promise<{ size: number; sha256: string }> {
  await using opened = new AsyncDisposableStack()
  const flags = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK
  const handle = opened.adopt(await open(path, flags), held => held.close())
  if (!(await handle.stat()).isFile()) throw new GatewayError('BAD_REQUEST', 'expected a file')
  const source = handle.createReadStream({ highWaterMark: 1_048_576, autoClose: false, signal })
  const outer = createHash('sha256')
  let read = 0
  async function* hashed(): AsyncGenerator<Uint8Array> {
    for await (const chunk of source) {
      if (!(chunk instanceof Uint8Array)) continue
      read += chunk.length
      if (signed !== undefined && read > signed.size) throw notSigned()
      outer.update(chunk)
      yield chunk
    }
  }
  try {
    const kind = encryptionOf(name, identities)
    const plain =
      kind === 'age'
        ? decryptAge(hashed(), identities.age)
        : kind === 'openpgp'
          ? decryptOpenpgp(hashed(), identities.openpgp)
          : hashed()
    const written = await writeNew(plain, to)
    if (signed !== undefined && (read !== signed.size || outer.digest('hex') !== signed.sha256)) throw notSigned()
    return written
  } finally {
    source.destroy()
  }
}

/** Unpacks an archive whose bytes are verified into a new folder; gives the number of objects. */
async function unzip(
  archive: string,
  sizeBytes: number,
  folder: string,
  { file, signal }: { readonly file: ReceivedFile; readonly signal: AbortSignal },
): Promise<number> {
  const expected = new Map(file.objects?.map(object => [object.path, object]))
  const seen = new Set<string>()
  const limits = { entries: mostEntries, totalBytes: sizeBytes * mostTimesInflated + roomBytes }
  await mkdir(folder, { mode: 0o700 })
  for await (const { name, content } of readZip(archive, limits)) {
    signal.throwIfAborted()
    if (!isPlainPath(name)) throw new GatewayError('BAD_REQUEST', 'the archive names a file outside of its folder')
    // Also by case: on some volumes the second one would replace the first.
    if (seen.has(name.toLowerCase())) throw new GatewayError('BAD_REQUEST', 'the archive names a file twice')
    seen.add(name.toLowerCase())
    const object = expected.get(name)
    if (file.objects !== undefined && object === undefined && name !== unlisted) throw notSigned()
    await mkdir(join(folder, dirname(name)), { recursive: true, mode: 0o700 })
    const written = await writeNew(content, join(folder, name))
    if (object !== undefined && (written.size !== object.size || written.sha256 !== object.sha256)) throw notSigned()
    expected.delete(name)
  }
  if (expected.size > 0)
    throw new GatewayError('OBJECT_DIGEST', `the archive lacks ${expected.size} objects of the manifest`)
  return seen.size - (seen.has(unlisted.toLowerCase()) ? 1 : 0)
}

async function writeNew(chunks: AsyncIterable<Uint8Array>, path: string): Promise<{ size: number; sha256: string }> {
  const hash = createHash('sha256')
  let size = 0
  const file = await open(path, 'wx', 0o600)
  try {
    for await (const chunk of chunks) {
      hash.update(chunk)
      size += chunk.length
      await file.writeFile(chunk)
    }
    await file.sync()
  } finally {
    await file.close()
  }
  return { size, sha256: hash.digest('hex') }
}

/** Gives what was verified its final name; never in the place of something else. */
async function release(from: string, to: string): Promise<void> {
  await mkdir(dirname(to), { recursive: true })
  if ((await lstat(to).catch(() => undefined)) !== undefined)
    throw new GatewayError('STATE_CONFLICT', 'its name is taken in the output folder: choose an empty one')
  await rename(from, to)
}

function notSigned(): GatewayError {
  return new GatewayError('OBJECT_DIGEST', 'not what was signed: it was changed or cut on its way')
}
