/** C-GET as its provider: instances go back on the association that asks for them, PS3.4 §C.4.3. */

import type { Retrieve } from '../services/retrieve.ts'
import type { RetrieveParties } from '../services/retrieve-plan.ts'
import { commandField } from './command.ts'
import { type Converter, type Prepared, prepareAhead, type StoreResult } from './outgoing.ts'
import { Arrivals, outgoingOf, type PlannedOutgoing, planOf, retrieveService } from './retrieve-service.ts'
import type { AssociationPeer } from './scp.ts'
import type { ServiceChannel, ServiceClass, ServiceRequest } from './service.ts'
import { SubOperations } from './sub-operations.ts'

/** What the service needs. */
export interface GetOptions {
  readonly retrieve: Retrieve
  /** For what the requester does not take as it is stored. */
  readonly converter?: (requester: AssociationPeer) => Converter | undefined
}

/** The C-GET SCP. */
export function getService({ retrieve, converter }: GetOptions): ServiceClass {
  return retrieveService('get', commandField.getRequest, async (request, channel) => {
    const plan = await planOf(retrieve, request)
    const parties = partiesOf(request)
    const account = new SubOperations(plan.instanceCount, channel)
    if (plan.instanceCount === 0) return account.final(request.transferSyntaxUid, { isCancelled: false })
    await plan.begin(parties)
    const arrivals = new Arrivals()
    try {
      const instances = outgoingOf(retrieve, plan, request.signal)
      for await (const [instance, prepared] of prepareAhead(channel, instances, converter?.(request.association))) {
        const result = await store(channel, instance, prepared)
        if (account.count(instance.sopInstanceUid, result)) arrivals.add(instance.study)
        if (request.signal.aborted) break
        await account.tell()
      }
    } finally {
      await plan.end(parties, arrivals.byStudy)
    }
    if (!request.signal.aborted) account.countRest()
    return account.final(request.transferSyntaxUid, { isCancelled: request.signal.aborted })
  })
}

async function store(channel: ServiceChannel, instance: PlannedOutgoing, prepared: Prepared): Promise<StoreResult> {
  if (prepared.kind !== 'ready') return prepared
  const { sopClassUid, sopInstanceUid } = instance
  const { transferSyntaxUid, dataset, firstBlock } = prepared
  try {
    const outcome = await channel.store({ sopClassUid, sopInstanceUid, transferSyntaxUid }, dataset, firstBlock)
    return { kind: 'responded', ...outcome }
  } finally {
    await dataset.close?.()
  }
}

/** The requester is the receiver. */
function partiesOf({ association, principal }: ServiceRequest): RetrieveParties {
  const { callingAe, remoteAddress } = association
  return {
    requestor: { userId: principal.id, address: remoteAddress },
    destination: { userId: callingAe, address: remoteAddress },
  }
}
