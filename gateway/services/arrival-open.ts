/** What a fetched file holds: a DICOM file, those of a ZIP archive, of an age package that we have an identity for. */
import { constants, createReadStream } from 'node:fs'
import { mkdir, open, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { decryptAge } from '../../endpoints/pack/age.ts'
import { dicomDirectoryName } from '../../endpoints/pack/file-set.ts'
import { fileSource } from '../dicom/byte-source.ts'
import { readInstanceHeader } from '../dicom/instance-header.ts'
import { GatewayError } from '../errors.ts'
import type { Blobs } from '../store/blobs.ts'
import { storageError } from '../store/io-error.ts'
import { mostEntries } from './upload-many.ts'
import { isZip, readZip } from './zip-upload.ts'

/** One DICOM file on our disk. */
export interface ArrivedObject {
  readonly path: string
  readonly size: number
  readonly sopClassUid: string
  readonly studyInstanceUid: string
}

export interface OpeningOptions {
  /** A folder of ours for what is unpacked; made anew. Names in archives never become names of ours. */
  readonly into: string
  /** `AGE-SECRET-KEY-1…` */
  readonly identities: readonly string[]
  /** Of all that a file holds, unpacked. */
  readonly mostBytes: number
  readonly blobs: Pick<Blobs, 'assertRoom'>
}

/** Images deflate to a tenth; what inflates more than that is no study. */
const mostTimesInflated = 100
const roomBytes = 67_108_864
const ageMark = 'age-encryption.org/v1'
const headBytes = 132

/**
 * Opens a file; all of it can be read, or it throws.
 *
 * @throws GatewayError DICOM_UNREADABLE, DICOM_LIMIT, BAD_REQUEST for archives that cannot be read or lead elsewhere,
 *   ENDPOINT_UNSUPPORTED for a package that we have no identity for, OBJECT_DIGEST for a damaged one, STORAGE_FULL, STORAGE_IO
 */
export async function openArrived(
  path: string,
  options: OpeningOptions,
  signal: AbortSignal,
): Promise<readonly ArrivedObject[]> {
  const { into, identities, mostBytes } = options
  await rm(into, { recursive: true, force: true })
  await mkdir(into, { recursive: true, mode: 0o700 })
  let [plain, head] = [path, await headOf(path)]
  if (head.toString('latin1', 0, ageMark.length) === ageMark) {
    if (identities.length === 0)
      throw new GatewayError(
        'ENDPOINT_UNSUPPORTED',
        'it is encrypted with age: give the endpoint the identity that opens it (--age-identity-file)',
      )
    plain = join(into, 'plain')
    await write(decryptAge(createReadStream(path, { signal }), identities), plain, mostBytes, options)
    head = await headOf(plain)
  }
  if (!isZip(head)) return [await examine(plain)]
  const { size } = await statOf(plain)
  const totalBytes = Math.min(mostBytes, size * mostTimesInflated + roomBytes)
  const objects: ArrivedObject[] = []
  for await (const { name, content } of readZip(plain, { entries: mostEntries, totalBytes })) {
    signal.throwIfAborted()
    if (leadsOut(name)) throw new GatewayError('BAD_REQUEST', 'the archive names a file outside of its folder')
    const to = join(into, String(objects.length))
    await write(content, to, totalBytes, options)
    const isObject = (await headOf(to)).toString('latin1', 128) === 'DICM'
    if (isObject && !name.toUpperCase().endsWith(dicomDirectoryName)) objects.push(await examine(to))
    else await rm(to)
  }
  if (objects.length === 0) throw new GatewayError('DICOM_UNREADABLE', 'the archive holds no DICOM file')
  return objects
}

async function examine(path: string): Promise<ArrivedObject> {
  await using file = await open(path, constants.O_RDONLY)
  const { size } = await file.stat()
  const { sopClassUid, studyInstanceUid } = await readInstanceHeader(fileSource(file, size), { missingUids: 'derive' })
  return { path, size, sopClassUid, studyInstanceUid }
}

const leadsOut = (name: string): boolean =>
  /^[/\\]|^[A-Za-z]:|\0/.test(name) || name.split(/[/\\]/).some(part => part === '..')

async function statOf(path: string) {
  await using file = await open(path, constants.O_RDONLY)
  return await file.stat()
}

async function headOf(path: string): Promise<Buffer> {
  await using file = await open(path, constants.O_RDONLY)
  const { buffer, bytesRead } = await file.read(Buffer.alloc(headBytes), 0, headBytes, 0)
  return buffer.subarray(0, bytesRead)
}

/** Writes a new file, looking for room now and then. */
async function write(
  chunks: AsyncIterable<Uint8Array>,
  to: string,
  mostBytes: number,
  { blobs }: OpeningOptions,
): Promise<void> {
  await blobs.assertRoom(0)
  const file = await open(to, 'wx', 0o600)
  let [written, looked] = [0, 0]
  try {
    for await (const chunk of chunks) {
      written += chunk.length
      if (written > mostBytes) throw new GatewayError('DICOM_LIMIT', `expected at most ${mostBytes} bytes in it`)
      if (written - looked > roomBytes) {
        await blobs.assertRoom(0)
        looked = written
      }
      await file.writeFile(chunk)
    }
  } catch (error) {
    throw error instanceof GatewayError ? error : storageError(error, 'unpacking a file')
  } finally {
    await file.close()
  }
}
