/**
 * What policy is told of studies: the values of their patient, study and series attributes by DICOM keyword, and what the
 * gateway itself knows. Facts of what came from peers, or was fetched, are kept apart from the rest, because they trigger
 * nothing unless a rule names that origin. Many studies are asked for in the same few statements as one.
 */
import { type Kysely, sql } from 'kysely'
import type { Facts } from '../../policy/conditions.ts'
import { foreignOrigins, quietPurposes } from '../../policy/decide.ts'
import type { Tx } from '../db/db.ts'
import type { Schema } from '../db/schema.ts'
import { isObject } from '../decode.ts'
import { FactCollector } from './fact-collector.ts'
import { timeFacts } from './time-facts.ts'

/** An instance as it would be sent. */
export interface SnapshotItem {
  readonly sopInstanceUid: string
  readonly sopClassUid: string
  readonly transferSyntaxUid: string
  readonly sizeBytes: number
  readonly fileSha256: Buffer
  readonly peerId: string | undefined
  readonly callingAe: string | undefined
}

/** One study with its instances of one origin class. */
export interface StudySnapshot {
  readonly study: number
  readonly studyInstanceUid: string
  readonly domain: string
  readonly patientId: string
  readonly issuer: string
  readonly facts: Facts
  readonly items: readonly SnapshotItem[]
}

/**
 * Instances of one origin class: `imported` came from peers, `fetched` were fetched or moved here by the gateway itself
 * (`quietPurposes`), `local` are the others.
 */
export type OriginClass = 'local' | 'imported' | 'fetched'
export const originClasses: readonly OriginClass[] = ['local', 'imported', 'fetched']

/** SQL for the class of an instance. */
const originClass = sql<OriginClass>`case when instances.origin ->> 'kind' = any(${[...foreignOrigins]}) then 'imported'
  when instances.origin ->> 'purpose' = any(${[...quietPurposes]}) then 'fetched' else 'local' end`

/** What is known of a study's instances of one class, or of all. */
export interface StudyFacts {
  readonly study: number
  readonly studyInstanceUid: string
  readonly domain: string
  readonly patientId: string
  readonly issuer: string
  readonly origin: OriginClass | 'all'
  readonly facts: Facts
}

/** Loads a study with its instances of one origin class, or with all; undefined when it has none. */
export async function loadSnapshot(
  tx: Tx,
  studyId: number,
  which: OriginClass | 'all',
): Promise<StudySnapshot | undefined> {
  const all = await loadFacts(tx, [studyId], { at: new Date(), by: which === 'all' ? 'study' : 'class' })
  const known = all.find(({ origin }) => origin === which)
  if (!known) return undefined
  const rows = await tx
    .selectFrom('instances')
    .innerJoin('series', 'series.id', 'instances.series')
    .select([
      'sop_instance_uid',
      'sop_class_uid',
      'transfer_syntax_uid',
      'size_bytes',
      'file_sha256',
      'instances.origin as origin',
    ])
    .where('series.study', '=', studyId)
    .$if(which !== 'all', query => query.where(sql<boolean>`${originClass} = ${which}`))
    .orderBy('series.series_instance_uid')
    .orderBy('sop_instance_uid')
    .execute()
  return {
    ...known,
    items: rows.map(row => ({
      sopInstanceUid: row.sop_instance_uid,
      sopClassUid: row.sop_class_uid,
      transferSyntaxUid: row.transfer_syntax_uid,
      sizeBytes: row.size_bytes,
      fileSha256: row.file_sha256,
      peerId: originText(row.origin, 'peerId'),
      callingAe: originText(row.origin, 'callingAe'),
    })),
  }
}

/**
 * The facts of studies, by origin class of their instances or of all instances together; classes without an instance are
 * left out. Ordered by study.
 */
export async function loadFacts(
  db: Kysely<Schema> | Tx,
  studies: readonly number[],
  { at, by }: { readonly at: Date; readonly by: 'class' | 'study' },
): Promise<readonly StudyFacts[]> {
  if (studies.length === 0) return []
  const ids = [...studies]
  const origin = by === 'class' ? originClass : sql<'all'>`'all'`
  // Grouped by the database: what comes here is per series and kind of origin, not per instance.
  const { rows: groups } = await sql<Group>`
    select series.study, series.id as series, ${origin} as origin, instances.origin ->> 'kind' as kind,
           instances.origin ->> 'peerId' as peer, instances.origin ->> 'endpoint' as endpoint,
           instances.origin ->> 'purpose' as purpose,
           instances.origin ->> 'callingAe' as calling, instances.origin ->> 'calledAe' as called,
           instances.sop_class_uid as "sopClass", count(*)::int as count
      from series join instances on instances.series = series.id
     where series.study = any(${ids}) group by 1, 2, 3, 4, 5, 6, 7, 8, 9, 10`.execute(db)
  const rows = await db
    .selectFrom('studies')
    .innerJoin('patients', 'patients.id', 'studies.patient')
    .select(['studies.id', 'studies.study_instance_uid', 'studies.domain', 'patients.patient_id', 'patients.issuer'])
    .select(['studies.attributes as study_attributes', 'patients.attributes as patient_attributes'])
    .where('studies.id', 'in', ids)
    .orderBy('studies.id')
    .execute()
  const series = await db.selectFrom('series').select(['id', 'attributes']).where('study', 'in', ids).execute()
  const attributes = new Map(series.map(row => [row.id, row.attributes]))
  const beside = await loadBeside(db, ids)

  const found = new Map<string, { collector: FactCollector; series: Set<number>; instances: number }>()
  for (const group of groups) {
    const key = `${group.study} ${group.origin}`
    const one = found.get(key) ?? { collector: new FactCollector(), series: new Set(), instances: 0 }
    found.set(key, one)
    one.series.add(group.series)
    one.instances += group.count
    one.collector.add('OriginKind', group.kind)
    one.collector.add('OriginPeer', group.peer)
    one.collector.add('OriginEndpoint', group.endpoint)
    one.collector.add('OriginPurpose', group.purpose)
    one.collector.add('CallingAETitle', group.calling)
    one.collector.add('CalledAETitle', group.called)
    one.collector.add('SOPClassUID', group.sopClass)
  }
  return rows.flatMap(row =>
    [...originClasses, 'all' as const].flatMap(origin => {
      const one = found.get(`${row.id} ${origin}`)
      if (!one) return []
      const { collector } = one
      collector.addAttributes(row.patient_attributes)
      collector.addAttributes(row.study_attributes)
      for (const id of one.series) collector.addAttributes(attributes.get(id))
      for (const { name, value } of beside.get(row.id) ?? []) collector.add(name, value)
      collector.add('InstanceCount', String(one.instances))
      collector.add('StudyInstanceUID', row.study_instance_uid)
      const { id: study, study_instance_uid: studyInstanceUid, domain, patient_id: patientId, issuer } = row
      const facts = { ...collector.take(), ...timeFacts(at) }
      return [{ study, studyInstanceUid, domain, patientId, issuer, origin, facts }]
    }),
  )
}

interface Group {
  readonly study: number
  readonly series: number
  readonly origin: OriginClass | 'all'
  readonly kind: string | null
  readonly peer: string | null
  readonly endpoint: string | null
  readonly purpose: string | null
  readonly calling: string | null
  readonly called: string | null
  readonly sopClass: string
  readonly count: number
}

/** What stands beside the data sets: labels, and what the patient has said. */
async function loadBeside(
  db: Kysely<Schema> | Tx,
  studies: readonly number[],
): Promise<ReadonlyMap<number, readonly { readonly name: string; readonly value: string }[]>> {
  const { rows } = await sql<{ study: number; name: string; value: string }>`
    select s.id as study, case c.kind when 'consent' then 'ConsentPurpose' else 'ObjectionPurpose' end as name, c.purpose as value
      from studies s join patients p on p.id = s.patient
      join consents c on c.patient_id = p.patient_id and c.issuer = p.issuer
     where s.id = any(${[...studies]}) and c.withdrawn_at is null and c.valid_from <= now()
       and (c.valid_until is null or c.valid_until > now())
    union
    select s.id, 'Label', l.label from studies s
      join resource_labels l on (l.level = 'study' and l.resource = s.id) or (l.level = 'patient' and l.resource = s.patient)
     where s.id = any(${[...studies]})
    union
    select e.study, 'Label', l.label from series e join resource_labels l on l.level = 'series' and l.resource = e.id
     where e.study = any(${[...studies]})`.execute(db)
  return Map.groupBy(rows, row => row.study)
}

function originText(origin: unknown, key: string): string | undefined {
  const value = isObject(origin) ? origin[key] : undefined
  return typeof value === 'string' ? value : undefined
}
