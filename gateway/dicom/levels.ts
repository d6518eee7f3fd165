/**
 * Which level of patient, study, series and instance an attribute describes: by the modules of PS3.3
 * that hold it, with Orthanc's main DICOM tags of each level among them.
 */
import type { Tag } from './tag.ts'

/** A level of the hierarchy (PS3.3 §7). */
export type Level = 'patient' | 'study' | 'series' | 'instance'

/** The levels that an attribute describes; nearly always one. */
export function levelsOf(tag: Tag): readonly Level[] {
  return levels.get(tag) ?? instanceLevel
}

const instanceLevel: readonly Level[] = ['instance']

/** PS3.3 §C.7.1.1, §C.2.3: Patient, Clinical Trial Subject. */
const patientTags: readonly Tag[] = [
  0x00100010, 0x00100020, 0x00100021, 0x00100022, 0x00100024, 0x00100026, 0x00100027, 0x00100028, 0x00100030,
  0x00100032, 0x00100033, 0x00100034, 0x00100035, 0x00100040, 0x00101000, 0x00101001, 0x00101002, 0x00101005,
  0x00101060, 0x00102160, 0x00102201, 0x00102202, 0x00102203, 0x00102292, 0x00102293, 0x00102294, 0x00102295,
  0x00102296, 0x00102297, 0x00102298, 0x00102299, 0x00104000, 0x00120062, 0x00120010, 0x00120020, 0x00120021,
  0x00120030, 0x00120031, 0x00120040, 0x00120042,
]

/** PS3.3 §C.7.2.1, §C.7.2.2: General Study, Patient Study; Orthanc's main tags of a study. */
const studyTags: readonly Tag[] = [
  0x0020000d, 0x00080020, 0x00080030, 0x00080050, 0x00080051, 0x00080080, 0x00080090, 0x00080096, 0x0008009c,
  0x00081030, 0x00081032, 0x00081048, 0x00081049, 0x00081060, 0x00081062, 0x00081080, 0x00081084, 0x00081110,
  0x00100011, 0x00101010, 0x00101020, 0x00101030, 0x00102000, 0x00102110, 0x00102180, 0x001021a0, 0x001021b0,
  0x001021c0, 0x001021d0, 0x00200010, 0x00321032, 0x00321060, 0x00380010, 0x00380060, 0x00380300, 0x00380500,
  0x00401012, 0x00120050, 0x00120051,
]

/** PS3.3 §C.7.3.1, §C.7.4.1, §C.7.5.1: General Series, Frame of Reference, General Equipment; Orthanc's main tags of a series. */
const seriesTags: readonly Tag[] = [
  0x0020000e, 0x00080021, 0x00080031, 0x00080060, 0x00080070, 0x00080081, 0x00081010, 0x0008103e, 0x0008103f,
  0x00081040, 0x00081041, 0x00081050, 0x00081052, 0x00081070, 0x00081072, 0x00081090, 0x00081111, 0x00081250,
  0x00180010, 0x00180015, 0x00180024, 0x00181000, 0x00181002, 0x00181008, 0x00181020, 0x00181030, 0x00181050,
  0x00181090, 0x00181200, 0x00181201, 0x00181400, 0x00185100, 0x00200011, 0x00200052, 0x00200060, 0x00200105,
  0x00201002, 0x00201040, 0x00400244, 0x00400245, 0x00400250, 0x00400251, 0x00400253, 0x00400254, 0x00400255,
  0x00400260, 0x00400275, 0x00400280, 0x00540081, 0x00540101, 0x00541000, 0x00120060, 0x00120071, 0x00120072,
]

const levels: ReadonlyMap<Tag, readonly Level[]> = new Map<Tag, readonly Level[]>([
  ...patientTags.map(tag => [tag, ['patient']] as const),
  ...studyTags.map(tag => [tag, ['study']] as const),
  ...seriesTags.map(tag => [tag, ['series']] as const),
  // Orthanc shows the orientation with the series, but localizers differ within one; the character set belongs to each.
  [0x00200037, ['series', 'instance']],
  [0x00080005, ['patient', 'study', 'series', 'instance']],
])
