/** Opens stored bytes for somebody: every opening is an audit event, committed before the first byte leaves. */
import { sql } from 'kysely'
import { instancesAccessed } from '../audit/event.ts'
import { appendAudit } from '../audit/log.ts'
import type { Db } from '../db/db.ts'
import { GatewayError } from '../errors.ts'
import type { Principal } from '../principal.ts'
import type { Blobs, OpenBlob } from '../store/blobs.ts'

/** An instance's Part 10 file, open; the caller closes `blob`. */
export interface OpenInstance {
  readonly sopInstanceUid: string
  readonly fileSha256: Buffer
  readonly blob: OpenBlob
}

/** Opens stored instances. */
export interface Retrieve {
  /** @throws GatewayError NOT_FOUND, STORAGE_CORRUPT */
  openInstance(principal: Principal, orthancId: string): Promise<OpenInstance>
}

interface Row {
  readonly sopInstanceUid: string
  readonly fileSha256: Buffer
  readonly studyInstanceUid: string
  readonly patientId: string
  readonly issuer: string
}

export function openRetrieve(options: { readonly db: Db; readonly blobs: Blobs }): Retrieve {
  const { db, blobs } = options
  return {
    async openInstance(principal, orthancId) {
      const { rows } = await sql<Row>`
        select i.sop_instance_uid as "sopInstanceUid", i.file_sha256 as "fileSha256",
               s.study_instance_uid as "studyInstanceUid", p.patient_id as "patientId", p.issuer
          from instances i
          join series c on c.id = i.series
          join studies s on s.id = c.study
          join patients p on p.id = s.patient
         where i.orthanc_id = ${orthancId}
      `.execute(db.kysely)
      const row = rows[0]
      if (!row) throw new GatewayError('NOT_FOUND', 'no such instance')
      const { sopInstanceUid, fileSha256, studyInstanceUid, patientId, issuer } = row
      await db.inTransaction(tx =>
        appendAudit(
          tx,
          instancesAccessed({
            action: 'R',
            participants: [
              { userId: principal.id, requestor: true, ...(principal.address && { address: principal.address }) },
            ],
            objects: [
              { kind: 'patient', patientId, issuer },
              { kind: 'study', studyInstanceUid, instanceCount: 1 },
              { kind: 'instance', sopInstanceUid, fileSha256: fileSha256.toString('hex') },
            ],
          }),
        ),
      )
      return { sopInstanceUid, fileSha256, blob: await blobs.open(fileSha256) }
    },
  }
}
