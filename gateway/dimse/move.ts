/** C-MOVE as its provider: instances go to a registered destination over an association of their own, PS3.4 §C.4.2. */

import { errorLine } from '../errors.ts'
import type { Log } from '../log.ts'
import type { NotedMove } from '../services/noted-moves.ts'
import type { Retrieve } from '../services/retrieve.ts'
import { commandField } from './command.ts'
import type { Converter } from './outgoing.ts'
import { Arrivals, outgoingOf, planOf, retrieveService } from './retrieve-service.ts'
import { type ScuTarget, storeScu } from './scu.ts'
import type { ServiceClass } from './service.ts'
import { status } from './status.ts'
import { stopGrace } from './stop-grace.ts'
import { SubOperations } from './sub-operations.ts'

/** What the service needs. */
export interface MoveOptions {
  readonly retrieve: Retrieve
  /** Whom an AE title names; undefined for nobody who may be sent to. */
  readonly destination: (aeTitle: string) => ScuTarget | undefined
  /** For what the destination does not take as it is stored. */
  readonly converter?: (destination: string) => Converter | undefined
  readonly log: Log
  /** Told of each retrieval that had something to send, before its final response. */
  readonly onEnded?: (retrieval: NotedMove) => Promise<void>
}

/** A requester learns at least this often that we are still at work: a large instance may take minutes. */
const pendingEveryMs = 5_000
/** How long the instance that is under way may take to end after a cancellation. */
const stopGraceMs = 10_000

/** The C-MOVE SCP. */
export function moveService({ retrieve, destination, converter, log, onEnded }: MoveOptions): ServiceClass {
  return retrieveService('move', commandField.moveRequest, async (request, channel) => {
    const { command, signal, association, principal, transferSyntaxUid } = request
    const to = command.moveDestination ?? ''
    const target = destination(to)
    if (!target) return { status: status.moveDestinationUnknown, comment: 'move destination is not registered' }
    const plan = await planOf(retrieve, request)
    const account = new SubOperations(plan.instanceCount, channel)
    if (plan.instanceCount === 0) return account.final(transferSyntaxUid, { isCancelled: false })
    const parties = {
      requestor: { userId: principal.id, address: association.remoteAddress },
      destination: { userId: to, address: target.host },
    }
    await plan.begin(parties)
    await account.tell()

    const arrivals = new Arrivals()
    using grace = stopGrace(signal, stopGraceMs)
    const telling = setInterval(() => void account.tell().catch(() => undefined), pendingEveryMs)
    try {
      await storeScu(
        { ...target, signal: grace.hard },
        outgoingOf(retrieve, plan, signal),
        async (instance, result) => {
          if (account.count(instance.sopInstanceUid, result)) arrivals.add(instance.study)
          await account.tell()
        },
        {
          stop: signal,
          originator: { aeTitle: association.callingAe, messageId: command.messageId ?? 0 },
          priority: command.priority,
          converter: converter?.(to),
        },
      )
    } catch (error) {
      log.warn({ destination: to, cause: errorLine(error) }, 'C-MOVE could not send everything')
      if (!signal.aborted) for await (const rest of plan.instances(account.counted)) account.fail(rest.sopInstanceUid)
    } finally {
      clearInterval(telling)
      await plan.end(parties, arrivals.byStudy)
    }
    if (!signal.aborted) account.countRest()
    await onEnded?.({
      requestor: association.callingAe,
      address: association.remoteAddress,
      destination: target.calledAe,
      messageId: command.messageId ?? 0,
      instanceCount: plan.instanceCount,
      failedCount: account.counts.failed,
    })
    return account.final(transferSyntaxUid, { isCancelled: signal.aborted })
  })
}
