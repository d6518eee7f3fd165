/** Sends stored resources to a registered modality now: directly inside of the hospital, by transfers out of it. */

import { sql } from 'kysely'
import { authorize } from '../../policy/authorize.ts'
import type { Db } from '../db/db.ts'
import { GatewayError } from '../errors.ts'
import type { Principal } from '../principal.ts'
import type { DicomNode, FindNode, MoveOriginator } from './dicom-node.ts'
import type { OutsideSends } from './outside-sends.ts'
import type { RemoteCall } from './remote.ts'
import type { Retrieve } from './retrieve.ts'

/** What is to be sent. */
export interface StoreRequest {
  /** Orthanc ids of patients, studies, series and instances. */
  readonly resources: readonly string[]
  readonly call?: RemoteCall
  /** Failures of single instances are counted, not thrown. */
  readonly permissive?: boolean
  readonly originator?: MoveOriginator | undefined
}

/** What became of it. */
export interface StoreOutcome {
  readonly instanceCount: number
  readonly failedCount: number
}

/** Where something is to go, and what. */
export interface StorePlan {
  /** AE title of the modality, and ours. */
  readonly remoteAe: string
  readonly localAe: string
  readonly instanceCount: number
  /** @throws GatewayError REMOTE_STATUS when something was not taken, unless permissive; what a transfer ended with */
  run(onProgress: (done: number, total: number) => void, signal: AbortSignal): Promise<StoreOutcome>
}

/** Plans sends. */
export interface RemoteStore {
  /** @throws GatewayError NOT_FOUND for an unknown modality or resource */
  plan(principal: Principal, name: string, request: StoreRequest): Promise<StorePlan>
}

export function openRemoteStore(options: {
  readonly db: Db
  readonly findNode: FindNode
  readonly retrieve: Retrieve
  readonly node: Pick<DicomNode, 'store'>
  readonly outside: OutsideSends
}): RemoteStore {
  const { db, findNode, retrieve, node, outside } = options
  return {
    async plan(principal, name, { resources, call, permissive = false, originator }) {
      authorize(principal, 'study.send')
      const target = {
        ...findNode(name),
        ...(call?.callingAe !== undefined && { callingAe: call.callingAe }),
        ...(call?.timeoutMs !== undefined && { timeoutMs: call.timeoutMs }),
      }
      await assertKnown(db, resources)
      const plan = await retrieve.plan({ level: 'instance', resources })
      const { instanceCount } = plan
      const described = { remoteAe: target.calledAe, localAe: target.callingAe, instanceCount }
      const parties = {
        requestor: { userId: principal.id, ...(principal.address !== undefined && { address: principal.address }) },
        destination: { userId: target.calledAe, address: target.host },
      }
      return {
        ...described,
        async run(onProgress, signal) {
          if (instanceCount === 0) return { instanceCount, failedCount: 0 }
          if (target.isOutside) {
            await outside.send(principal, { modality: target.name }, resources, signal)
            onProgress(instanceCount, instanceCount)
            return { instanceCount, failedCount: 0 }
          }
          await plan.begin(parties)
          let sent: ReadonlyMap<number, number> = new Map()
          try {
            const result = await node.store(
              target,
              { retrieve, plan, originator },
              ({ completed, failed, warning }) => onProgress(completed + failed + warning, instanceCount),
              signal,
            )
            sent = result.sent
            if (result.failed > 0 && !permissive) {
              throw new GatewayError(
                'REMOTE_STATUS',
                `the node did not take ${result.failed} of ${instanceCount} instances`,
              )
            }
            return { instanceCount, failedCount: result.failed }
          } finally {
            await plan.end(parties, sent)
          }
        },
      }
    },
  }
}

/** @throws GatewayError NOT_FOUND when one of the Orthanc ids is nobody's */
export async function assertKnown(db: Db, ids: readonly string[]): Promise<void> {
  const { rows } = await sql<{ id: string }>`
    select orthanc_id as id from patients where orthanc_id = any(${ids}::text[])
    union all select orthanc_id from studies where orthanc_id = any(${ids}::text[])
    union all select orthanc_id from series where orthanc_id = any(${ids}::text[])
    union all select orthanc_id from instances where orthanc_id = any(${ids}::text[])
  `.execute(db.kysely)
  const found = new Set(rows.map(({ id }) => id))
  if (ids.some(id => !found.has(id))) throw new GatewayError('NOT_FOUND', 'no such resource')
}
