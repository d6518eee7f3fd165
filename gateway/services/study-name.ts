/** Finds the one study that a person named. */
import type { Db } from '../db/db.ts'
import { GatewayError } from '../errors.ts'
import { findStudies } from '../store/query.ts'
import type { PatientName } from './consents.ts'

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

/**
 * The patient whom a person named, or whose study was named.
 *
 * @throws GatewayError BAD_REQUEST unless it is exactly one of both; as `loadStudyNamed`
 */
export async function loadPatientOf(
  db: Db,
  named: { readonly patient: PatientName | undefined; readonly study: string | undefined },
): Promise<PatientName> {
  const { patient, study } = named
  if ((patient === undefined) === (study === undefined))
    throw new GatewayError('BAD_REQUEST', 'expected either a patient or a study')
  if (patient !== undefined) return patient
  const { id } = await loadStudyNamed(db, study ?? '')
  const row = await db.kysely
    .selectFrom('studies')
    .innerJoin('patients', 'patients.id', 'studies.patient')
    .select(['patients.issuer', 'patients.patient_id as patientId'])
    .where('studies.id', '=', id)
    .executeTakeFirst()
  if (!row) throw new GatewayError('NOT_FOUND', 'no such study')
  return row
}
