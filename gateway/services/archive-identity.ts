/** With which identifiers a patient of another site goes to the archive, as the rule asks. */
import type { Db } from '../db/db.ts'
import type { Coercion } from '../dicom/coerce.ts'
import { GatewayError } from '../errors.ts'
import type { ArchiveRow } from './archive-rows.ts'
import { findPatientLink } from './patient-links.ts'

const patientName = 0x00100010
const patientId = 0x00100020
const issuerOfPatientId = 0x00100021
/** Of LO, PS3.5 §6.2. */
const maxIdCharacters = 64

/**
 * The new values; none for the site's own patients, and where the rule asks for nothing.
 *
 * @throws GatewayError PATIENT_UNLINKED when a person has to link the patient first, BAD_REQUEST when the new
 *   Patient ID would be too long
 */
export async function coercionFor(db: Db, row: ArchiveRow): Promise<Coercion> {
  const { terms, patient } = row
  const { identifiers } = terms
  if (!identifiers || !patient || patient.issuer === '') return new Map()
  if (identifiers.linked) {
    const link = await findPatientLink(db.kysely, patient)
    if (!link) {
      throw new GatewayError('PATIENT_UNLINKED', 'nobody has linked this patient of another site to one of the archive')
    }
    return valuesOf([
      [patientName, link.archiveName],
      [patientId, link.archivePatientId],
      [issuerOfPatientId, link.archiveIssuer],
    ])
  }
  const { prefix, issuer } = identifiers
  const id = `${prefix ?? ''}${patient.patientId}`
  if (id.length > maxIdCharacters) throw new GatewayError('BAD_REQUEST', 'the Patient ID with its prefix is too long')
  return valuesOf([
    [patientId, prefix === undefined ? undefined : id],
    [issuerOfPatientId, issuer],
  ])
}

const valuesOf = (given: readonly (readonly [number, string | null | undefined])[]): Coercion =>
  new Map(given.flatMap(([tag, value]) => (value == null ? [] : [[tag, value] as const])))
