/** Reads the data sets of resources for somebody: one audit event for each study, before anything is told. */

import { sql } from 'kysely'
import { authorize } from '../../policy/authorize.ts'
import { instancesAccessed, requestorOf } from '../audit/event.ts'
import { appendAudits } from '../audit/log.ts'
import type { Db } from '../db/db.ts'
import type { ByteSource } from '../dicom/byte-source.ts'
import { type Part10, type ReadOptions, readPart10 } from '../dicom/part10-reader.ts'
import { GatewayError } from '../errors.ts'
import type { Principal } from '../principal.ts'
import type { Blobs } from '../store/blobs.ts'
import { findResource, levelOrder } from '../store/hierarchy.ts'
import type { Level } from '../store/query.ts'

/** One instance, read. */
export interface ReadInstance {
  readonly orthancId: string
  readonly file: Part10
  /** The bytes that `file` was read from; closed when the next instance is asked for. */
  readonly source: ByteSource
}

/** Reads instances. */
export interface ResourceDatasets {
  /**
   * The instances of a resource in order of arrival, one at a time.
   *
   * @param resource  without a level that of any level
   * @param limit  at most so many
   * @throws GatewayError NOT_FOUND, STORAGE_CORRUPT, DICOM_UNREADABLE
   */
  read(
    principal: Principal,
    resource: { readonly level?: Level; readonly orthancId: string },
    options?: ReadOptions & { readonly limit?: number },
  ): AsyncGenerator<ReadInstance, void, void>
}

interface StudyRow {
  readonly studyInstanceUid: string
  readonly patientId: string
  readonly issuer: string
  readonly ids: readonly number[]
}

/** A list of ids is bounded by what one resource may hold: a patient of a million instances is no reading matter. */
const mostInstances = 100_000
const pageSize = 100

export function openResourceDatasets({ db, blobs }: { readonly db: Db; readonly blobs: Blobs }): ResourceDatasets {
  return {
    async *read(principal, { level, orthancId }, options = {}) {
      authorize(principal, 'study.read')
      const { limit = mostInstances, ...reading } = options
      const found = level ?? (await levelOf(db, orthancId))
      const studies = found === undefined ? [] : await loadStudies(db, found, orthancId, limit)
      if (studies.length === 0) throw new GatewayError('NOT_FOUND', `no such ${level ?? 'resource'}`)
      await db.inTransaction(tx =>
        appendAudits(
          tx,
          studies.map(({ patientId, issuer, studyInstanceUid, ids }) =>
            instancesAccessed({
              action: 'R',
              participants: [requestorOf(principal)],
              objects: [
                { kind: 'patient', patientId, issuer },
                { kind: 'study', studyInstanceUid, instanceCount: ids.length },
              ],
            }),
          ),
        ),
      )
      const ids = studies.flatMap(study => study.ids)
      for (let at = 0; at < ids.length; at += pageSize) {
        for (const instance of await loadPage(db, ids.slice(at, at + pageSize))) {
          const blob = await blobs.open(instance.fileSha256)
          try {
            yield { orthancId: instance.orthancId, file: await readPart10(blob, reading), source: blob }
          } finally {
            await blob.close()
          }
        }
      }
    },
  }
}

async function levelOf(db: Db, orthancId: string): Promise<Level | undefined> {
  for (const level of levelOrder) if (await findResource(db, level, orthancId)) return level
  return undefined
}

async function loadStudies(db: Db, level: Level, orthancId: string, limit: number): Promise<StudyRow[]> {
  const key = { patient: 'p', study: 's', series: 'c', instance: 'i' }[level]
  const { rows } = await sql<StudyRow>`
    select study_instance_uid as "studyInstanceUid", patient_id as "patientId", issuer,
           array_agg(id order by id)::float8[] as ids
      from (
        select s.id as study, s.study_instance_uid, p.patient_id, p.issuer, i.id
          from patients p join studies s on s.patient = p.id join series c on c.study = s.id
          join instances i on i.series = c.id
         where ${sql.ref(`${key}.orthanc_id`)} = ${orthancId}
         order by i.id limit ${limit}
      ) instance
     group by study, study_instance_uid, patient_id, issuer order by study
  `.execute(db.kysely)
  return rows
}

async function loadPage(db: Db, ids: readonly number[]): Promise<{ orthancId: string; fileSha256: Buffer }[]> {
  const { rows } = await sql<{ orthancId: string; fileSha256: Buffer }>`
    select i.orthanc_id as "orthancId", i.file_sha256 as "fileSha256"
      from unnest(${ids}::bigint[]) with ordinality as wanted (id, place)
      join instances i on i.id = wanted.id order by wanted.place
  `.execute(db.kysely)
  return rows
}
