/**
 * A Modality Performed Procedure Step as DICOM JSON: what PS3.4 Table F.7.2-1 wants of it when it begins, when it is
 * changed and when it ends.
 */
import { isDeepStrictEqual } from 'node:util'
import type { DicomJson } from './json.ts'
import { jsonItems, jsonText } from './json-read.ts'
import { formatTag, type Tag } from './tag.ts'

/** Performed Procedure Step Status (0040,0252), PS3.4 Table F.1-3. */
export type PerformedStatus = 'IN PROGRESS' | 'COMPLETED' | 'DISCONTINUED'

/** What is wrong with a request, and with which attribute. */
export interface StepProblem {
  readonly kind: 'missing-attribute' | 'missing-value' | 'invalid-value'
  readonly tag: Tag
}

/** A series that was made, and the instances in it. */
export interface PerformedSeries {
  readonly seriesInstanceUid: string
  readonly sopInstanceUids: readonly string[]
}

const performedStatus = 0x00400252
const scheduledStepAttributes = 0x00400270
const performedSeries = 0x00400340

/** Of type 1 when the step begins. */
const requiredAtBegin: readonly Tag[] = [
  0x00080060, // Modality
  0x00400241, // Performed Station AE Title
  0x00400244, // Performed Procedure Step Start Date
  0x00400245, // Performed Procedure Step Start Time
  0x00400253, // Performed Procedure Step ID
  performedStatus,
]

/** Of type 1 when it has been completed. */
const requiredAtEnd: readonly Tag[] = [
  0x00400250, // Performed Procedure Step End Date
  0x00400251, // Performed Procedure Step End Time
]

/** "Not allowed" in N-SET: who, what was scheduled, and where it was begun. */
const fixedAtBegin: readonly Tag[] = [
  0x00080060, // Modality
  0x00081120, // Referenced Patient Sequence
  0x00100010, // Patient's Name
  0x00100020, // Patient ID
  0x00100021, // Issuer of Patient ID
  0x00100030, // Patient's Birth Date
  0x00100040, // Patient's Sex
  0x00200010, // Study ID
  0x00400241, // Performed Station AE Title
  0x00400244, // Performed Procedure Step Start Date
  0x00400245, // Performed Procedure Step Start Time
  0x00400253, // Performed Procedure Step ID
  scheduledStepAttributes,
]

/** The status in a document; undefined when it is none of the three. */
export function statusOf(document: DicomJson): PerformedStatus | undefined {
  const text = jsonText(document, performedStatus)
  return text === 'IN PROGRESS' || text === 'COMPLETED' || text === 'DISCONTINUED' ? text : undefined
}

/** What is wrong with the attributes of an N-CREATE request; undefined when nothing is. */
export function checkBegin(document: DicomJson): StepProblem | undefined {
  const missing = firstMissing(document, requiredAtBegin)
  if (missing) return missing
  // The one state that a step can begin in (PS3.4 Table F.1-4).
  if (statusOf(document) !== 'IN PROGRESS') return { kind: 'invalid-value', tag: performedStatus }
  const steps = jsonItems(document, scheduledStepAttributes)
  if (steps.length === 0) return absent(document, scheduledStepAttributes)
  return steps.some(step => jsonText(step, 0x0020000d) === '') ? { kind: 'missing-value', tag: 0x0020000d } : undefined
}

/**
 * What is wrong with the attributes of an N-SET request; undefined when nothing is. An attribute that may not be set is
 * let pass when it says what is known: modalities send their whole object again.
 */
export function checkChange(before: DicomJson, change: DicomJson): StepProblem | undefined {
  for (const tag of fixedAtBegin) {
    const now = change[formatTag(tag)]
    if (now !== undefined && !isDeepStrictEqual(now.Value ?? [], before[formatTag(tag)]?.Value ?? []))
      return { kind: 'invalid-value', tag }
  }
  if (change[formatTag(performedStatus)] !== undefined && statusOf(change) === undefined)
    return { kind: 'invalid-value', tag: performedStatus }
  return undefined
}

/** What a completed step lacks; undefined when nothing (PS3.4 Table F.7.2-1, final state). */
export function checkEnd(document: DicomJson): StepProblem | undefined {
  if (statusOf(document) !== 'COMPLETED') return undefined
  if (jsonItems(document, performedSeries).length === 0) return absent(document, performedSeries)
  return firstMissing(document, requiredAtEnd)
}

/** The document after an N-SET: top-level attributes are replaced whole (PS3.7 §10.1.3). */
export function changed(before: DicomJson, change: DicomJson): DicomJson {
  return { ...before, ...change }
}

/** The scheduled steps that it performs. */
export function scheduledSteps(document: DicomJson): { studyInstanceUid: string; stepId: string }[] {
  return jsonItems(document, scheduledStepAttributes).map(step => ({
    studyInstanceUid: jsonText(step, 0x0020000d),
    stepId: jsonText(step, 0x00400009),
  }))
}

/** The series and instances that it says were made. */
export function seriesOf(document: DicomJson): PerformedSeries[] {
  return jsonItems(document, performedSeries).map(series => ({
    seriesInstanceUid: jsonText(series, 0x0020000e),
    sopInstanceUids: [
      ...jsonItems(series, 0x00081140), // Referenced Image Sequence
      ...jsonItems(series, 0x00400220), // Referenced Non-Image Composite SOP Instance Sequence
    ].map(reference => jsonText(reference, 0x00081155)),
  }))
}

function firstMissing(document: DicomJson, tags: readonly Tag[]): StepProblem | undefined {
  const tag = tags.find(required => jsonText(document, required) === '')
  return tag === undefined ? undefined : absent(document, tag)
}

function absent(document: DicomJson, tag: Tag): StepProblem {
  return { kind: document[formatTag(tag)] === undefined ? 'missing-attribute' : 'missing-value', tag }
}
