/** The instances below resources of the store, by Orthanc id: what a person asks commitment for. */
import { sql } from 'kysely'
import type { Db } from '../db/db.ts'
import { GatewayError } from '../errors.ts'
import type { InstanceReference } from './commitment-rows.ts'

/**
 * The instances of patients, studies, series and instances, each once.
 *
 * @throws GatewayError NOT_FOUND when one of the ids is nobody's
 */
export async function findReferences(db: Db, orthancIds: readonly string[]): Promise<InstanceReference[]> {
  if (orthancIds.length === 0) return []
  const { rows } = await sql<InstanceReference & { readonly found: string[] }>`
    select i.sop_class_uid as "sopClassUid", i.sop_instance_uid as "sopInstanceUid",
           array[p.orthanc_id, s.orthanc_id, e.orthanc_id, i.orthanc_id] as found
      from instances i join series e on e.id = i.series join studies s on s.id = e.study
      join patients p on p.id = s.patient
     where i.orthanc_id = any(${orthancIds}::text[]) or e.orthanc_id = any(${orthancIds}::text[])
        or s.orthanc_id = any(${orthancIds}::text[]) or p.orthanc_id = any(${orthancIds}::text[])
     order by i.id`.execute(db.kysely)
  const found = new Set(rows.flatMap(row => row.found))
  if (!orthancIds.every(id => found.has(id))) throw new GatewayError('NOT_FOUND', 'no such resource')
  return rows.map(({ sopClassUid, sopInstanceUid }) => ({ sopClassUid, sopInstanceUid }))
}
