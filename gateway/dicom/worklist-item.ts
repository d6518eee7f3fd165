/**
 * A worklist item: the attributes of one scheduled procedure step with its requested procedure, order and
 * patient (PS3.4 Table K.6-1), as DICOM JSON with exactly one item in the Scheduled Procedure Step Sequence.
 */
import { createHash } from 'node:crypto'
import { GatewayError } from '../errors.ts'
import { bufferSource } from './byte-source.ts'
import { foldName } from './instance-header.ts'
import { type DicomJson, fromJson, type JsonElement, type JsonValue, toJson } from './json.ts'
import { jsonItems, jsonText, jsonTexts } from './json-read.ts'
import { readPart10 } from './part10-reader.ts'
import { encodeDataset, type NewElement } from './part10-writer.ts'
import { explicitVrLittleEndian } from './uid.ts'

/** What queries narrow down by; text is bounded. */
export interface WorklistKeys {
  readonly studyInstanceUid: string
  /** Scheduled Procedure Step ID (0040,0009). */
  readonly stepId: string
  readonly patientId: string
  readonly issuer: string
  readonly nameFolded: string
  readonly accessionNumber: string
  /** Scheduled Station AE Title (0040,0001), which may have several values. */
  readonly stationAes: readonly string[]
  readonly modality: string
  /** `YYYYMMDD` */
  readonly startDate: string
  /** As in the document, `HHMMSS` with less or more. */
  readonly startTime: string
}

/** An item ready to be stored. */
export interface WorklistEntry {
  readonly document: DicomJson
  readonly keys: WorklistKeys
}

/** An item's document stays below this as JSON text. */
export const maxWorklistBytes = 262_144
const maxSteps = 100
const maxKeyCharacters = 256
const scheduledStepSequence = 0x00400100
const limits = { maxDepth: 16, maxElements: 10_000 }

/**
 * The items of a document of untrusted DICOM JSON: one for each of its scheduled procedure steps.
 *
 * @param seed  names the document among all others: where Study Instance UID, Requested Procedure ID or Scheduled
 *   Procedure Step ID are missing, which the standard wants in every answer, they are derived from it
 * @throws GatewayError BAD_REQUEST, TOO_LARGE; the message names attributes, not values
 */
export async function worklistEntriesFromJson(raw: unknown, seed: string): Promise<WorklistEntry[]> {
  return await worklistEntriesFromElements(fromJson(raw), seed)
}

/** The same from elements to be written, such as an order's. */
export async function worklistEntriesFromElements(
  elements: readonly NewElement[],
  seed: string,
): Promise<WorklistEntry[]> {
  const utf8: NewElement = { tag: 0x00080005, value: 'ISO_IR 192' }
  const bytes = encodeDataset(
    [...elements.filter(({ tag }) => tag >>> 16 > 2 && tag !== 0x00080005), utf8],
    explicitVrLittleEndian,
  )
  return await worklistEntriesFromDicom(bytes, seed)
}

/** The same from a Part 10 file or a data set, such as a `.wl` file. @throws also DICOM_UNREADABLE, DICOM_LIMIT */
export async function worklistEntriesFromDicom(bytes: Uint8Array, seed: string): Promise<WorklistEntry[]> {
  if (bytes.length > 4 * maxWorklistBytes)
    throw new GatewayError('TOO_LARGE', `expected a worklist item of at most ${4 * maxWorklistBytes} bytes`)
  const { dataset } = await readPart10(bufferSource(bytes), {
    maxValueBytes: 4 * maxWorklistBytes,
    maxInflatedBytes: 4 * maxWorklistBytes,
    limits,
  })
  const { '00080005': _, ...document } = toJson(dataset, { decimals: 'text' })
  const steps = jsonItems(document, scheduledStepSequence)
  if (steps.length === 0) throw missing('a Scheduled Procedure Step Sequence (0040,0100) with an item')
  if (steps.length > maxSteps) throw new GatewayError('TOO_LARGE', `expected at most ${maxSteps} scheduled steps`)
  return steps.map((step, index) => entryOf(document, step, steps.length === 1 ? seed : `${seed}#${index}`, seed))
}

function entryOf(document: DicomJson, step: DicomJson, stepSeed: string, seed: string): WorklistEntry {
  const completed = withText(document, {
    '0020000D': { vr: 'UI', text: derivedUid(seed) },
    '00401001': { vr: 'SH', text: shortId(`procedure|${seed}`) },
  })
  const completedStep = withText(step, { '00400009': { vr: 'SH', text: shortId(`step|${stepSeed}`) } })
  const whole: DicomJson = { ...completed, '00400100': { vr: 'SQ', Value: [completedStep] } }
  if (jsonText(whole, 0x00100010) === '' && jsonText(whole, 0x00100020) === '')
    throw missing("Patient's Name (0010,0010) or Patient ID (0010,0020)")
  if (jsonText(step, 0x00080060) === '') throw missing('Modality (0008,0060) in the scheduled step')
  if (!/^\d{8}$/.test(jsonText(step, 0x00400002)))
    throw missing('Scheduled Procedure Step Start Date (0040,0002) as YYYYMMDD')
  if (Buffer.byteLength(JSON.stringify(whole)) > maxWorklistBytes)
    throw new GatewayError('TOO_LARGE', `expected a worklist item of at most ${maxWorklistBytes} bytes as JSON`)
  return { document: sorted(whole), keys: keysOf(whole, completedStep) }
}

function keysOf(document: DicomJson, step: DicomJson): WorklistKeys {
  const text = (tag: number): string => bounded(jsonText(document, tag))
  const ofStep = (tag: number): string => bounded(jsonText(step, tag))
  return {
    studyInstanceUid: text(0x0020000d),
    stepId: ofStep(0x00400009),
    patientId: text(0x00100020),
    issuer: text(0x00100021),
    nameFolded: bounded(foldName(jsonText(document, 0x00100010))),
    accessionNumber: text(0x00080050),
    stationAes: jsonTexts(step, 0x00400001)
      .filter(title => title !== '')
      .map(bounded),
    modality: ofStep(0x00080060),
    startDate: ofStep(0x00400002),
    startTime: ofStep(0x00400003),
  }
}

const bounded = (text: string): string => text.slice(0, maxKeyCharacters)

/** The document with the elements that it has no value for. */
function withText(
  document: DicomJson,
  defaults: Readonly<Record<string, { vr: JsonElement['vr']; text: string }>>,
): DicomJson {
  const added: Record<string, JsonElement> = {}
  for (const [tag, { vr, text }] of Object.entries(defaults)) {
    const [first] = document[tag]?.Value ?? []
    if (first === undefined || first === null) added[tag] = { vr, Value: [text] }
  }
  return { ...document, ...added }
}

/** Elements in the order of their tags, as they are written. */
function sorted(document: DicomJson): DicomJson {
  return Object.fromEntries(Object.entries(document).sort(([a], [b]) => (a < b ? -1 : 1)))
}

/** A UID of the UUID form (PS3.5 §B.2) that is the same for the same text. */
export function derivedUid(text: string): string {
  return `2.25.${BigInt(`0x${digest(text).slice(0, 32)}`)}`
}

/** An identifier that fits VR SH, the same for the same text. */
export function shortId(text: string): string {
  return `H${digest(text).slice(0, 15).toUpperCase()}`
}

const digest = (text: string): string => createHash('sha256').update(text).digest('hex')

function missing(what: string): GatewayError {
  return new GatewayError('BAD_REQUEST', `a worklist item needs ${what}`)
}

/** The state of an item as Scheduled Procedure Step Status (0040,0020), PS3.3 §C.4.10; its own word while scheduled. */
export function withStepStatus(document: DicomJson, status: string | undefined): DicomJson {
  const [step = {}] = jsonItems(document, scheduledStepSequence)
  const text = status ?? (jsonText(step, 0x00400020) || 'SCHEDULED')
  const value: JsonValue = sorted({ ...step, '00400020': { vr: 'CS', Value: [text] } })
  return { ...document, '00400100': { vr: 'SQ', Value: [value] } }
}
