/**
 * Deletes resources for somebody, at any level: rows, counters, what was said of them, and after a while their bytes.
 * What a transfer still has to send, or an archive has not committed to, is refused: it would be lost.
 */
import { authorize } from '../../policy/authorize.ts'
import { type AuditEvent, instancesAccessed, requestorOf, studyDeleted } from '../audit/event.ts'
import { appendAudits } from '../audit/log.ts'
import type { Db, Tx } from '../db/db.ts'
import { GatewayError } from '../errors.ts'
import type { Principal } from '../principal.ts'
import {
  type CondemnedStudy,
  deleteCondemned,
  findCondemned,
  findHoldingTransfers,
  findLegalHolds,
  listedInstances,
  loadCondemnedStudies,
  lockCondemned,
} from '../store/deletion.ts'
import type { Level } from '../store/query.ts'

/** What a removal came to. */
export interface Removed {
  /** The Orthanc ids that existed. */
  readonly resources: readonly string[]
  /** Instances that are gone. */
  readonly instances: number
}

/** Deletes resources. */
export interface Removal {
  /**
   * Deletes resources of one level with everything below them, all in one transaction; what is left empty above
   * them goes too. Ids that nothing has are passed over.
   *
   * @param reason  a stable word for the audit log, such as `modified`
   * @param still  asked below the locks; false leaves everything as it is
   * @throws GatewayError STATE_CONFLICT under a legal hold, and while a transfer has to send one of the instances, or waits for an archive
   */
  remove(
    principal: Principal,
    level: Level,
    orthancIds: string | readonly string[],
    reason?: string,
    still?: (tx: Tx) => Promise<boolean>,
  ): Promise<Removed>
}

/** At most so many ids at a time. */
const mostIds = 100_000

export function openRemoval({ db }: { readonly db: Db }): Removal {
  return {
    async remove(principal, level, orthancIds, reason, still) {
      authorize(principal, 'study.delete')
      const asked = typeof orthancIds === 'string' ? [orthancIds] : orthancIds
      if (asked.length > mostIds) throw new GatewayError('TOO_LARGE', `expected at most ${mostIds} resources at a time`)
      const condemned = { level, orthancIds: asked }
      return await db.removing(async tx => {
        await lockCondemned(tx, condemned)
        const resources = !still || (await still(tx)) ? await findCondemned(tx, condemned) : []
        if (resources.length === 0) return { resources, instances: 0 }
        const holding = await findHoldingTransfers(tx, condemned)
        if (holding.length > 0) {
          throw new GatewayError(
            'STATE_CONFLICT',
            `transfers still need these instances, cancel them or wait: ${holding.join(', ')}`,
          )
        }
        const holds = await findLegalHolds(tx, condemned)
        if (holds.length > 0) {
          throw new GatewayError('STATE_CONFLICT', `legal holds forbid to delete it: ${holds.join(', ')}`)
        }
        const studies = await loadCondemnedStudies(tx, condemned)
        const { instances, conflicts } = await deleteCondemned(tx, condemned, principal.id)
        await appendAudits(
          tx,
          studies.map(study => eventOf(principal, study, { reason, conflicts })),
        )
        return { resources, instances }
      })
    },
  }
}

function eventOf(
  principal: Principal,
  study: CondemnedStudy,
  { reason, conflicts }: { readonly reason: string | undefined; readonly conflicts: number },
): AuditEvent {
  const isWhole = study.condemned === study.total
  const common = {
    ...(reason !== undefined && { reason }),
    ...(conflicts > 0 && { detail: { discardedConflicts: conflicts } }),
    participants: [requestorOf(principal)],
  }
  const objects: AuditEvent['objects'] = [
    { kind: 'patient', patientId: study.patientId, issuer: study.issuer },
    {
      kind: 'study',
      studyInstanceUid: study.studyInstanceUid,
      sopClassUids: study.sopClassUids,
      instanceCount: study.condemned,
    },
  ]
  if (isWhole) return studyDeleted({ ...common, objects })
  const named = study.sopInstanceUids.slice(0, listedInstances)
  const instances = named.map(sopInstanceUid => ({ kind: 'instance', sopInstanceUid }) as const)
  return instancesAccessed({ ...common, action: 'D', objects: [...objects, ...instances] })
}
