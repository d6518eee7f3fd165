/** The SOP classes of Query/Retrieve and their levels, PS3.4 §C.6. */

/** The information models: what their hierarchy begins with, and where it ends. */
export type InformationModel = 'patient-root' | 'study-root' | 'patient-study-only'

const models: Readonly<Record<InformationModel, string>> = {
  'patient-root': '1.2.840.10008.5.1.4.1.2.1',
  'study-root': '1.2.840.10008.5.1.4.1.2.2',
  'patient-study-only': '1.2.840.10008.5.1.4.1.2.3',
}
const services = { find: 1, move: 2, get: 3 } as const

/** The SOP class of a service in a model, PS3.4 §C.6.1.3, §C.6.2.3, §C.6.3.3. */
export function queryRetrieveSopClass(model: InformationModel, service: keyof typeof services): string {
  return `${models[model]}.${services[service]}`
}

/** The model of a Query/Retrieve SOP class; undefined for others. */
export function modelOf(sopClassUid: string): InformationModel | undefined {
  const root = sopClassUid.slice(0, -2)
  if (root === models['patient-root']) return 'patient-root'
  if (root === models['study-root']) return 'study-root'
  return root === models['patient-study-only'] ? 'patient-study-only' : undefined
}

/** Values of Query/Retrieve Level (0008,0052), PS3.4 Table C.4-1. */
export const levelNames = { patient: 'PATIENT', study: 'STUDY', series: 'SERIES', instance: 'IMAGE' } as const

export type QueryLevel = keyof typeof levelNames

/** Names that devices in the field write instead. */
const otherNames: Readonly<Record<string, QueryLevel>> = {
  INSTANCE: 'instance',
  INSTANCES: 'instance',
  IMAGES: 'instance',
}

/** The level that a value of (0008,0052) names, if it is one of these. */
export function levelOf(name: string | undefined, among: readonly QueryLevel[]): QueryLevel | undefined {
  return among.find(level => levelNames[level] === name || (name !== undefined && otherNames[name] === level))
}
