/**
 * Orthanc's main DICOM tags of each level (its version 1.10 defaults) and their values as Orthanc
 * prints them: raw text, values joined by backslash. Present but empty attributes are empty strings,
 * absent ones are left out.
 */
import { isObject } from '../../decode.ts'
import type { Level, StoredAttributes } from '../../store/query.ts'

/** Keyword by `GGGGEEEE`, per level, in the alphabetical order in which Orthanc prints them. */
export const mainTags: Record<Level, Readonly<Record<string, string>>> = {
  patient: {
    '00101000': 'OtherPatientIDs',
    '00100030': 'PatientBirthDate',
    '00100020': 'PatientID',
    '00100010': 'PatientName',
    '00100040': 'PatientSex',
  },
  study: {
    '00080050': 'AccessionNumber',
    '00080080': 'InstitutionName',
    '00080090': 'ReferringPhysicianName',
    '00321060': 'RequestedProcedureDescription',
    '00321032': 'RequestingPhysician',
    '00080020': 'StudyDate',
    '00081030': 'StudyDescription',
    '00200010': 'StudyID',
    '0020000D': 'StudyInstanceUID',
    '00080030': 'StudyTime',
  },
  series: {
    '00181400': 'AcquisitionDeviceProcessingDescription',
    '00180015': 'BodyPartExamined',
    '00181090': 'CardiacNumberOfImages',
    '00180010': 'ContrastBolusAgent',
    '00200037': 'ImageOrientationPatient',
    '00201002': 'ImagesInAcquisition',
    '00080070': 'Manufacturer',
    '00080060': 'Modality',
    '00540081': 'NumberOfSlices',
    '00200105': 'NumberOfTemporalPositions',
    '00540101': 'NumberOfTimeSlices',
    '00081070': 'OperatorsName',
    '00400254': 'PerformedProcedureStepDescription',
    '00181030': 'ProtocolName',
    '00180024': 'SequenceName',
    '00080021': 'SeriesDate',
    '0008103E': 'SeriesDescription',
    '0020000E': 'SeriesInstanceUID',
    '00200011': 'SeriesNumber',
    '00080031': 'SeriesTime',
    '00541000': 'SeriesType',
    '00081010': 'StationName',
  },
  instance: {
    '00200012': 'AcquisitionNumber',
    '00204000': 'ImageComments',
    '00541330': 'ImageIndex',
    '00200037': 'ImageOrientationPatient',
    '00200032': 'ImagePositionPatient',
    '00080012': 'InstanceCreationDate',
    '00080013': 'InstanceCreationTime',
    '00200013': 'InstanceNumber',
    '00280008': 'NumberOfFrames',
    '00080018': 'SOPInstanceUID',
    '00200100': 'TemporalPositionIdentifier',
  },
}

/** How tags are written: by keyword, by number, or by number with keyword and type. */
export type TagFormat = 'simple' | 'short' | 'full'

type FullTag = { readonly Name: string; readonly Type: 'String'; readonly Value: string }

/** The `MainDicomTags` object of a level. */
export function mainDicomTags(
  level: Level,
  attributes: StoredAttributes,
  format: TagFormat = 'simple',
): Record<string, string | FullTag> {
  return tagTexts(attributes, Object.entries(mainTags[level]), format)
}

/** The texts of some attributes, given as `GGGGEEEE` with their keyword; absent ones are left out. */
export function tagTexts(
  attributes: StoredAttributes,
  wanted: Iterable<readonly [tag: string, keyword: string]>,
  format: TagFormat = 'simple',
): Record<string, string | FullTag> {
  const out: Record<string, string | FullTag> = {}
  for (const [tag, keyword] of wanted) {
    const value = textOf(attributes, tag)
    if (value === undefined) continue
    if (format === 'simple') out[keyword] = value
    else out[commaTag(tag)] = format === 'short' ? value : { Name: keyword, Type: 'String', Value: value }
  }
  return out
}

/** `gggg,eeee` of `GGGGEEEE`. */
export function commaTag(tag: string): string {
  return `${tag.slice(0, 4)},${tag.slice(4)}`.toLowerCase()
}

/** An attribute's value as one text, or undefined when it is absent or a sequence. */
export function textOf(attributes: StoredAttributes, tag: string): string | undefined {
  const element = attributes[tag]
  return element === undefined || element.vr === 'SQ' ? undefined : textOfElement(element)
}

/** The value of an element that is no sequence, as one text. */
export function textOfElement(element: { readonly vr?: string; readonly Value?: readonly unknown[] }): string {
  const texts = (element.Value ?? []).map(valueText)
  return (element.vr === 'AT' ? texts.map(commaTag) : texts).join('\\')
}

const groups = ['Alphabetic', 'Ideographic', 'Phonetic'] as const

function valueText(value: unknown): string {
  if (typeof value === 'string') return value
  if (typeof value === 'number') return String(value)
  if (!isObject(value)) return ''
  // A person name: component groups joined by '=' (PS3.5 §6.2), empty ones at the end left out.
  const parts = groups.map(group => (typeof value[group] === 'string' ? value[group] : ''))
  while (parts.at(-1) === '') parts.pop()
  return parts.join('=')
}
