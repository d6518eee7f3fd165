/** Rows of the store made directly, for tests below the ingest. */
import { createHash, randomBytes } from 'node:crypto'
import type { Db } from '../../gateway/db/db.ts'

/** A study with one series and these instances; counters as they should be. */
export async function insertStudy(
  db: Db,
  instances: readonly { sopInstanceUid: string; fileSha256: Buffer; sizeBytes: number }[],
): Promise<{ study: number; series: number }> {
  const id = (): string => createHash('sha1').update(randomBytes(8)).digest('hex')
  const uid = (): string => `2.25.${BigInt(`0x${randomBytes(8).toString('hex')}`)}`
  const patient = await db.kysely
    .insertInto('patients')
    .values({ patient_id: `TEST-${id()}`, orthanc_id: id() })
    .returning('id')
    .executeTakeFirstOrThrow()
  const study = await db.kysely
    .insertInto('studies')
    .values({
      patient: patient.id,
      study_instance_uid: uid(),
      orthanc_id: id(),
      instance_count: instances.length,
      size_bytes: instances.reduce((sum, instance) => sum + instance.sizeBytes, 0),
    })
    .returning('id')
    .executeTakeFirstOrThrow()
  const series = await db.kysely
    .insertInto('series')
    .values({ study: study.id, series_instance_uid: uid(), orthanc_id: id(), instance_count: instances.length })
    .returning('id')
    .executeTakeFirstOrThrow()
  for (const instance of instances) {
    await db.kysely
      .insertInto('instances')
      .values({
        series: series.id,
        sop_instance_uid: instance.sopInstanceUid,
        sop_class_uid: '1.2.840.10008.5.1.4.1.1.2',
        transfer_syntax_uid: '1.2.840.10008.1.2.1',
        orthanc_id: id(),
        file_sha256: instance.fileSha256,
        dataset_sha256: instance.fileSha256,
        size_bytes: instance.sizeBytes,
      })
      .execute()
  }
  return { study: study.id, series: series.id }
}
