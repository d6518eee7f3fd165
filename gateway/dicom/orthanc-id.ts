/** Orthanc's public identifiers, derived from DICOM's, so that clients written for Orthanc find the same resources. */
import { createHash } from 'node:crypto'

/** The identifiers of an instance's four levels: five groups of eight hex digits. */
export interface OrthancIds {
  readonly patient: string
  readonly study: string
  readonly series: string
  readonly instance: string
}

/**
 * SHA-1 over the identifiers of a level and those above it, joined by `|`, as Orthanc computes it.
 * A foreign issuer is hashed in front (`issuer|patientId`), so that two hospitals' equal Patient IDs never merge;
 * without one the ids are Orthanc's own.
 */
export function orthancIds(ids: {
  readonly patientId: string
  readonly issuer?: string | undefined
  readonly studyInstanceUid: string
  readonly seriesInstanceUid: string
  readonly sopInstanceUid: string
}): OrthancIds {
  const patient = ids.issuer ? `${ids.issuer}|${ids.patientId}` : ids.patientId
  const study = `${patient}|${ids.studyInstanceUid}`
  const series = `${study}|${ids.seriesInstanceUid}`
  return {
    patient: hashed(patient),
    study: hashed(study),
    series: hashed(series),
    instance: hashed(`${series}|${ids.sopInstanceUid}`),
  }
}

function hashed(text: string): string {
  const hex = createHash('sha1').update(text, 'utf8').digest('hex')
  return `${hex.slice(0, 8)}-${hex.slice(8, 16)}-${hex.slice(16, 24)}-${hex.slice(24, 32)}-${hex.slice(32)}`
}
