/** The JSON of patients, studies, series and instances as Orthanc 1.10 prints it. */
import { expectedInstances, indexInSeries, wholeNumber } from '../../dicom/series-count.ts'
import { uuidOfFile } from '../../services/resource-attachments.ts'
import type { InstanceNode, Level, PatientNode, SeriesNode, StudyNode } from '../../store/query.ts'
import { mainDicomTags, type TagFormat } from './main-tags.ts'

/** The levels as Orthanc names them. */
export const levelName: Readonly<Record<Level, string>> = {
  patient: 'Patient',
  study: 'Study',
  series: 'Series',
  instance: 'Instance',
}

/** `GET /patients/{id}`. */
export function patientJson(node: PatientNode, format: TagFormat = 'simple') {
  return {
    ID: node.orthancId,
    IsProtected: node.isProtected,
    IsStable: node.stable,
    LastUpdate: orthancTime(node.updatedAt),
    MainDicomTags: mainDicomTags('patient', node.attributes, format),
    Studies: node.children,
    Type: 'Patient',
  }
}

/** `GET /studies/{id}`. */
export function studyJson(node: StudyNode, format: TagFormat = 'simple') {
  return {
    ID: node.orthancId,
    IsStable: node.stable,
    LastUpdate: orthancTime(node.updatedAt),
    MainDicomTags: mainDicomTags('study', node.attributes, format),
    ParentPatient: node.patient,
    PatientMainDicomTags: mainDicomTags('patient', node.attributes, format),
    Series: node.children,
    Type: 'Study',
  }
}

/** `GET /series/{id}`. */
export function seriesJson(node: SeriesNode, format: TagFormat = 'simple') {
  const expected = expectedInstances(node.attributes)
  return {
    ExpectedNumberOfInstances: expected ?? null,
    ID: node.orthancId,
    Instances: node.children,
    IsStable: node.stable,
    LastUpdate: orthancTime(node.updatedAt),
    MainDicomTags: mainDicomTags('series', node.attributes, format),
    ParentStudy: node.study,
    Status: expected === undefined ? 'Unknown' : seriesStatus(expected, node.childIndexes),
    Type: 'Series',
  }
}

/** `GET /instances/{id}`. `FileUuid` is derived from the file's digest: equal files have equal ids. */
export function instanceJson(node: InstanceNode, format: TagFormat = 'simple') {
  return {
    FileSize: node.sizeBytes,
    FileUuid: uuidOfFile(node.fileSha256),
    ID: node.orthancId,
    IndexInSeries: indexInSeries(node.attributes) ?? null,
    MainDicomTags: mainDicomTags('instance', node.attributes, format),
    ParentSeries: node.series,
    Type: 'Instance',
  }
}

/** `20261122T214424`, UTC. */
export function orthancTime(at: Date): string {
  return at.toISOString().slice(0, 19).replace(/[-:]/g, '')
}

function seriesStatus(expected: number, indexes: readonly (string | undefined)[]): string {
  const seen = new Set<number>()
  for (const text of indexes) {
    const index = wholeNumber(text)
    if (index === undefined) return 'Unknown'
    if (index <= 0 || index > expected || seen.has(index)) return 'Inconsistent'
    seen.add(index)
  }
  return seen.size === expected ? 'Complete' : 'Missing'
}
