/**
 * Erases the content of an audit record, as a person's right to erasure may demand. The commitment and
 * its leaf stay, so the log still verifies; with the salt gone, the commitment tells nothing.
 */
import { sql } from 'kysely'
import type { Tx } from '../db/db.ts'
import { GatewayError } from '../errors.ts'
import { eventTypes, securityAlert } from './event.ts'
import { appendAudit } from './log.ts'

/**
 * Erases salt and payload of one event, and records that, by whom and why, in the same transaction.
 * False when it was erased before.
 *
 * @param reason  a stable word, not free text
 * @throws GatewayError NOT_FOUND; STATE_CONFLICT for the record of an erasure, which must stay
 */
export async function eraseRecord(
  tx: Tx,
  options: { eventId: number; principal: string; reason: string },
): Promise<boolean> {
  const { eventId, principal, reason } = options
  const { rows } = await sql<{ payload: string | null }>`
    select payload from audit_events where id = ${eventId} for no key update
  `.execute(tx)
  const record = rows[0]
  if (!record) throw new GatewayError('NOT_FOUND', 'no such audit event', { context: { event: eventId } })
  if (record.payload === null) return false
  if (erasedBy(record.payload) !== undefined) {
    throw new GatewayError('STATE_CONFLICT', 'the record of an erasure cannot be erased', {
      context: { event: eventId },
    })
  }
  await sql`update audit_events set salt = null, payload = null where id = ${eventId}`.execute(tx)
  await appendAudit(
    tx,
    securityAlert({
      type: eventTypes.restrictedFunction,
      participants: [{ userId: principal, requestor: true }],
      objects: [{ kind: 'audit-record', eventId }],
      reason,
    }),
  )
  return true
}

/** The id of the event whose erasure this payload records; undefined when it records something else. */
export function erasedBy(payload: string): number | undefined {
  if (!payload.includes('"audit-record"')) return undefined
  try {
    const event: unknown = JSON.parse(payload)
    if (typeof event !== 'object' || event === null || !('objects' in event) || !Array.isArray(event.objects)) {
      return undefined
    }
    const record: unknown = event.objects.find(object => object?.kind === 'audit-record')
    if (typeof record !== 'object' || record === null || !('eventId' in record)) return undefined
    return typeof record.eventId === 'number' ? record.eventId : undefined
  } catch {
    return undefined
  }
}
