/** The unified procedure step: its states and who may change what (DICOM PS3.4 Annex CC, PS3.18 §11). */
import type { DicomJson } from './json.ts'
import { jsonText } from './json-read.ts'

/** Procedure Step State (0074,1000), PS3.4 Table CC.1.1-1. */
export type WorkitemState = 'SCHEDULED' | 'IN PROGRESS' | 'COMPLETED' | 'CANCELED'

export const procedureStepState = 0x00741000
export const transactionUid = 0x00081195

/** What a change of state comes to. */
export type Transition =
  | { readonly kind: 'changed' }
  /** It is in that state already. */
  | { readonly kind: 'unchanged' }
  | { readonly kind: 'refused'; readonly reason: string }

/** The state that a text names. */
export function workitemState(text: string): WorkitemState | undefined {
  return states.find(state => state === text)
}

const states: readonly WorkitemState[] = ['SCHEDULED', 'IN PROGRESS', 'COMPLETED', 'CANCELED']

/** PS3.4 Table CC.1.1-2. `isOwner`: the caller gave the transaction UID with which the step was claimed. */
export function transition(from: WorkitemState, to: WorkitemState, isOwner: boolean): Transition {
  const refused = (reason: string): Transition => ({ kind: 'refused', reason })
  if (to === 'SCHEDULED') return refused('a workitem is not scheduled again')
  if (from === 'SCHEDULED') {
    return to === 'IN PROGRESS' ? { kind: 'changed' } : refused('the workitem is not in progress')
  }
  if (from === 'IN PROGRESS') {
    if (to === 'IN PROGRESS') return refused('the workitem is in progress already')
    return isOwner ? { kind: 'changed' } : refused('the transaction UID is not the one of the workitem')
  }
  return from === to ? { kind: 'unchanged' } : refused('the workitem has ended')
}

/** Attributes that a client may not set by an update (PS3.4 Table CC.2.5-3): identity, state, lock. */
export const protectedTags: ReadonlySet<string> = new Set(['00080016', '00080018', '00081195', '00741000'])

/** Why a new workitem is refused; undefined when it is not. */
export function problemOfNew(document: DicomJson): string | undefined {
  const state = jsonText(document, procedureStepState)
  if (state !== 'SCHEDULED') return 'expected Procedure Step State SCHEDULED'
  if (jsonText(document, transactionUid) !== '') return 'expected no Transaction UID'
  return undefined
}
