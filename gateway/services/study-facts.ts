/**
 * What policy is told of a study: the values of its patient, study and series attributes by DICOM
 * keyword, and what the gateway itself knows. Facts of what came from peers are kept apart from the
 * rest, because they trigger nothing unless a rule names that origin.
 */
import { sql } from 'kysely'
import type { Facts } from '../../policy/conditions.ts'
import { quietPurposes } from '../../policy/decide.ts'
import type { Tx } from '../db/db.ts'
import { isObject } from '../decode.ts'
import { keywordOf, parseTag } from '../dicom/tag.ts'
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

const maxValues = 1000

/**
 * Instances of one origin class: `imported` came from peers, `fetched` were fetched or moved here by the gateway itself
 * (`quietPurposes`), `local` are the others.
 */
export type OriginClass = 'local' | 'imported' | 'fetched'
export const originClasses: readonly OriginClass[] = ['local', 'imported', 'fetched']

/** SQL for the class of an instance. */
const originClass = sql`case when instances.origin ->> 'kind' = 'peer' then 'imported'
  when instances.origin ->> 'purpose' = any(${[...quietPurposes]}) then 'fetched' else 'local' end`

/** Loads a study with its instances of one origin class, or with all; undefined when it is gone. */
export async function loadSnapshot(
  tx: Tx,
  studyId: number,
  which: OriginClass | 'all',
): Promise<StudySnapshot | undefined> {
  const study = await tx
    .selectFrom('studies')
    .innerJoin('patients', 'patients.id', 'studies.patient')
    .select([
      'studies.id',
      'studies.study_instance_uid',
      'studies.domain',
      'studies.attributes as study_attributes',
      'patients.attributes as patient_attributes',
      'patients.patient_id',
      'patients.issuer',
    ])
    .where('studies.id', '=', studyId)
    .executeTakeFirst()
  if (!study) return undefined
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
      'series.id as series_id',
    ])
    .where('series.study', '=', studyId)
    .$if(which !== 'all', query => query.where(sql<boolean>`${originClass} = ${which}`))
    .orderBy('series.series_instance_uid')
    .orderBy('sop_instance_uid')
    .execute()
  const seriesIds = [...new Set(rows.map(row => row.series_id))]
  const series =
    seriesIds.length > 0
      ? await tx.selectFrom('series').select('attributes').where('id', 'in', seriesIds).execute()
      : []

  const said = await tx
    .selectFrom('consents')
    .select(['kind', 'purpose'])
    .where('patient_id', '=', study.patient_id)
    .where('issuer', '=', study.issuer)
    .where(sql<boolean>`withdrawn_at is null and now() >= valid_from and (valid_until is null or valid_until > now())`)
    .execute()

  const facts = new FactCollector()
  facts.addAttributes(study.patient_attributes)
  facts.addAttributes(study.study_attributes)
  for (const row of series) facts.addAttributes(row.attributes)
  for (const row of rows) {
    const origin = isObject(row.origin) ? row.origin : {}
    facts.add('OriginKind', origin['kind'])
    facts.add('OriginPeer', origin['peerId'])
    facts.add('OriginPurpose', origin['purpose'])
    facts.add('CallingAETitle', origin['callingAe'])
    facts.add('CalledAETitle', origin['calledAe'])
    facts.add('SOPClassUID', row.sop_class_uid)
  }
  for (const { kind, purpose } of said) facts.add(kind === 'consent' ? 'ConsentPurpose' : 'ObjectionPurpose', purpose)
  facts.add('InstanceCount', String(rows.length))
  facts.add('StudyInstanceUID', study.study_instance_uid)
  return {
    study: study.id,
    studyInstanceUid: study.study_instance_uid,
    domain: study.domain,
    patientId: study.patient_id,
    issuer: study.issuer,
    facts: { ...facts.take(), ...timeFacts(new Date()) },
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

function originText(origin: unknown, key: string): string | undefined {
  const value = isObject(origin) ? origin[key] : undefined
  return typeof value === 'string' ? value : undefined
}

/** Gathers distinct values by name, bounded. */
class FactCollector {
  readonly #values = new Map<string, Set<string>>()

  add(name: string, value: unknown): void {
    const text = textOf(value)
    if (text === undefined) return
    const set = this.#values.get(name) ?? new Set<string>()
    if (set.size < maxValues) set.add(text)
    this.#values.set(name, set)
  }

  /** Adds the top-level elements of a DICOM JSON object. */
  addAttributes(json: unknown): void {
    if (!isObject(json)) return
    for (const [key, element] of Object.entries(json)) {
      const tag = parseTag(key)
      const keyword = tag === undefined ? undefined : keywordOf(tag)
      if (!keyword || !isObject(element) || !Array.isArray(element['Value'])) continue
      for (const value of element['Value']) this.add(keyword, value)
    }
  }

  take(): Facts {
    return Object.fromEntries([...this.#values].map(([name, values]) => [name, [...values]]))
  }
}

function textOf(value: unknown): string | undefined {
  if (typeof value === 'string') return value
  if (typeof value === 'number') return String(value)
  // A person name (PS3.18 F.2.2): its alphabetic group.
  if (isObject(value) && typeof value['Alphabetic'] === 'string') return value['Alphabetic']
  return undefined
}
