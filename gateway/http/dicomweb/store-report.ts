/** What a store transaction answers: DICOM PS3.18 §10.5.3, Table 10.5.3-1. */
import type { DicomJson, JsonElement } from '../../dicom/json.ts'
import { errorTable } from '../../errors.ts'
import type { StoreOutcome } from '../../services/store-session.ts'
import { instanceUrl } from './uids.ts'

/** Duplicate SOP Instance, PS3.7 §C.4.2: the UID is stored with other content. */
const duplicateInstance = 0x0111
/** Coercion of data elements, PS3.4 Table B.2-1: here, that what is stored is in another transfer syntax. */
const warningCoercion = 0xb000

/** The status of the answer (PS3.18 Table 10.5.3-1). */
export function reportStatus(outcomes: readonly StoreOutcome[]): number {
  const kept = outcomes.filter(outcome => !isFailure(outcome))
  if (kept.length === outcomes.length) return kept.some(({ kind }) => kind === 'variant') ? 202 : 200
  if (kept.length > 0) return 202
  const [first] = outcomes
  const isTransient = outcomes.every(each => each.kind === 'failed' && errorTable[each.code].retry === 'yes')
  return isTransient && first?.kind === 'failed' ? errorTable[first.code].http : 409
}

function isFailure({ kind }: StoreOutcome): boolean {
  return kind === 'failed' || kind === 'conflict'
}

/** The data set of the answer; `baseUrl` is where the service is. */
export function reportDataset(outcomes: readonly StoreOutcome[], baseUrl: string): DicomJson {
  const referenced: DicomJson[] = []
  const failures: DicomJson[] = []
  const others: DicomJson[] = []
  const studies = new Set<string>()
  for (const outcome of outcomes) {
    if (outcome.kind === 'failed') {
      const reason = { '00081197': number(errorTable[outcome.code].dimse) }
      const { sopClassUid, sopInstanceUid } = outcome
      if (sopInstanceUid === undefined) others.push(reason)
      else failures.push({ ...reference(sopClassUid ?? '', sopInstanceUid), ...reason })
    } else if (outcome.kind === 'conflict') {
      failures.push({
        ...reference(outcome.sopClassUid, outcome.sopInstanceUid),
        '00081197': number(duplicateInstance),
      })
    } else {
      studies.add(outcome.studyInstanceUid)
      referenced.push({
        ...reference(outcome.sopClassUid, outcome.sopInstanceUid),
        '00081190': url(instanceUrl(baseUrl, outcome)),
        ...(outcome.kind === 'variant' && { '00081196': number(warningCoercion) }),
      })
    }
  }
  const [study] = studies
  return {
    ...(study !== undefined && studies.size === 1 && { '00081190': url(`${baseUrl}/studies/${study}`) }),
    ...sequence('00081198', failures),
    ...sequence('00081199', referenced),
    ...sequence('0008119A', others),
  }
}

const reference = (sopClassUid: string, sopInstanceUid: string): DicomJson => ({
  '00081150': { vr: 'UI', ...(sopClassUid !== '' && { Value: [sopClassUid] }) },
  '00081155': { vr: 'UI', Value: [sopInstanceUid] },
})
const number = (value: number): JsonElement => ({ vr: 'US', Value: [value] })
const url = (value: string): JsonElement => ({ vr: 'UR', Value: [value] })
const sequence = (name: string, items: readonly DicomJson[]): DicomJson =>
  items.length === 0 ? {} : { [name]: { vr: 'SQ', Value: items } }
