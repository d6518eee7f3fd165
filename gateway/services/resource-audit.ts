/** The audit event of something that was said of a resource, or read of it. */
import { type AuditEvent, instancesAccessed, requestorOf } from '../audit/event.ts'
import { appendAudit } from '../audit/log.ts'
import type { Tx } from '../db/db.ts'
import type { Principal } from '../principal.ts'
import { loadSubject, type ResourceRow } from '../store/hierarchy.ts'

/** Appends it in the transaction of the deed. */
export async function auditResource(
  tx: Tx,
  principal: Principal,
  resource: ResourceRow,
  deed: { readonly action: 'R' | 'U' | 'D'; readonly reason: string; readonly detail?: AuditEvent['detail'] },
): Promise<void> {
  const { patientId, issuer, studyInstanceUid, sopInstanceUid } = await loadSubject(tx, resource)
  await appendAudit(
    tx,
    instancesAccessed({
      action: deed.action,
      reason: deed.reason,
      participants: [requestorOf(principal)],
      objects: [
        { kind: 'patient', patientId, issuer },
        ...(studyInstanceUid === null ? [] : [{ kind: 'study', studyInstanceUid } as const]),
        ...(sopInstanceUid === null ? [] : [{ kind: 'instance', sopInstanceUid } as const]),
      ],
      detail: { level: resource.level, ...deed.detail },
    }),
  )
}
