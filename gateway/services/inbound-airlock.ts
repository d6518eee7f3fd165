/**
 * The airlock: an object's bytes become an instance only when their digest is the one that the sender
 * signed and their header says what the manifest says. Nothing here writes.
 */
import { createHash } from 'node:crypto'
import { type FileHandle, open } from 'node:fs/promises'
import type { BufferPool } from '../../peers/buffer-pool.ts'
import type { Manifest } from '../../peers/manifest.ts'
import type { ObjectRefusal } from '../../peers/receipt.ts'
import { fileSource } from '../dicom/byte-source.ts'
import { type InstanceHeader, readInstanceHeader } from '../dicom/instance-header.ts'
import { isGatewayError } from '../errors.ts'
import type { Examiner } from './examiner.ts'
import type { Arrival } from './inbound-arrival.ts'

/** An object that passed. */
export interface PassedObject {
  readonly ordinal: number
  readonly header: InstanceHeader
  readonly fileSha256: Buffer
  readonly datasetSha256: Buffer
  readonly sizeBytes: number
}

export type AirlockResult =
  | { readonly kind: 'passed'; readonly object: PassedObject }
  | { readonly kind: 'refused'; readonly refusal: ObjectRefusal }

/** What the airlock works with. */
export interface AirlockParts {
  /** Of `airlockBufferBytes`. */
  readonly buffers: BufferPool
  readonly examiner: Examiner
}

/** Read at once: nearly every image of one frame is smaller, and then read only once. */
export const airlockBufferBytes = 1024 * 1024

/**
 * Verifies the file at `path` as object `ordinal` of the manifest.
 *
 * @param arrival  what was learned while the bytes arrived in this process: spares reading them again
 * @throws GatewayError STORAGE_IO when the file cannot be read
 */
export async function passAirlock(
  {
    path,
    manifest,
    ordinal,
    arrival,
  }: { path: string; manifest: Manifest; ordinal: number; arrival?: Arrival | undefined },
  { buffers, examiner }: AirlockParts,
): Promise<AirlockResult> {
  const expected = manifest.objects[ordinal]
  const study = expected && manifest.studies[expected.study]
  if (!expected || !study) throw new RangeError(`expected an object of the manifest, got ${ordinal}`)
  const refused = (code: string): AirlockResult => ({
    kind: 'refused',
    refusal: { object: ordinal, sopInstanceUid: expected.sopInstanceUid, code },
  })

  const pass = (
    fileSha256: Buffer,
    sizeBytes: number,
    header: InstanceHeader,
    datasetSha256: Buffer,
  ): AirlockResult => {
    const isAsAnnounced =
      header.sopInstanceUid === expected.sopInstanceUid &&
      header.sopClassUid === expected.sopClassUid &&
      header.transferSyntaxUid === expected.transferSyntaxUid &&
      header.studyInstanceUid === study.studyInstanceUid
    if (!isAsAnnounced) return refused('OBJECT_MISMATCH')
    return { kind: 'passed', object: { ordinal, header, fileSha256, datasetSha256, sizeBytes } }
  }
  const isSigned = (fileSha256: Buffer): boolean => fileSha256.toString('hex') === expected.sha256

  if (arrival?.known && arrival.isSigned) {
    return pass(arrival.fileSha256, expected.sizeBytes, arrival.known.header, Buffer.from(arrival.known.datasetSha256))
  }
  const file = await openObject(path)
  if (!file) return refused('OBJECT_DIGEST')
  const buffer = buffers.take(airlockBufferBytes)
  try {
    const { size: sizeBytes } = await file.stat()
    if (sizeBytes !== expected.sizeBytes) return refused('OBJECT_DIGEST')
    if (sizeBytes <= buffer.length) {
      const whole = await readWhole(file, buffer.subarray(0, sizeBytes))
      const question = { at: 0, length: whole.length, signedSha256: expected.sha256 }
      const [found] = await examiner.examine(whole, [question])
      if (!found || !isSigned(Buffer.from(found.sha256))) return refused('OBJECT_DIGEST')
      if (found.known)
        return pass(Buffer.from(found.sha256), sizeBytes, found.known.header, Buffer.from(found.known.datasetSha256))
    }
    const fileSha256 = arrival?.fileSha256 ?? (await hashFrom(file, 0, buffer))
    if (!isSigned(fileSha256)) return refused('OBJECT_DIGEST')
    const header = await readInstanceHeader(fileSource(file, sizeBytes), { missingUids: 'derive' })
    return pass(fileSha256, sizeBytes, header, await hashFrom(file, header.datasetOffset, buffer))
  } catch (error) {
    if (isGatewayError(error, 'DICOM_UNREADABLE') || isGatewayError(error, 'DICOM_LIMIT')) return refused(error.code)
    throw error
  } finally {
    buffers.give(buffer)
    await file.close()
  }
}

/** Undefined when the file is not there: bytes that were acknowledged are gone. */
async function openObject(path: string): Promise<FileHandle | undefined> {
  try {
    return await open(path, 'r')
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return undefined
    throw error
  }
}

/** The whole file in `target`, or less of it where it became shorter. */
async function readWhole(file: FileHandle, target: Buffer): Promise<Buffer> {
  let filled = 0
  while (filled < target.length) {
    const { bytesRead } = await file.read(target, filled, target.length - filled, filled)
    if (bytesRead === 0) break
    filled += bytesRead
  }
  return target.subarray(0, filled)
}

async function hashFrom(file: FileHandle, start: number, buffer: Buffer): Promise<Buffer> {
  const hash = createHash('sha256')
  for (let position = start; ; ) {
    const { bytesRead } = await file.read(buffer, 0, buffer.length, position)
    if (bytesRead === 0) return hash.digest()
    hash.update(buffer.subarray(0, bytesRead))
    position += bytesRead
  }
}
