/** Takes an instance out of the hierarchy, its counters included. Bytes stay: the sweeper decides about them. */
import { type RawBuilder, sql } from 'kysely'
import type { RemovingTx, Tx } from '../db/db.ts'
import { type NewChange, recordChanges } from './changes.ts'
import type { Level } from './query.ts'

/** An instance's row, locked for its removal. */
export interface RemovableInstance {
  readonly id: number
  readonly series: number
  readonly study: number
  readonly patient: number
  readonly sopClassUid: string
  readonly transferSyntaxUid: string
  readonly fileSha256: Buffer
  readonly datasetSha256: Buffer
  readonly sizeBytes: number
  readonly origin: unknown
}

/** Loads and locks an instance with its ancestors, in the order in which ingest writes them. */
export async function loadForReplacement(tx: Tx, sopInstanceUid: string): Promise<RemovableInstance | undefined> {
  const { rows } = await sql<RemovableInstance>`
    select i.id, i.series, s.id as study, s.patient, i.sop_class_uid as "sopClassUid",
           i.transfer_syntax_uid as "transferSyntaxUid", i.file_sha256 as "fileSha256",
           i.dataset_sha256 as "datasetSha256", i.size_bytes as "sizeBytes", i.origin
      from instances i join series c on c.id = i.series join studies s on s.id = c.study
      join patients p on p.id = s.patient
     where i.sop_instance_uid = ${sopInstanceUid}
       for update
  `.execute(tx)
  return rows[0]
}

/**
 * Deletes an instance. Ancestors that it leaves empty go too, except a study that transfers name:
 * their record must stay readable.
 */
export async function removeInstance(tx: RemovingTx, instance: RemovableInstance): Promise<void> {
  const { id, series, study, patient, sizeBytes } = instance
  const gone: NewChange[] = []
  const remove = async (level: Level, statement: RawBuilder<{ id: string }>): Promise<void> => {
    const { rows } = await statement.execute(tx)
    gone.push(...rows.map(row => ({ kind: 'Deleted', level, orthancId: row.id }) as const))
  }
  await remove('instance', sql`delete from instances where id = ${id} returning orthanc_id as id`)
  await sql`
    update studies set instance_count = instance_count - 1, size_bytes = size_bytes - ${sizeBytes}, updated_at = now()
     where id = ${study}
  `.execute(tx)
  await sql`update series set instance_count = instance_count - 1, updated_at = now() where id = ${series}`.execute(tx)
  await remove('series', sql`delete from series where id = ${series} and instance_count = 0 returning orthanc_id as id`)
  await remove(
    'study',
    sql`
      delete from studies s where id = ${study} and instance_count = 0
         and not exists (select 1 from transfers t where t.study = s.id)
      returning orthanc_id as id`,
  )
  await remove(
    'patient',
    sql`
      delete from patients p where id = ${patient} and not exists (select 1 from studies s where s.patient = p.id)
      returning orthanc_id as id`,
  )
  await recordChanges(tx, gone)
}
