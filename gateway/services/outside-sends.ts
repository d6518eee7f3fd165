/**
 * What a person sends out of the hospital goes by transfers: each with its recorded decision, carried by the
 * lanes, and visible where transfers are. Here they are planned and waited for.
 */

import { setTimeout as delay } from 'node:timers/promises'
import { sql } from 'kysely'
import { authorize } from '../../policy/authorize.ts'
import type { Db } from '../db/db.ts'
import type { TransferState } from '../db/schema.ts'
import { GatewayError } from '../errors.ts'
import type { Principal } from '../principal.ts'
import { belowResources } from './retrieve-plan.ts'
import type { Routing } from './routing.ts'

/** Plans transfers of resources and waits for them. */
export interface OutsideSends {
  /**
   * One transfer for each study, of just the named resources; resolves when all have arrived. They go on when the
   * signal aborts: nobody waits then.
   *
   * @param to.modality   symbolic name; the active policy must have a destination of this name
   * @param resources     Orthanc ids of any level
   * @throws GatewayError POLICY_DENIED, NOT_FOUND, and REMOTE_STATUS when one is held, refused, cancelled or expired
   */
  send(
    principal: Principal,
    to: { readonly modality: string },
    resources: readonly string[],
    signal: AbortSignal,
  ): Promise<void>
}

const lookEveryMs = 300
const arrived: ReadonlySet<TransferState> = new Set(['delivered', 'archived', 'receipted'])
const stopped: ReadonlySet<TransferState> = new Set(['held', 'refused', 'cancelled', 'expired'])

export function openOutsideSends({
  db,
  routing,
}: {
  readonly db: Db
  readonly routing: Pick<Routing, 'send'>
}): OutsideSends {
  return {
    async send(principal, { modality }, resources, signal) {
      authorize(principal, 'study.send')
      const transfers: string[] = []
      for (const { study, sopInstanceUids } of await byStudy(db, resources)) {
        transfers.push(
          await routing.send({
            study,
            destination: modality,
            isModality: true,
            only: new Set(sopInstanceUids),
            purpose: 'manual',
            priority: 'normal',
            principal,
          }),
        )
      }
      for (;;) {
        const { rows } = await sql<{ id: string; state: TransferState }>`
          select id, state from transfers where id = any(${transfers}::uuid[])
        `.execute(db.kysely)
        const problem = rows.find(({ state }) => stopped.has(state))
        if (problem) throw new GatewayError('REMOTE_STATUS', `transfer ${problem.id} is ${problem.state}`)
        if (rows.every(({ state }) => arrived.has(state))) return
        await delay(lookEveryMs, undefined, { signal })
      }
    },
  }
}

async function byStudy(
  db: Db,
  resources: readonly string[],
): Promise<{ readonly study: number; readonly sopInstanceUids: readonly string[] }[]> {
  const { rows } = await sql<{ study: number; sopInstanceUids: readonly string[] }>`
    select c.study, array_agg(i.sop_instance_uid order by i.id) as "sopInstanceUids"
      from instances i join series c on c.id = i.series
     where ${belowResources(resources)}
     group by c.study order by c.study
  `.execute(db.kysely)
  return rows
}
