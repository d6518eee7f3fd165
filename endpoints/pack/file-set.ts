/**
 * A File-set of prepared objects (PS3.10 §8): the File ID of each, and the DICOMDIR, whose bytes are the same for the
 * same objects.
 */
import { createHash } from 'node:crypto'
import { DicomDirectory } from '../../gateway/dicom/dicomdir.ts'
import { instanceRecord, levelRecord } from '../../gateway/dicom/directory-records.ts'
import { type InstanceHeader, readInstanceHeader } from '../../gateway/dicom/instance-header.ts'
import { GatewayError } from '../../gateway/errors.ts'
import { damagedFile } from '../../gateway/zip/zip-content.ts'
import type { PreparedObject } from '../package.ts'
import { openObject } from './object-file.ts'

/** An object in its place. */
export interface PlacedObject {
  readonly object: PreparedObject
  /** Below the File-set's folder, with `/`. */
  readonly path: string
}

/** Where the directory of a File-set stands. */
export const dicomDirectoryName = 'DICOMDIR'
const fileSetId = 'HANSE_MEDIA'
/** A component of a File ID has eight characters (PS3.10 §8.2), two of them letters. */
const mostInFolder = 999_999

/**
 * Gives objects their File IDs, a folder for each series, in their order.
 *
 * @throws GatewayError TOO_LARGE when there are more than File IDs can tell apart
 */
export function placeObjects(objects: readonly PreparedObject[]): PlacedObject[] {
  const series = [...Map.groupBy(objects, ({ seriesInstanceUid }) => seriesInstanceUid).values()]
  if (Math.max(series.length, ...series.map(({ length }) => length)) > mostInFolder)
    throw new GatewayError('TOO_LARGE', 'too many objects for one DICOMDIR')
  return series.flatMap((instances, folder) =>
    instances.map((object, file) => ({ object, path: `${component('SE', folder)}/${component('IM', file)}` })),
  )
}

/**
 * Writes the DICOMDIR of one study's objects, in the order of `placeObjects`.
 *
 * @throws GatewayError STORAGE_CORRUPT when a file is not the object that was prepared, STORAGE_IO; the reason of `signal`
 */
export async function writeDicomDirectory(placed: readonly PlacedObject[], signal: AbortSignal): Promise<Uint8Array> {
  const directory = new DicomDirectory()
  const names = createHash('sha256')
  let before: PreparedObject | undefined
  for (const { object, path } of placed) {
    signal.throwIfAborted()
    const { attributes } = await headerOf(object)
    if (before === undefined) {
      directory.add(levelRecord('patient', attributes.patient, 'basic'))
      directory.add(levelRecord('study', attributes.study, 'basic'))
    }
    if (before?.seriesInstanceUid !== object.seriesInstanceUid)
      directory.add(levelRecord('series', attributes.series, 'basic'))
    directory.add(instanceRecord(attributes.instance, { ...object, path: path.split('/') }))
    names.update(`${object.sopInstanceUid} ${path}\n`)
    before = object
  }
  return Buffer.concat([...directory.file(fileSetId, uidOf(names.digest()))])
}

async function headerOf(object: PreparedObject): Promise<InstanceHeader> {
  const blob = await openObject(object)
  try {
    const header = await readInstanceHeader(blob)
    if (header.sopInstanceUid !== object.sopInstanceUid) throw damagedFile()
    return header
  } finally {
    await blob.close()
  }
}

const component = (letters: string, index: number): string => `${letters}${String(index + 1).padStart(6, '0')}`

/** A UUID of version 8 (RFC 9562 §5.8) as a UID (PS3.5 §B.2). */
function uidOf(digest: Buffer): string {
  const bytes = Buffer.from(digest.subarray(0, 16))
  bytes[6] = ((bytes[6] ?? 0) & 0x0f) | 0x80
  bytes[8] = ((bytes[8] ?? 0) & 0x3f) | 0x80
  return `2.25.${BigInt(`0x${bytes.toString('hex')}`)}`
}
