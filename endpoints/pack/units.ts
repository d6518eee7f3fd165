/** Divides a delivery's objects into packages. */
import { GatewayError } from '../../gateway/errors.ts'
import type { PreparedObject } from '../package.ts'
import type { PackageFields } from './names.ts'
import type { PackOptions } from './options.ts'

/** What one package holds; objects of one series stand together. */
export interface Unit {
  readonly objects: readonly PreparedObject[]
  readonly fields: PackageFields
}

/**
 * Packages in the order in which their studies, series and objects come first.
 *
 * @throws GatewayError BAD_REQUEST when an object is there twice
 */
export function unitsOf(objects: readonly PreparedObject[], unit: PackOptions['unit']): Unit[] {
  const count = new Set(objects.map(({ sopInstanceUid }) => sopInstanceUid)).size
  if (count < objects.length) throw new GatewayError('BAD_REQUEST', 'expected each object once in a delivery')
  const units: Unit[] = []
  const add = (held: readonly PreparedObject[], study: number, series: number, uid: string): void => {
    const modalities = [...new Set(held.map(({ modality }) => modality))]
    const modality = modalities.length === 1 && modalities[0] ? modalities[0] : 'OT'
    units.push({ objects: held, fields: { unit, number: units.length + 1, study, series, modality, uid } })
  }
  let study = 0
  for (const [studyUid, ofStudy] of Map.groupBy(objects, ({ studyInstanceUid }) => studyInstanceUid)) {
    study++
    const bySeries = [...Map.groupBy(ofStudy, ({ seriesInstanceUid }) => seriesInstanceUid)]
    if (unit === 'study')
      add(
        bySeries.flatMap(([, ofSeries]) => ofSeries),
        study,
        1,
        studyUid,
      )
    for (const [index, [seriesUid, ofSeries]] of bySeries.entries()) {
      if (unit === 'series') add(ofSeries, study, index + 1, seriesUid)
      if (unit === 'file') for (const object of ofSeries) add([object], study, index + 1, object.sopInstanceUid)
    }
  }
  return units
}
