/** Overwriting: where a site has asked for it, as Orthanc lets it (`OverwriteInstances`), new content replaces the old. */
import { instancesAccessed } from '../audit/event.ts'
import { appendAudits } from '../audit/log.ts'
import type { RemovingTx } from '../db/db.ts'
import {
  deleteCondemned,
  findHoldingTransfers,
  findLegalHolds,
  loadCondemnedStudies,
  lockCondemned,
} from '../store/deletion.ts'
import type { Origin } from '../store/origin.ts'

/**
 * Deletes a stored instance whose place another one takes, with its audit event.
 *
 * @returns false where it must stay: a transfer has to send it, or a legal hold forbids it
 */
export async function giveWay(
  tx: RemovingTx,
  { orthancId, sopInstanceUid }: { readonly orthancId: string; readonly sopInstanceUid: string },
  { principal, remoteAddress }: Origin,
): Promise<boolean> {
  const condemned = { level: 'instance', orthancIds: [orthancId] } as const
  await lockCondemned(tx, condemned)
  if ((await findHoldingTransfers(tx, condemned)).length > 0) return false
  if ((await findLegalHolds(tx, condemned)).length > 0) return false
  const studies = await loadCondemnedStudies(tx, condemned)
  await deleteCondemned(tx, condemned, principal)
  await appendAudits(
    tx,
    studies.map(({ patientId, issuer, studyInstanceUid, sopClassUids }) =>
      instancesAccessed({
        action: 'D',
        reason: 'overwritten',
        participants: [
          { userId: principal, requestor: true, ...(remoteAddress !== undefined && { address: remoteAddress }) },
        ],
        objects: [
          { kind: 'patient', patientId, issuer },
          { kind: 'study', studyInstanceUid, sopClassUids, instanceCount: 1 },
          { kind: 'instance', sopInstanceUid },
        ],
      }),
    ),
  )
  return true
}
