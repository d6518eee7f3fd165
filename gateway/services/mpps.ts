/**
 * What modalities say that they do: Modality Performed Procedure Step, PS3.4 Annex F. A step moves its scheduled steps
 * in the worklist along, and a completed one ends the waiting of a study that has arrived whole.
 */
import { authorize } from '../../policy/authorize.ts'
import { type AuditEvent, type AuditObject, procedureRecord, queried } from '../audit/event.ts'
import { appendAudit, appendAudits } from '../audit/log.ts'
import type { Db, Tx } from '../db/db.ts'
import type { DicomJson } from '../dicom/json.ts'
import { jsonText } from '../dicom/json-read.ts'
import {
  changed,
  checkBegin,
  checkChange,
  checkEnd,
  type StepProblem,
  scheduledSteps,
  seriesOf,
  statusOf,
} from '../dicom/procedure-step.ts'
import { GatewayError } from '../errors.ts'
import type { Principal } from '../principal.ts'
import {
  insertProcedureStep,
  loadProcedureStep,
  loadProcedureSteps,
  lockProcedureStep,
  type ProcedureStep,
  type ProcedureStepFilter,
  settleStudies,
  updateProcedureStep,
} from '../store/procedure-steps.ts'
import { followPerformedStep } from '../store/worklist.ts'
import { participantOf, recordOf } from './worklist.ts'

/** What came of a modality's request. */
export type StepOutcome =
  | { readonly kind: 'done' }
  /** N-CREATE of a UID that exists. */
  | { readonly kind: 'duplicate' }
  /** N-SET of a UID that does not. */
  | { readonly kind: 'unknown' }
  /** N-SET of a step that is completed or discontinued. */
  | { readonly kind: 'final' }
  | { readonly kind: 'refused'; readonly problem: StepProblem }

export interface Mpps {
  /** N-CREATE: a step has begun. `document` is DICOM JSON without Specific Character Set. @throws GatewayError TOO_LARGE */
  begin(
    principal: Principal,
    step: { readonly sopInstanceUid: string; readonly callingAe: string; readonly document: DicomJson },
  ): Promise<StepOutcome>
  /** N-SET: it goes on, is completed, or is discontinued. @throws GatewayError TOO_LARGE */
  change(principal: Principal, sopInstanceUid: string, change: DicomJson): Promise<StepOutcome>
  /** Steps, the newest first; audited as a query. */
  list(principal: Principal, filter: ProcedureStepFilter): Promise<readonly ProcedureStep[]>
  /** One step by its SOP Instance UID; audited. @throws GatewayError NOT_FOUND */
  get(principal: Principal, sopInstanceUid: string): Promise<ProcedureStep>
}

/** A step's document stays below this as JSON text. */
const maxStepBytes = 2_097_152

/** Opens the records of performed procedure steps. */
export function openMpps(options: { readonly db: Db }): Mpps {
  const { db } = options

  const follow = async (
    tx: Tx,
    principal: Principal,
    document: DicomJson,
    state: 'started' | 'completed' | 'discontinued',
  ): Promise<void> => {
    const items = await followPerformedStep(tx, scheduledSteps(document), state)
    await appendAudits(
      tx,
      items.map(subject => recordOf(principal, 'U', subject, 'mpps')),
    )
  }

  return {
    begin: async (principal, step) => {
      authorize(principal, 'procedure.report')
      assertBounded(step.document)
      const problem = checkBegin(step.document)
      if (problem) return { kind: 'refused', problem }
      return await db.inTransaction(async (tx): Promise<StepOutcome> => {
        if (!(await insertProcedureStep(tx, step))) return { kind: 'duplicate' }
        await follow(tx, principal, step.document, 'started')
        await appendAudit(tx, stepRecord(principal, 'C', step))
        return { kind: 'done' }
      })
    },

    change: async (principal, sopInstanceUid, change) =>
      await db.inTransaction(async (tx): Promise<StepOutcome> => {
        authorize(principal, 'procedure.report')
        const before = await lockProcedureStep(tx, sopInstanceUid)
        if (!before) return { kind: 'unknown' }
        if (before.state !== 'in-progress') return { kind: 'final' }
        const document = changed(before.document, change)
        assertBounded(document)
        const problem = checkChange(before.document, change) ?? checkEnd(document)
        if (problem) return { kind: 'refused', problem }
        const status = statusOf(document) ?? 'IN PROGRESS'
        await updateProcedureStep(tx, sopInstanceUid, { document, status })
        if (status === 'COMPLETED') {
          await follow(tx, principal, document, 'completed')
          const studies = scheduledSteps(document).map(({ studyInstanceUid }) => studyInstanceUid)
          await settleStudies(tx, studies, seriesOf(document))
        } else if (status === 'DISCONTINUED') await follow(tx, principal, document, 'discontinued')
        await appendAudit(tx, stepRecord(principal, 'U', { sopInstanceUid, document }))
        return { kind: 'done' }
      }),

    list: async (principal, filter) => {
      authorize(principal, 'procedure.read')
      const steps = await loadProcedureSteps(db, filter)
      await db.inTransaction(tx =>
        appendAudit(
          tx,
          queried({
            requestor: participantOf(principal),
            detail: { model: 'procedure-steps', items: steps.length },
          }),
        ),
      )
      return steps
    },

    get: async (principal, sopInstanceUid) =>
      await db.inTransaction(async tx => {
        authorize(principal, 'procedure.read')
        const step = await loadProcedureStep(tx, sopInstanceUid)
        await appendAudit(tx, stepRecord(principal, 'R', step))
        return step
      }),
  }
}

function assertBounded(document: DicomJson): void {
  if (Buffer.byteLength(JSON.stringify(document)) > maxStepBytes)
    throw new GatewayError('TOO_LARGE', `expected a procedure step of at most ${maxStepBytes} bytes as JSON`)
}

/** PS3.15 §A.5.3.15: the step's studies and its patient. */
function stepRecord(
  principal: Principal,
  action: 'C' | 'R' | 'U',
  step: { readonly sopInstanceUid: string; readonly document: DicomJson },
): AuditEvent {
  const { sopInstanceUid, document } = step
  const studies = [...new Set(scheduledSteps(document).map(({ studyInstanceUid }) => studyInstanceUid))]
  const objects: AuditObject[] = [
    ...studies.slice(0, 100).map(studyInstanceUid => ({ kind: 'study' as const, studyInstanceUid })),
    { kind: 'patient', patientId: jsonText(document, 0x00100020), issuer: jsonText(document, 0x00100021) },
    { kind: 'instance', sopInstanceUid },
  ]
  const detail = { status: statusOf(document) ?? '' }
  return procedureRecord({ action, participants: [participantOf(principal)], objects, detail })
}
