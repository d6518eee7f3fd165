/**
 * Reads the attributes of resources anew from their files, as a later release reads more of them, or as somebody wants
 * to be sure. Identities do not change; what each level says is taken from its first instance, as at arrival.
 */
import { sql } from 'kysely'
import { authorize } from '../../policy/authorize.ts'
import { instancesAccessed, requestorOf } from '../audit/event.ts'
import { appendAudit } from '../audit/log.ts'
import type { Db, Tx } from '../db/db.ts'
import { type InstanceHeader, readInstanceHeader } from '../dicom/instance-header.ts'
import { GatewayError } from '../errors.ts'
import type { Principal } from '../principal.ts'
import type { Blobs } from '../store/blobs.ts'
import type { ResourceName } from './resource-metadata.ts'

/** Reads attributes anew. */
export interface Reconstruction {
  /**
   * All instances of a resource, or all there are; how many were read.
   *
   * @throws GatewayError NOT_FOUND, STORAGE_CORRUPT, DICOM_UNREADABLE; what was read until then stays
   */
  run(principal: Principal, resource: ResourceName | 'everything', signal: AbortSignal): Promise<number>
}

interface Row {
  readonly id: number
  readonly sopInstanceUid: string
  readonly fileSha256: Buffer
  readonly series: number
  readonly study: number
  readonly patient: number
  /** Is it the first instance of its series, study and patient? */
  readonly isFirst: { readonly series: boolean; readonly study: boolean; readonly patient: boolean }
}

const pageSize = 64
const keys = { patient: 'p', study: 's', series: 'c', instance: 'i' } as const

export function openReconstruction({ db, blobs }: { readonly db: Db; readonly blobs: Blobs }): Reconstruction {
  return {
    async run(principal, resource, signal) {
      authorize(principal, resource === 'everything' ? 'gateway.administer' : 'study.modify')
      let count = 0
      for (let after = 0; ; ) {
        signal.throwIfAborted()
        const rows = await loadPage(db, resource, after)
        if (rows.length === 0) break
        const headers = new Map<number, InstanceHeader>()
        for (const row of rows) headers.set(row.id, await readHeader(blobs, row))
        await db.inTransaction(async tx => {
          for (const row of rows) {
            const header = headers.get(row.id)
            if (header) await update(tx, row, header)
          }
        })
        count += rows.length
        after = rows.at(-1)?.id ?? after
      }
      if (count === 0 && resource !== 'everything') throw new GatewayError('NOT_FOUND', `no such ${resource.level}`)
      await db.inTransaction(tx => appendAudit(tx, eventOf(principal, resource, count)))
      return count
    },
  }
}

async function loadPage(db: Db, resource: ResourceName | 'everything', after: number): Promise<readonly Row[]> {
  const where =
    resource === 'everything'
      ? sql`true`
      : sql`${sql.ref(`${keys[resource.level]}.orthanc_id`)} = ${resource.orthancId}`
  const { rows } = await sql<Row>`
    select i.id, i.sop_instance_uid as "sopInstanceUid", i.file_sha256 as "fileSha256", c.id as series, s.id as study,
           p.id as patient, json_build_object(
             'series', not exists (select from instances o where o.series = c.id and o.id < i.id),
             'study', not exists (select from instances o join series x on x.id = o.series where x.study = s.id and o.id < i.id),
             'patient', not exists (select from instances o join series x on x.id = o.series join studies y on y.id = x.study
                                     where y.patient = p.id and o.id < i.id)) as "isFirst"
      from instances i join series c on c.id = i.series join studies s on s.id = c.study join patients p on p.id = s.patient
     where i.id > ${after} and ${where} order by i.id limit ${pageSize}
  `.execute(db.kysely)
  return rows
}

async function readHeader(blobs: Blobs, row: Row): Promise<InstanceHeader> {
  const blob = await blobs.open(row.fileSha256)
  try {
    const header = await readInstanceHeader(blob, { missingUids: 'derive' })
    if (header.sopInstanceUid !== row.sopInstanceUid) {
      throw new GatewayError('STORAGE_CORRUPT', 'a file holds another instance than its row says')
    }
    return header
  } finally {
    await blob.close()
  }
}

async function update(tx: Tx, { id, series, study, patient, isFirst }: Row, header: InstanceHeader): Promise<void> {
  const { attributes } = header
  const json = (value: object) => sql`${JSON.stringify(value)}::jsonb`
  await sql`update instances set attributes = ${json(attributes.instance)} where id = ${id}`.execute(tx)
  if (isFirst.series) {
    await sql`
      update series set attributes = ${json(attributes.series)}, modality = ${header.modality ?? null} where id = ${series}
    `.execute(tx)
  }
  if (isFirst.study) {
    await sql`
      update studies set attributes = ${json({ ...attributes.patient, ...attributes.study })},
             name_folded = ${header.nameFolded}, study_date = ${header.studyDate ?? null},
             study_time = ${header.studyTime ?? null}, accession_number = ${header.accessionNumber ?? null},
             study_description = ${header.studyDescription ?? null}
       where id = ${study}
    `.execute(tx)
  }
  if (isFirst.patient) {
    await sql`
      update patients set attributes = ${json(attributes.patient)}, name_folded = ${header.nameFolded},
             birth_date = ${header.patientBirthDate ?? null}, sex = ${header.patientSex ?? null}
       where id = ${patient}
    `.execute(tx)
  }
}

function eventOf(principal: Principal, resource: ResourceName | 'everything', count: number) {
  return instancesAccessed({
    action: 'R',
    reason: 'reconstructed',
    participants: [requestorOf(principal)],
    objects: [],
    detail:
      resource === 'everything'
        ? { instances: count }
        : { level: resource.level, resource: resource.orthancId, instances: count },
  })
}
