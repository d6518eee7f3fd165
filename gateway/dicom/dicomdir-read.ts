/** Reads which files a DICOMDIR names (PS3.3 §F.3.2.2). */
import type { ByteSource } from './byte-source.ts'
import { itemsOf, numbersOf, stringOf, stringsOf } from './dataset.ts'
import { readPart10 } from './part10-reader.ts'

/** A file that a directory record refers to. */
export interface NamedFile {
  /** Its File ID with `/` between the components, as it would be in the folder of the DICOMDIR. */
  readonly path: string
  /** Of the instance that is said to be in it; empty where the record does not say. */
  readonly sopInstanceUid: string
}

/** (0004,1410) of a record that is not to be used any more (PS3.3 §F.3.2.2). */
const inactive = 0

/**
 * The files that the records name, in their order. Offsets between records are not looked at: copies of discs have
 * wrong ones, and every record is in the one sequence anyway.
 *
 * @throws GatewayError DICOM_UNREADABLE, DICOM_LIMIT
 */
export async function namedFiles(source: ByteSource): Promise<NamedFile[]> {
  const { dataset } = await readPart10(source)
  return itemsOf(dataset, 0x00041220).flatMap(record => {
    const components = stringsOf(record, 0x00041500).map(component => component.trim())
    if (components.length === 0 || components.includes('') || numbersOf(record, 0x00041410)[0] === inactive) return []
    return [{ path: components.join('/'), sopInstanceUid: stringOf(record, 0x00041511) ?? '' }]
  })
}
