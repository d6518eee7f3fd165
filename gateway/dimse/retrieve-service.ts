/** What C-MOVE and C-GET have in common for their provider: identifier, plan, instances, errors. */
import { isGatewayError } from '../errors.ts'
import type { Retrieve } from '../services/retrieve.ts'
import type { PlannedInstance, RetrievePlan } from '../services/retrieve-plan.ts'
import { identifierSyntaxes, readIdentifier } from './find-scu.ts'
import type { OutgoingInstance } from './outgoing.ts'
import { modelOf, queryRetrieveSopClass } from './query-retrieve.ts'
import { retrieveKeys } from './retrieve-keys.ts'
import type { ServiceClass, ServiceHandler, ServiceRequest, ServiceResponse } from './service.ts'
import { outcomeOfError, status } from './status.ts'

/** An instance of a plan, ready to be opened. */
export interface PlannedOutgoing extends OutgoingInstance {
  readonly study: number
}

/** The service of all three information models, for one of the two commands. */
export function retrieveService(service: 'move' | 'get', commandField: number, handle: ServiceHandler): ServiceClass {
  return {
    sopClassUids: (['patient-root', 'study-root', 'patient-study-only'] as const).map(model =>
      queryRetrieveSopClass(model, service),
    ),
    transferSyntaxes: identifierSyntaxes,
    commandFields: [commandField],
    handle: async (request, channel) => {
      try {
        return await handle(request, channel)
      } catch (error) {
        return failure(error)
      }
    },
  }
}

/**
 * Finds what a request names.
 *
 * @throws GatewayError DICOM_MISMATCH, DICOM_UNREADABLE, DATABASE_UNAVAILABLE
 */
export async function planOf(retrieve: Retrieve, request: ServiceRequest): Promise<RetrievePlan> {
  const { dataset = new Uint8Array(), transferSyntaxUid, sopClassUid } = request
  const identifier = await readIdentifier(dataset, transferSyntaxUid)
  return await retrieve.plan(retrieveKeys(identifier, modelOf(sopClassUid) ?? 'study-root'))
}

/** The instances of a plan as they are sent, until `stop`. */
export async function* outgoingOf(
  retrieve: Retrieve,
  plan: RetrievePlan,
  stop: AbortSignal,
): AsyncGenerator<PlannedOutgoing> {
  for await (const instance of plan.instances()) {
    if (stop.aborted) return
    yield outgoing(retrieve, instance)
  }
}

function outgoing(retrieve: Retrieve, instance: PlannedInstance): PlannedOutgoing {
  const { sopClassUid, sopInstanceUid, transferSyntaxUid, study } = instance
  return { sopClassUid, sopInstanceUid, transferSyntaxUid, study, open: () => retrieve.openDataset(instance) }
}

/** Arrived instances for each study of a plan, for its audit events. */
export class Arrivals {
  readonly byStudy = new Map<number, number>()

  add(study: number): void {
    this.byStudy.set(study, (this.byStudy.get(study) ?? 0) + 1)
  }
}

/** The message of a mismatch says what is wrong with the identifier, and holds no values of it. */
function failure(error: unknown): ServiceResponse {
  if (isGatewayError(error, 'DICOM_MISMATCH')) return { status: status.dataSetMismatch, comment: error.message }
  return outcomeOfError(error)
}
