/** A person hands in what a recipient has said of a delivery, such as the confirmation of a web portal. */
import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { authorize } from '../../policy/authorize.ts'
import { eventTypes, requestorOf, securityAlert } from '../audit/event.ts'
import { appendAudit } from '../audit/log.ts'
import type { Db } from '../db/db.ts'
import { GatewayError } from '../errors.ts'
import type { Principal } from '../principal.ts'
import { type AcknowledgementParts, keepFile } from './endpoint-answers.ts'
import type { EndpointOutcomes } from './endpoint-outcomes.ts'
import { loadDelivery } from './endpoint-transfer-rows.ts'
import { loadOutbound, lockState } from './outbound-rows.ts'

/** What a person says. */
export interface Confirmation {
  readonly outcome: 'accepted' | 'rejected'
  readonly reason: string
  readonly fileName: string
  /** The recipient's own document. */
  readonly bytes: Uint8Array
}

/** Most bytes of a confirmation. */
export const mostConfirmationBytes = 8 * 1024 * 1024

/** Takes confirmations. */
export interface Acknowledging {
  /**
   * Attaches a confirmation to a delivery, which ends with it.
   *
   * @throws GatewayError NOT_FOUND, STATE_CONFLICT unless it is delivered, TOO_LARGE, STORAGE_FULL, STORAGE_IO
   */
  acknowledge(principal: Principal, transfer: string, said: Confirmation): Promise<void>
}

export function openAcknowledging(
  parts: AcknowledgementParts & {
    readonly db: Db
    readonly outcomes: Pick<EndpointOutcomes, 'acknowledged'>
    readonly handDir: string
  },
): Acknowledging {
  const { db, outcomes, handDir } = parts
  return {
    async acknowledge(principal, transfer, { outcome, reason, fileName, bytes }) {
      authorize(principal, 'endpoint.acknowledge')
      if (bytes.length > mostConfirmationBytes)
        throw new GatewayError('TOO_LARGE', `expected a confirmation of at most ${mostConfirmationBytes} bytes`)
      const row = await loadOutbound(db.kysely, transfer)
      const delivery = row && (await loadDelivery(db.kysely, transfer))
      if (!row || !delivery) throw new GatewayError('NOT_FOUND', 'no transfer to an endpoint has this id')
      const kept = await keepFile(parts, bytes)
      await db.inTransaction(async tx => {
        if ((await lockState(tx, transfer)) !== 'delivered')
          throw new GatewayError('STATE_CONFLICT', 'only a transfer that is delivered, and not acknowledged, can be')
        const said = { outcome, reason, fileName, ...kept, takenBy: principal.id }
        await outcomes.acknowledged(tx, { row, to: delivery.endpoint }, said)
        await appendAudit(
          tx,
          securityAlert({
            type: eventTypes.restrictedFunction,
            participants: [requestorOf(principal)],
            reason: `acknowledgement-${outcome}`,
            objects: [{ kind: 'transfer', transferId: transfer }],
            detail: { sha256: kept.fileSha256.toString('hex'), bytes: kept.sizeBytes },
          }),
        )
      })
      // What a person has carried away is not needed any more.
      await rm(join(handDir, transfer), { recursive: true, force: true })
    },
  }
}
