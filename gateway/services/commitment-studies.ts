/** Which stored studies the instances of a commitment belong to, for the audit log. */
import { sql } from 'kysely'
import type { AuditObject } from '../audit/event.ts'
import type { Tx } from '../db/db.ts'

/** The most studies that one event names; a modality's request has one, or a few. */
const mostStudies = 100

/** One object for each study with the number of its instances; those that are not stored are in none. */
export async function loadStudiesOf(tx: Tx, commitment: string): Promise<AuditObject[]> {
  const { rows } = await sql<{ study: string; instances: number }>`
    select s.study_instance_uid as study, count(*)::integer as instances
      from commitment_items c
      join instances i on i.sop_instance_uid = c.sop_instance_uid
      join series e on e.id = i.series
      join studies s on s.id = e.study
     where c.commitment = ${commitment}
     group by s.study_instance_uid order by 1 limit ${mostStudies}`.execute(tx)
  return rows.map(row => ({ kind: 'study', studyInstanceUid: row.study, instanceCount: row.instances }))
}
