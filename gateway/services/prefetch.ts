/**
 * Fetches the priors of a patient when a study of theirs has arrived: by rules that are a setting of the site,
 * apart from the policy, because nothing leaves by them and what they fetch is sent on to nobody.
 */

import { sql } from 'kysely'
import { authorize } from '../../policy/authorize.ts'
import { eventTypes, securityAlert } from '../audit/event.ts'
import { appendAudit } from '../audit/log.ts'
import type { Db, Tx } from '../db/db.ts'
import { decode, describe, integer, list, object, oneOf, optional, text } from '../decode.ts'
import type { DicomJson } from '../dicom/json.ts'
import { errorLine, GatewayError, isGatewayError } from '../errors.ts'
import type { Queue } from '../jobs/queue.ts'
import type { Log } from '../log.ts'
import type { Principal } from '../principal.ts'
import type { DicomNode, FindNode, NodeTarget } from './dicom-node.ts'
import type { ModalityJobs } from './modality-jobs.ts'
import { queryKeys } from './remote.ts'

const codes = list(text({ min: 1, max: 64 }), { max: 50 })
const rule = object({
  name: text({ min: 1, max: 64, pattern: /^[a-z0-9][a-z0-9-]*$/, expected: 'a name of lower-case letters, digits, -' }),
  /** Modalities (0008,0060) of the study that arrives; any when empty. */
  modalities: optional(codes, []),
  /** Body Part Examined (0018,0015) of one of its series; any when empty. */
  bodyParts: optional(codes, []),
  /** AE titles that it came from; any when empty. */
  callingAes: optional(codes, []),
  /** The registered node that holds the priors. */
  from: text({ min: 1, max: 64 }),
  /** By which service they are retrieved; C-GET, and C-MOVE where that is not offered, unless given. */
  method: optional(oneOf('get', 'move')),
  /** The newest ones, no more than this. */
  atMost: integer({ min: 1, max: 50 }),
  /** Counted from the date of the study that arrives. */
  notOlderThanDays: integer({ min: 1, max: 36_525 }),
  /** Modalities that a prior has one of; any when empty. */
  priorModalities: optional(codes, []),
})
const rules = list(rule, { max: 100 })
const setting = 'prefetch'

/** A rule as it is stored. */
export type PrefetchRule = NonNullable<ReturnType<typeof rule>>

/** The rules in force. */
export interface PrefetchRules {
  /** Grows with each change; 0 before the first. */
  readonly version: number
  readonly rules: readonly PrefetchRule[]
}

/** Keeps the rules, and applies them. */
export interface Prefetch {
  load(): Promise<PrefetchRules>
  /** Replaces the rules. @throws GatewayError BAD_REQUEST */
  put(principal: Principal, rules: unknown): Promise<PrefetchRules>
  /** A study has arrived: leaves a job in its transaction where there are rules. */
  arrived(tx: Tx, study: number): Promise<void>
  /** Looks for priors and plans their retrieval; the queue calls it. */
  run(study: number, signal: AbortSignal, attempt: number): Promise<void>
}

/** A node that cannot be asked for priors is asked this often. */
const maxAttempts = 10
/** Studies of one patient that are looked at. */
const maxStudies = 1_000

export function openPrefetch(options: {
  readonly db: Db
  readonly queue: Queue
  readonly jobs: Pick<ModalityJobs, 'requestPrior'>
  readonly findNode: FindNode
  readonly node: Pick<DicomNode, 'find'>
  readonly log: Log
}): Prefetch {
  const { db, queue, jobs, findNode, node } = options
  const log = options.log.child({ part: 'prefetch' })

  const load = async (db: Db['kysely'] | Tx): Promise<PrefetchRules> => {
    const row = await db
      .selectFrom('settings')
      .select(['value', 'version'])
      .where('name', '=', setting)
      .executeTakeFirst()
    const decoded = decode(rules, row?.value ?? [])
    if (!decoded.ok) log.error({ setting }, 'the stored rules are damaged, nothing is fetched ahead')
    return { version: row?.version ?? 0, rules: decoded.ok ? decoded.value : [] }
  }

  return {
    load: () => load(db.kysely),

    async put(principal, raw) {
      authorize(principal, 'modality.manage')
      const decoded = decode(rules, raw)
      if (!decoded.ok) throw new GatewayError('BAD_REQUEST', describe(decoded.problems))
      for (const { from } of decoded.value) findNode(from)
      await db.inTransaction(async tx => {
        await sql`
          insert into settings (name, value) values (${setting}, ${JSON.stringify(decoded.value)}::jsonb)
          on conflict (name) do update set value = excluded.value, version = settings.version + 1, updated_at = now()
        `.execute(tx)
        await appendAudit(
          tx,
          securityAlert({
            type: eventTypes.softwareConfiguration,
            participants: [{ userId: principal.id, requestor: true }],
            objects: [{ kind: 'setting', name: setting }],
            reason: 'prefetch-rules-changed',
          }),
        )
      })
      return await load(db.kysely)
    },

    async arrived(tx, study) {
      if ((await load(tx)).rules.length === 0) return
      await queue.enqueue(tx, 'prefetch-priors', { study }, { singletonKey: String(study) })
    },

    async run(studyId, signal, attempt) {
      const study = await loadStudy(db, studyId)
      if (!study) return
      for (const applied of (await load(db.kysely)).rules.filter(each => applies(each, study))) {
        try {
          const planned = await plan(applied, studyId, study, signal)
          log.info({ study: studyId, rule: applied.name, priors: planned }, 'looked for priors')
        } catch (error) {
          signal.throwIfAborted()
          if (attempt < maxAttempts && isGatewayError(error) && error.meaning.retry === 'yes') throw error
          log.warn({ study: studyId, rule: applied.name, cause: errorLine(error) }, 'priors cannot be looked for')
        }
      }
    },
  }

  async function plan(applied: PrefetchRule, id: number, study: ArrivedStudy, signal: AbortSignal): Promise<number> {
    const target = findNode(applied.from)
    // Wild cards of a query; a Patient ID that has them cannot be asked for alone.
    if (/[*?\\]/.test(study.patientId)) return 0
    const keys = queryKeys('study', { PatientID: study.patientId })
    const found: Prior[] = []
    for await (const match of node.find(target, { level: 'study', keys }, signal)) {
      const prior = priorOf(match)
      if (prior && isPriorOf(prior, study, applied)) found.push(prior)
      if (found.length >= maxStudies) break
    }
    found.sort((a, b) => (a.date < b.date ? 1 : a.date > b.date ? -1 : 0))
    let planned = 0
    let wanted = applied.atMost
    for (const prior of found) {
      if (wanted === 0) break
      if (!(await isOfModality(prior, applied, target, signal))) continue
      wanted -= 1
      if (await isHeld(db, prior)) continue
      const { method } = applied
      const request = { study: id, modality: target.name, studyUid: prior.studyUid, rule: applied.name, method }
      if (await db.inTransaction(tx => jobs.requestPrior(tx, request))) planned += 1
    }
    return planned
  }

  /** Nodes need not tell the modalities of a study (PS3.4 Table C.6-2: optional); then its series are asked for. */
  async function isOfModality(
    prior: Prior,
    { priorModalities }: PrefetchRule,
    target: NodeTarget,
    signal: AbortSignal,
  ): Promise<boolean> {
    if (priorModalities.length === 0) return true
    const modalities = [...prior.modalities]
    if (modalities.length === 0) {
      const keys = queryKeys('series', { StudyInstanceUID: prior.studyUid })
      for await (const match of node.find(target, { level: 'series', keys }, signal)) {
        modalities.push(...(match['00080060']?.Value ?? []).map(String))
      }
    }
    return isAmong(priorModalities, modalities)
  }
}

/** What rules see of a study. */
interface ArrivedStudy {
  readonly patientId: string
  readonly birthDate: string | null
  readonly studyUid: string
  /** `YYYYMMDD`. */
  readonly date: string
  readonly modalities: readonly string[]
  readonly bodyParts: readonly string[]
  readonly callingAe: string | null
}

/** Of the site's own patients only: the Patient ID of another issuer is another person's in the local archive. */
async function loadStudy(db: Db, id: number): Promise<ArrivedStudy | undefined> {
  const { rows } = await sql<ArrivedStudy>`
    select p.patient_id as "patientId", p.attributes #>> '{00100030,Value,0}' as "birthDate",
           s.study_instance_uid as "studyUid", s.modalities, s.origin->>'callingAe' as "callingAe",
           coalesce(nullif(s.attributes #>> '{00080020,Value,0}', ''), to_char(s.created_at, 'YYYYMMDD')) as date,
           array(select distinct c.attributes #>> '{00180015,Value,0}' from series c
                  where c.study = s.id and c.attributes #>> '{00180015,Value,0}' is not null) as "bodyParts"
      from studies s join patients p on p.id = s.patient
     where s.id = ${id} and p.issuer = '' and p.patient_id <> ''
  `.execute(db.kysely)
  return rows[0]
}

function applies(applied: PrefetchRule, study: ArrivedStudy): boolean {
  const { modalities, bodyParts, callingAes } = applied
  return (
    isAmong(modalities, study.modalities) &&
    isAmong(bodyParts, study.bodyParts) &&
    isAmong(callingAes, study.callingAe === null ? [] : [study.callingAe])
  )
}

/** True when nothing is demanded, or one of the values is; codes differ in case in the field. */
function isAmong(wanted: readonly string[], values: readonly string[]): boolean {
  const folded = new Set(wanted.map(value => value.trim().toUpperCase()))
  return folded.size === 0 || values.some(value => folded.has(value.trim().toUpperCase()))
}

/** A study that the node has. */
interface Prior {
  readonly studyUid: string
  readonly patientId: string
  readonly birthDate: string
  readonly date: string
  readonly modalities: readonly string[]
  readonly instances: number | undefined
}

function priorOf(match: DicomJson): Prior | undefined {
  const values = (tag: string): string[] => (match[tag]?.Value ?? []).map(value => String(value ?? ''))
  const studyUid = values('0020000D')[0] ?? ''
  if (!/^[0-9.]{1,64}$/.test(studyUid)) return undefined
  const instances = Number(values('00201208')[0] ?? Number.NaN)
  return {
    studyUid,
    patientId: values('00100020')[0] ?? '',
    birthDate: values('00100030')[0] ?? '',
    date: values('00080020')[0] ?? '',
    modalities: values('00080061'),
    instances: Number.isSafeInteger(instances) ? instances : undefined,
  }
}

/** Of the same person, older than the study and not too old. A differing birth date is somebody else's study. */
function isPriorOf(prior: Prior, study: ArrivedStudy, applied: PrefetchRule): boolean {
  const { date, birthDate } = prior
  if (prior.studyUid === study.studyUid || prior.patientId !== study.patientId) return false
  if (birthDate !== '' && study.birthDate && birthDate !== study.birthDate) return false
  if (!/^\d{8}$/.test(date) || date > study.date || date < daysBefore(study.date, applied.notOlderThanDays))
    return false
  // What a node does not tell cannot be held against a study.
  return prior.modalities.length === 0 || isAmong(applied.priorModalities, prior.modalities)
}

function daysBefore(date: string, days: number): string {
  const parts = [date.slice(0, 4), date.slice(4, 6), date.slice(6, 8)].map(Number)
  const [year = 0, month = 1, day = 1] = parts
  return new Date(Date.UTC(year, month - 1, day - days)).toISOString().slice(0, 10).replaceAll('-', '')
}

/** True when we hold as much of a study as the node says that it has. */
async function isHeld(db: Db, { studyUid, instances }: Prior): Promise<boolean> {
  const { rows } = await sql<{ count: number }>`
    select coalesce(sum(instance_count), 0)::int as count from studies where study_instance_uid = ${studyUid}
  `.execute(db.kysely)
  const held = rows[0]?.count ?? 0
  return held > 0 && held >= (instances ?? 1)
}
