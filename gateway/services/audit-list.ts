/** Reading the audit log for people: newest first, each reading itself an event (DICOM PS3.15 §A.5.3.2). */

import { sql } from 'kysely'
import { authorize } from '../../policy/authorize.ts'
import { auditLogUsed, requestorOf } from '../audit/event.ts'
import { appendAudit } from '../audit/log.ts'
import type { Db } from '../db/db.ts'
import type { Principal } from '../principal.ts'

export interface AuditRecord {
  readonly id: number
  readonly at: Date
  /** Place in the Merkle log; null until the sequencer has come by. */
  readonly leafIndex: number | null
  /** Hex SHA-256 over salt and payload. */
  readonly commitment: string
  /** The event; null when its record was erased. */
  readonly event: unknown
}

/** A page of events, newest first; `before` is the id of the last one seen. */
export async function listAudit(
  db: Db,
  principal: Principal,
  options: { readonly before?: number; readonly limit: number },
): Promise<AuditRecord[]> {
  authorize(principal, 'audit.read')
  return await db.inTransaction(async tx => {
    const older = options.before === undefined ? sql`true` : sql`e.id < ${options.before}`
    const { rows } = await sql<Omit<AuditRecord, 'event'> & { payload: string | null }>`
      select e.id, e.at, l.leaf_index as "leafIndex", encode(e.commitment, 'hex') as commitment, e.payload
        from audit_events e left join audit_leaves l on l.event = e.id
       where ${older} order by e.id desc limit ${options.limit}
    `.execute(tx)
    await appendAudit(
      tx,
      auditLogUsed({
        participants: [requestorOf(principal)],
        detail: { events: rows.length },
      }),
    )
    return rows.map(({ payload, ...row }) => ({ ...row, event: payload === null ? null : parse(payload) }))
  })
}

/** A payload that was tampered with need not be JSON: show it as text. */
function parse(payload: string): unknown {
  try {
    return JSON.parse(payload)
  } catch {
    return payload
  }
}
