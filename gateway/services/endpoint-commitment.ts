/**
 * Storage commitment (DICOM PS3.4 Annex J) as the proof that an endpoint has what it took by C-STORE: the delivery is
 * acknowledged when it has committed to every object, and what it has not committed to is sent again.
 */
import type { Db, Tx } from '../db/db.ts'
import { GatewayError } from '../errors.ts'
import { countSteps, reopenUncommitted, takeCommitments } from './archive-rows.ts'
import type { Commitments } from './commitment.ts'
import type { Endpoint } from './endpoint.ts'
import { dimseTarget, type ObjectParts } from './endpoint-objects.ts'
import type { Bound, EndpointOutcomes } from './endpoint-outcomes.ts'
import type { EndpointObject } from './endpoint-transfer-rows.ts'
import type { Endpoints } from './endpoints.ts'
import type { ModalityTarget } from './modality-target.ts'
import { addStep } from './transfer-steps.ts'

/** So often what an endpoint would not commit to is sent again before a person is asked. */
const mostResends = 3
const prefix = 'endpoint:'

/** Does this endpoint prove what it has? */
export const commits = ({ settings }: Pick<Endpoint, 'settings'>): boolean =>
  settings.kind === 'dimse' && settings.commitment

/** Asks for it, in the transaction that says that all objects are there. */
export async function askEndpoint(
  tx: Tx,
  commitments: Pick<Commitments, 'ask'>,
  { row, to }: Bound,
  objects: readonly EndpointObject[],
): Promise<void> {
  const instances = objects.map(({ sopClassUid, sopInstanceUid }) => ({ sopClassUid, sopInstanceUid }))
  await commitments.ask(tx, { aeTitle: `${prefix}${to}`, transfer: row.id, instances, expiresAt: row.expiresAt })
  await addStep(tx, row.id, 'commitment-requested', { instances: instances.length })
}

/** Looks at the endpoint's answers. */
export async function settleEndpoint(db: Db, outcomes: EndpointOutcomes, bound: Bound): Promise<void> {
  const { row } = bound
  const { unarchived, open, abandoned } = await db.inTransaction(tx => takeCommitments(tx, row.id))
  if (unarchived === 0) return await outcomes.committed(bound)
  if (open > 0) return
  if (abandoned > 0) return await outcomes.unanswered(bound, undefined)
  const resends = await countSteps(db.kysely, row.id, 'not-committed')
  const message = `the endpoint has not committed to ${unarchived} of ${row.objectCount} instances`
  const isOver = resends >= mostResends
  await outcomes.uncommitted(bound, new GatewayError('ENDPOINT_REJECTED', message), isOver ? undefined : resends, tx =>
    reopenUncommitted(tx, row.id),
  )
}

/** How the other side of one of our commitments is called, where it is an endpoint. @throws GatewayError NOT_FOUND */
export function commitmentNodes(
  parts: Pick<ObjectParts, 'credentials' | 'aeTitle'>,
  modalities: { target(aeTitle: string): ModalityTarget },
  endpoints: () => Pick<Endpoints, 'open'>,
): { target(aeTitle: string): Promise<ModalityTarget> } {
  return {
    async target(aeTitle) {
      if (!aeTitle.startsWith(prefix)) return modalities.target(aeTitle)
      const { endpoint, secrets } = await endpoints().open(aeTitle.slice(prefix.length))
      if (endpoint.settings.kind === 'dimse') return dimseTarget(parts, endpoint.name, endpoint.settings, secrets)
      throw new GatewayError('NOT_FOUND', 'no endpoint for C-STORE has this name')
    },
  }
}
