/** What came from a peer is evaluated once it is visible, where a rule of the active policy names that origin. */
import { namesOrigin } from '../../policy/decide.ts'
import { loadActivePolicy } from '../../policy/versions.ts'
import type { Tx } from '../db/db.ts'
import type { Queue } from '../jobs/queue.ts'

/** Plans the evaluation of imported studies in the transaction that makes them visible. */
export async function routeImported(
  tx: Tx,
  queue: Pick<Queue, 'enqueue'>,
  imported: { readonly siteId: string; readonly studies: readonly { readonly studyInstanceUid: string }[] },
): Promise<void> {
  const policy = await loadActivePolicy(tx)
  if (!policy?.document.rules.some(namesOrigin) || imported.studies.length === 0) return
  const rows = await tx
    .selectFrom('studies')
    .innerJoin('patients', 'patients.id', 'studies.patient')
    .select('studies.id')
    .where('patients.issuer', '=', imported.siteId)
    .where(
      'studies.study_instance_uid',
      'in',
      imported.studies.map(study => study.studyInstanceUid),
    )
    .execute()
  for (const { id } of rows) {
    await queue.enqueue(tx, 'evaluate-study', { study: id, part: 'imported' }, { singletonKey: String(id) })
  }
}
