/** The names of folders and files in a ZIP archive: Orthanc's, so that scripts find what they look for. */
import type { DicomJson } from '../dicom/json.ts'
import { jsonTexts } from '../dicom/json-read.ts'
import type { Tag } from '../dicom/tag.ts'

/** Gives each name of a folder once: the second one ends in `-2`. */
export class UniqueNames {
  readonly #seen = new Map<string, number>()

  take(name: string): string {
    const times = (this.#seen.get(name) ?? 0) + 1
    this.#seen.set(name, times)
    return times === 1 ? name : `${name}-${times}`
  }
}

/** A patient's folder: identifier and name. */
export function patientFolder(attributes: DicomJson): string {
  return folder(attributes, [0x00100020, 0x00100010]) || 'Unknown Patient'
}

/** A study's folder: accession number and description. */
export function studyFolder(attributes: DicomJson): string {
  return folder(attributes, [0x00080050, 0x00081030]) || 'Unknown Study'
}

/** A series' folder: modality and description. */
export function seriesFolder(attributes: DicomJson): string {
  return folder(attributes, [0x00080060, 0x0008103e]) || 'Unknown Series'
}

/** A file of a series: two letters of its modality and a number, from 0. */
export function instanceFile(attributes: DicomJson, index: number): string {
  const modality = text(attributes, 0x00080060).replace(/[^A-Za-z0-9]/g, '')
  const letters = modality.slice(0, 2).toUpperCase()
  return `${letters}${String(index).padStart(8 - letters.length, '0')}.dcm`
}

const text = (attributes: DicomJson, tag: Tag): string => jsonTexts(attributes, tag).join('\\')

const longestName = 128

/**
 * ASCII letters, digits, `.` and `_` stay; white space and `^` become one space. So nothing leads out of the folder that
 * an archive is unpacked in.
 */
function folder(attributes: DicomJson, tags: readonly Tag[]): string {
  const name = tags
    .map(tag => text(attributes, tag))
    .join(' ')
    .replace(/[\s^]+/g, ' ')
    .replace(/[^A-Za-z0-9._ ]/g, '')
    .replace(/ +/g, ' ')
    .slice(0, longestName)
    .trim()
  return /^\.+$/.test(name) ? '' : name
}
