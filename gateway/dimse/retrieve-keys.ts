/** The identifier of a C-MOVE or C-GET request, PS3.4 §C.4.2.1.4 and §C.4.3.1.3. */
import { type Dataset, stringsOf } from '../dicom/dataset.ts'
import { GatewayError } from '../errors.ts'
import type { RetrieveKeys } from '../services/retrieve-plan.ts'
import { type InformationModel, levelNames, levelOf, type QueryLevel } from './query-retrieve.ts'

/** Unique keys of the levels, from the top, PS3.4 §C.6.1.1. */
const uniqueKeys = { patient: 0x00100020, study: 0x0020000d, series: 0x0020000e, instance: 0x00080018 } as const
const issuerOfPatientId = 0x00100021
const queryRetrieveLevel = 0x00080052

const levelsOf: Readonly<Record<InformationModel, readonly QueryLevel[]>> = {
  'patient-root': ['patient', 'study', 'series', 'instance'],
  'study-root': ['study', 'series', 'instance'],
  'patient-study-only': ['patient', 'study'],
}

/**
 * Reads the unique keys. Those of the levels above should be there (PS3.4 §C.4.2.2.1) and are heeded where they are; many
 * devices leave them out, which is no matter: UIDs name one thing by themselves. A study may be named by its Accession
 * Number instead, and a level that is not said is the lowest one with a key.
 *
 * @throws GatewayError DICOM_MISMATCH (A900H: the identifier does not fit the SOP class)
 */
export function retrieveKeys(identifier: Dataset, model: InformationModel): RetrieveKeys {
  const [named] = stringsOf(identifier, queryRetrieveLevel)
  const levels = levelsOf[model]
  const level = named === undefined ? lowestNamed(identifier, levels) : levelOf(named, levels)
  if (level === undefined) throw mismatch('query/retrieve level is missing or not of this information model')
  const wanted = levels.slice(0, levels.indexOf(level) + 1)
  const accession = level === 'study' && !hasKey(identifier, level) ? accessionOf(identifier) : undefined
  const keyed = wanted.filter(each => (each === level ? accession === undefined : hasKey(identifier, each)))
  const values = new Map(keyed.map(each => [each, keysOf(identifier, each, each === level)]))
  const [patientId] = values.get('patient') ?? []
  const [issuer] = stringsOf(identifier, issuerOfPatientId)
  return {
    level,
    ...(patientId !== undefined && { patientId, ...(issuer && { issuer }) }),
    studyUids: values.get('study'),
    accessionNumber: accession,
    seriesUids: values.get('series'),
    sopInstanceUids: values.get('instance'),
  }
}

const accessionNumber = 0x00080050

function hasKey(identifier: Dataset, level: QueryLevel): boolean {
  return stringsOf(identifier, uniqueKeys[level]).some(value => value !== '')
}

function accessionOf(identifier: Dataset): string | undefined {
  const [value = '', ...more] = stringsOf(identifier, accessionNumber)
  return value === '' || more.length > 0 || /[*?]/.test(value) ? undefined : value
}

function lowestNamed(identifier: Dataset, levels: readonly QueryLevel[]): QueryLevel | undefined {
  const named = levels.toReversed().find(level => hasKey(identifier, level))
  return named ?? (accessionOf(identifier) === undefined ? undefined : 'study')
}

function keysOf(identifier: Dataset, level: QueryLevel, isWanted: boolean): string[] {
  const values = stringsOf(identifier, uniqueKeys[level]).filter(value => value !== '')
  if (values.length === 0) throw mismatch(`the unique key of level ${levelNames[level]} is missing`)
  // A list of UIDs is for the level that is retrieved; of patients there is always one.
  if (values.length > 1 && (!isWanted || level === 'patient')) {
    throw mismatch(`the unique key of level ${levelNames[level]} has several values`)
  }
  const isFit = level === 'patient' ? (value: string) => !/[*?]/.test(value) : isUidLike
  if (!values.every(isFit)) throw mismatch(`the unique key of level ${levelNames[level]} is not a single value`)
  return [...new Set(values)]
}

/** Leading zeros in components are tolerated: devices in the field write them. */
function isUidLike(value: string): boolean {
  return value.length <= 64 && /^[0-9]+(\.[0-9]+)*$/.test(value)
}

function mismatch(message: string): GatewayError {
  return new GatewayError('DICOM_MISMATCH', message)
}
