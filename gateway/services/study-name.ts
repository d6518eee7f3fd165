/** Finds the one study that a person named. */
import type { Db } from '../db/db.ts'
import { GatewayError } from '../errors.ts'
import { findStudies } from '../store/query.ts'

/**
 * A study by Orthanc id or Study Instance UID.
 *
 * @throws GatewayError NOT_FOUND; STATE_CONFLICT where several patients have a study of this UID
 */
export async function loadStudyNamed(
  db: Db,
  name: string,
): Promise<{ id: number; orthancId: string; studyInstanceUid: string }> {
  const [found, ...others] = await findStudies(db, name)
  if (!found) throw new GatewayError('NOT_FOUND', 'no such study: expected a Study Instance UID or an Orthanc id')
  if (others.length > 0) {
    const ids = [found, ...others].map(study => study.orthancId).join(', ')
    throw new GatewayError('STATE_CONFLICT', `several patients have a study of this UID: name one of ${ids}`)
  }
  return found
}
