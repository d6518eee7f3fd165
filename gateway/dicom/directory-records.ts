/** The directory records of a DICOMDIR: their types by SOP class, and the keys that each holds (PS3.3 §F.4, §F.5). */
import { type DicomJson, fromJson } from './json.ts'
import type { NewElement } from './part10-writer.ts'
import { formatTag, type Tag } from './tag.ts'

/** Where a record stands below the one before it. */
export type RecordLevel = 'patient' | 'study' | 'series' | 'instance'

/** A directory record without its offsets. */
export interface DirectoryRecord {
  readonly level: RecordLevel
  /** Its elements from Directory Record Type (0004,1430) on. */
  readonly elements: readonly NewElement[]
}

/** The file that the record of an instance refers to. */
export interface ReferencedFile {
  /** Components of the File ID, at most 8 of 8 characters (PS3.10 §8.2). */
  readonly path: readonly string[]
  readonly sopClassUid: string
  readonly sopInstanceUid: string
  readonly transferSyntaxUid: string
}

/** The record of a patient, study or series. `extended` adds the series' description, as Orthanc does. */
export function levelRecord(
  level: 'patient' | 'study' | 'series',
  attributes: DicomJson,
  keys: 'basic' | 'extended',
): DirectoryRecord {
  const { required, described } = levelKeys[level]
  const optional = keys === 'extended' ? described : []
  return { level, elements: recordOf(level.toUpperCase(), attributes, { required, optional }) }
}

/** The record of an instance. */
export function instanceRecord(attributes: DicomJson, file: ReferencedFile): DirectoryRecord {
  const type = recordType(file.sopClassUid)
  const keys = instanceKeys[type]
  return {
    level: 'instance',
    elements: [
      ...recordOf(type, attributes, keys),
      { tag: 0x00041500, value: file.path },
      { tag: 0x00041510, value: file.sopClassUid },
      { tag: 0x00041511, value: file.sopInstanceUid },
      { tag: 0x00041512, value: file.transferSyntaxUid },
    ],
  }
}

interface Keys {
  /** Types 1 and 2: written without a value where the instance has none. */
  readonly required: readonly Tag[]
  readonly optional: readonly Tag[]
}

const patientName = 0x00100010
const instanceNumber = 0x00200013
const contentDateTime: readonly Tag[] = [0x00080023, 0x00080033]
const contentIdentification: readonly Tag[] = [instanceNumber, 0x00700080, 0x00700081, 0x00700084]
const conceptName = 0x0040a043

const levelKeys = {
  patient: { required: [patientName, 0x00100020], described: [] },
  study: { required: [0x00080020, 0x00080030, 0x00080050, 0x00081030, 0x0020000d, 0x00200010], described: [] },
  series: { required: [0x00080060, 0x0020000e, 0x00200011], described: [0x0008103e] },
} as const

const keysOf = (required: readonly Tag[], optional: readonly Tag[] = []): Keys => ({ required, optional })

const instanceKeys = {
  IMAGE: keysOf([instanceNumber]),
  'RT DOSE': keysOf([instanceNumber, 0x3004000a], [0x30040006]),
  'RT STRUCTURE SET': keysOf([instanceNumber, 0x30060002, 0x30060008, 0x30060009]),
  'RT PLAN': keysOf([instanceNumber, 0x300a0002, 0x300a0006, 0x300a0007]),
  'RT TREAT RECORD': keysOf([instanceNumber, 0x30080250, 0x30080251]),
  PRESENTATION: keysOf([...contentIdentification, 0x00700082, 0x00700083], [0x00081115]),
  WAVEFORM: keysOf([instanceNumber, ...contentDateTime]),
  'SR DOCUMENT': keysOf([instanceNumber, ...contentDateTime, 0x0040a491, 0x0040a493, conceptName], [0x0040a030]),
  'KEY OBJECT DOC': keysOf([instanceNumber, ...contentDateTime, conceptName]),
  SPECTROSCOPY: keysOf([
    instanceNumber,
    ...contentDateTime,
    0x00080008,
    0x00280008,
    0x00280010,
    0x00280011,
    0x00289001,
    0x00289002,
  ]),
  'RAW DATA': keysOf([instanceNumber, ...contentDateTime]),
  REGISTRATION: keysOf([...contentIdentification, ...contentDateTime]),
  FIDUCIAL: keysOf([...contentIdentification, ...contentDateTime]),
  'ENCAP DOC': keysOf([instanceNumber, ...contentDateTime, 0x00420010, 0x00420012, conceptName], [0x0040e001]),
  'VALUE MAP': keysOf([...contentIdentification, ...contentDateTime]),
  SURFACE: keysOf([...contentIdentification, ...contentDateTime]),
  MEASUREMENT: keysOf([instanceNumber, ...contentDateTime]),
  STEREOMETRIC: keysOf([...contentIdentification, ...contentDateTime]),
} as const satisfies Record<string, Keys>

type InstanceType = keyof typeof instanceKeys

/** First match wins; what is not named is an IMAGE. UIDs are those of PS3.4 Table B.5-1, without the common root. */
const types: readonly (readonly [RegExp, InstanceType])[] = [
  [/^481\.2$/, 'RT DOSE'],
  [/^481\.3$/, 'RT STRUCTURE SET'],
  [/^481\.(5|8)$/, 'RT PLAN'],
  [/^481\.(4|6|7|9)$/, 'RT TREAT RECORD'],
  [/^11\./, 'PRESENTATION'],
  [/^9\./, 'WAVEFORM'],
  [/^88\.59$/, 'KEY OBJECT DOC'],
  [/^88\./, 'SR DOCUMENT'],
  [/^4\.2$/, 'SPECTROSCOPY'],
  [/^66$/, 'RAW DATA'],
  [/^66\.(1|3)$/, 'REGISTRATION'],
  [/^66\.2$/, 'FIDUCIAL'],
  [/^66\.5$/, 'SURFACE'],
  [/^67$/, 'VALUE MAP'],
  [/^77\.1\.5\.3$/, 'STEREOMETRIC'],
  [/^78\./, 'MEASUREMENT'],
  [/^104\./, 'ENCAP DOC'],
]
const storageRoot = '1.2.840.10008.5.1.4.1.1.'

function recordType(sopClassUid: string): InstanceType {
  const rest = sopClassUid.startsWith(storageRoot) ? sopClassUid.slice(storageRoot.length) : ''
  return types.find(([form]) => form.test(rest))?.[1] ?? 'IMAGE'
}

function recordOf(type: string, attributes: DicomJson, { required, optional }: Keys): NewElement[] {
  const wanted = [...required, ...optional]
    .map(tag => [formatTag(tag), attributes[formatTag(tag)]] as const)
    .filter(([, element]) => element !== undefined)
  const found = fromJson(Object.fromEntries(wanted))
  const tags = new Set(found.map(({ tag }) => tag))
  const missing = required.filter(tag => !tags.has(tag)).map(emptyElement)
  const isAscii = /^[\0-\x7f]*$/.test(JSON.stringify(wanted))
  return [
    { tag: 0x00041430, value: type },
    ...(isAscii ? [] : [{ tag: 0x00080005, value: 'ISO_IR 192' }]),
    ...found,
    ...missing,
  ]
}

const emptyElement = (tag: Tag): NewElement => (tag === conceptName ? { tag, items: [] } : { tag, value: [] })
