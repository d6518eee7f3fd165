/** What somebody chose for a visit, as the store has it now: what the protocol check is told, and what is sent. */
import { createHash } from 'node:crypto'
import { sql } from 'kysely'
import type { ChosenStudy } from '../../policy/protocol-check.ts'
import type { Tx } from '../db/db.ts'
import { GatewayError } from '../errors.ts'
import type { PatientName } from './consents.ts'

/** A chosen study with its chosen series. */
export interface Chosen extends ChosenStudy {
  /** The study's row. */
  readonly study: number
  readonly studyInstanceUid: string
  readonly patient: PatientName
  /** SOP Instance UIDs; the first of each series comes first. */
  readonly instances: ReadonlySet<string>
  readonly firstOfSeries: readonly string[]
  /** Over UIDs and digests: anything that comes, goes or changes makes another one. */
  readonly sha256: Buffer
}

interface SeriesRow {
  readonly uid: string
  readonly number: string | null
  readonly modality: string | null
  readonly bodyPart: string | null
  readonly description: string | null
  readonly thinnest: number | null
  readonly thickest: number | null
  readonly unknown: number
  readonly images: number
  readonly instances: readonly string[]
  readonly digests: readonly string[]
}

/** Text of a number, or nothing: what is stored may be anything. */
const thickness = sql`case when i.t ~ '^[0-9]{1,6}([.][0-9]{1,6})?$' then i.t::float8 end`

/**
 * @param series  Series Instance UIDs; all when undefined
 * @throws GatewayError NOT_FOUND when the study or a series of it is not there
 */
export async function loadChosen(tx: Tx, study: number, series: readonly string[] | undefined): Promise<Chosen> {
  const row = await tx
    .selectFrom('studies')
    .innerJoin('patients', 'patients.id', 'studies.patient')
    .select(['study_instance_uid', 'study_date', 'issuer', 'patient_id'])
    .where('studies.id', '=', study)
    .executeTakeFirst()
  if (!row) throw new GatewayError('NOT_FOUND', 'a chosen study is not there any more')
  const { rows } = await sql<SeriesRow>`
    select c.series_instance_uid as uid, c.attributes #>> '{00200011,Value,0}' as number, c.modality,
           c.attributes #>> '{00180015,Value,0}' as "bodyPart", c.attributes #>> '{0008103E,Value,0}' as description,
           min(${thickness}) as thinnest, max(${thickness}) as thickest,
           (count(*) filter (where ${thickness} is null))::integer as unknown,
           sum(case when i.frames ~ '^[0-9]{1,6}$' then i.frames::integer else 1 end)::integer as images,
           array_agg(i.uid order by i.uid) as instances, array_agg(i.sha256 order by i.uid) as digests
      from series c
      join lateral (
        select sop_instance_uid as uid, encode(file_sha256, 'hex') as sha256,
               attributes #>> '{00280008,Value,0}' as frames,
               coalesce(attributes #>> '{00180050,Value,0}',
                        attributes #>> '{52009229,Value,0,00289110,Value,0,00180050,Value,0}') as t
          from instances where instances.series = c.id) i on true
     where c.study = ${study} and (${series === undefined} or c.series_instance_uid = any(${series ?? []}::text[]))
     group by c.id order by c.id`.execute(tx)
  if (rows.length === 0 || (series !== undefined && rows.length < new Set(series).size))
    throw new GatewayError('NOT_FOUND', 'a chosen series is not there, or not in the chosen study')
  const lines = rows.flatMap(({ instances, digests }) => instances.map((uid, index) => `${uid} ${digests[index]}\n`))
  return {
    study,
    studyInstanceUid: row.study_instance_uid,
    patient: { issuer: row.issuer, patientId: row.patient_id },
    date: row.study_date ?? undefined,
    series: rows.map((each, index) => ({
      seriesInstanceUid: each.uid,
      number: each.number ?? `in place ${index + 1}`,
      modality: each.modality ?? '',
      bodyPart: each.bodyPart ?? undefined,
      description: each.description ?? undefined,
      sliceThickness:
        each.unknown > 0 || each.thinnest === null || each.thickest === null
          ? undefined
          : { min: each.thinnest, max: each.thickest },
      images: each.images,
    })),
    instances: new Set(rows.flatMap(({ instances }) => instances)),
    firstOfSeries: rows.flatMap(({ instances: [first] }) => (first === undefined ? [] : [first])),
    sha256: createHash('sha256').update(lines.sort().join('')).digest(),
  }
}
