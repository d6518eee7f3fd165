/**
 * Searches the hierarchy: ids of candidates by the indexed columns, a long list at a time, then the attributes
 * of a few hundred of them at a time, on which the query decides. Memory does not grow with the number of
 * matches, and no transaction stays open while a slow client takes them.
 */
import { type RawBuilder, sql } from 'kysely'
import type { Db } from '../db/db.ts'
import type { DicomJson, JsonElement } from '../dicom/json.ts'
import type { Level } from '../dicom/levels.ts'
import { type MatchSpec, matches } from '../dicom/matching.ts'
import { formatTag, type Tag } from '../dicom/tag.ts'
import { candidateConditions } from './candidates.ts'
import { type SearchScope, scopeConditions } from './search-scope.ts'

/** What was found. */
export interface Match {
  /** Its place in the order of arrival at its level. */
  readonly id: number
  readonly orthancId: string
  /** Of its own level and those above it, with what is counted. */
  readonly attributes: DicomJson
}

/** What is given of what matches, and how. */
export interface SearchOptions {
  /** Attributes that are wanted in the matches; counters cost a look-up each. */
  readonly returned: ReadonlySet<Tag>
  /** In order of arrival unless given. */
  readonly order?: 'oldest-first' | 'newest-first' | undefined
  /** Matches that are passed over. */
  readonly offset?: number | undefined
  /** What it is limited to beside the attributes. */
  readonly scope?: SearchScope | undefined
  /** Matches at most; all unless given. */
  readonly limit?: number | undefined
  readonly signal?: AbortSignal
  /** A statement that is committed with the first look-up, before any match is given: one round trip for both. */
  readonly recording?: RawBuilder<unknown>
}

const idsAtATime = 10_000
const rowsAtATime = 256

/** Finds what the query asks for, some at a time. */
export async function* search(
  db: Db,
  spec: MatchSpec,
  options: SearchOptions,
): AsyncGenerator<readonly Match[], void, void> {
  let skip = options.offset ?? 0
  let left = options.limit ?? Number.POSITIVE_INFINITY
  const source = pages(db, spec, options)
  // Who takes all of them is served while the database works on the next ones.
  for await (const { rows } of options.limit === undefined ? ahead(source) : source) {
    const found = rows.filter(({ attributes }) => matches(spec.keys, attributes))
    const given = found.slice(skip, skip + left)
    skip = Math.max(0, skip - found.length)
    left -= given.length
    if (given.length > 0) yield given
    if (left === 0) return
  }
}

/** Some of the matches, and what is known of those after them. */
export interface MatchPage {
  readonly matches: readonly Match[]
  /** Matches after these; at least so many unless `isCounted`. */
  readonly remaining: number
  readonly isCounted: boolean
}

/** Finds a page of what the query asks for; without keys the database passes over the offset. */
export async function searchPage(
  db: Db,
  spec: MatchSpec,
  options: SearchOptions & { readonly limit: number },
): Promise<MatchPage> {
  const { offset = 0, limit } = options
  if (spec.keys.length === 0) {
    const [matches, total] = await Promise.all([
      everything(db, spec.level, options),
      countOf(db, spec.level, options.scope),
    ])
    return { matches, remaining: Math.max(0, total - offset - limit), isCounted: true }
  }
  let skip = offset
  let remaining = 0
  const matched: Match[] = []
  for await (const { rows, isLast } of pages(db, spec, options)) {
    const found = rows.filter(({ attributes }) => matches(spec.keys, attributes))
    const from = Math.min(skip, found.length)
    const room = limit - matched.length
    skip -= from
    matched.push(...found.slice(from, from + room))
    remaining += Math.max(0, found.length - from - room)
    if (isLast || remaining > 0) return { matches: matched, remaining, isCounted: isLast }
  }
  return { matches: matched, remaining, isCounted: true }
}

async function everything(db: Db, level: Level, options: SearchOptions): Promise<readonly Match[]> {
  const { offset = 0, limit, order, returned, recording } = options
  const isNewestFirst = order === 'newest-first'
  const id = sql.ref(`${alias[level]}.id`)
  const limits = scopeConditions(options.scope, level)
  const from = limits.length > 0 ? tables[level] : sql`${sql.table(tableNames[level])} ${sql.ref(alias[level])}`
  const ids = sql`array(
    select ${id} from ${from} ${limits.length > 0 ? sql`where ${sql.join(limits, sql` and `)}` : sql``}
     order by ${id} ${isNewestFirst ? sql`desc` : sql`asc`} limit ${limit} offset ${offset}
  )`
  const rows = await load[level](db, { ids, wanted: returned, also: recording })
  return isNewestFirst ? rows.reverse() : rows
}

/** How many there are of a level; instances by the counters of their studies. */
async function countOf(db: Db, level: Level, scope: SearchScope | undefined): Promise<number> {
  const limits = scopeConditions(scope, level)
  if (limits.length > 0) {
    const { rows } = await sql<{ total: number }>`
      select count(*) as total from ${tables[level]} where ${sql.join(limits, sql` and `)}
    `.execute(db.kysely)
    return rows[0]?.total ?? 0
  }
  const { rows } = await (level === 'instance'
    ? sql<{ total: number }>`select coalesce(sum(instance_count), 0) as total from studies`
    : sql<{ total: number }>`select count(*) as total from ${sql.table(tableNames[level])}`
  ).execute(db.kysely)
  return Number(rows[0]?.total ?? 0)
}

/** The same, with the next one on its way while one is worked on. */
async function* ahead<T>(source: AsyncGenerator<T, void, void>): AsyncGenerator<T, void, void> {
  let next = source.next()
  try {
    for (;;) {
      const { done, value } = await next
      if (done) return
      next = source.next()
      next.catch(() => undefined)
      yield value
    }
  } finally {
    await source.return()
  }
}

/** Rows that may match, and whether no others may. */
interface Candidates {
  readonly rows: Match[]
  readonly isLast: boolean
}

async function* pages(
  db: Db,
  { level, keys }: MatchSpec,
  options: SearchOptions,
): AsyncGenerator<Candidates, void, void> {
  const { signal, recording, order } = options
  const conditions = [...candidateConditions(keys, level), ...scopeConditions(options.scope, level)]
  const wanted = new Set([...options.returned, ...keys.map(key => key.tag)])
  const id = sql.ref(`${alias[level]}.id`)
  const isNewestFirst = order === 'newest-first'
  const candidates = (after: number, limit: number) => sql<{ id: number }>`
    select ${id} as id from ${tables[level]}
     where ${sql.join([isNewestFirst ? sql`${id} < ${after}` : sql`${id} > ${after}`, ...conditions], sql` and `)}
     order by 1 ${isNewestFirst ? sql`desc` : sql`asc`} limit ${limit}
  `
  const ordered = async (which: Wanted): Promise<Match[]> => {
    signal?.throwIfAborted()
    const rows = await load[level](db, which)
    return isNewestFirst ? rows.reverse() : rows
  }

  // Most queries have few matches, which come in one statement.
  const beginning = candidates(isNewestFirst ? Number.MAX_SAFE_INTEGER : 0, rowsAtATime)
  const first = await ordered({ ids: sql`array(${beginning})`, wanted, also: recording })
  let last = first.at(-1)
  let isMore = first.length === rowsAtATime
  yield { rows: first, isLast: !isMore }
  while (last && isMore) {
    signal?.throwIfAborted()
    const { rows } = await candidates(last.id, idsAtATime).execute(db.kysely)
    isMore = rows.length === idsAtATime
    for (let at = 0; at < rows.length; at += rowsAtATime) {
      const ids = rows.slice(at, at + rowsAtATime).map(row => row.id)
      const some = await ordered({ ids: listed(ids), wanted })
      yield { rows: some, isLast: !isMore && at + rowsAtATime >= rows.length }
      last = some.at(-1) ?? last
    }
  }
}

const tableNames = { patient: 'patients', study: 'studies', series: 'series', instance: 'instances' } as const
const alias: Readonly<Record<Level, string>> = { patient: 'p', study: 's', series: 'c', instance: 'i' }

const tables: Readonly<Record<Level, RawBuilder<unknown>>> = {
  patient: sql`patients p`,
  study: sql`studies s join patients p on p.id = s.patient`,
  series: sql`series c join studies s on s.id = c.study join patients p on p.id = s.patient`,
  instance: sql`instances i join series c on c.id = i.series join studies s on s.id = c.study
    join patients p on p.id = s.patient`,
}

/** Attributes that are worked out, by level: PS3.4 Tables C.6-1, C.6-5 and §C.3.4. */
export const computedTags: Readonly<Record<Level, readonly Tag[]>> = {
  patient: [0x00201200, 0x00201202, 0x00201204],
  study: [0x00080061, 0x00080062, 0x00201206, 0x00201208],
  series: [0x00201209],
  instance: [],
}

/** Which rows are loaded, and with what. */
interface Wanted {
  /** An array of ids in SQL. */
  readonly ids: RawBuilder<unknown>
  /** Attributes that are worked out where they are among these. */
  readonly wanted: ReadonlySet<Tag>
  /** Another statement that is committed with this one. */
  readonly also?: RawBuilder<unknown> | undefined
}

const listed = (ids: readonly number[]): RawBuilder<unknown> => sql`${ids}::bigint[]`
const alongside = ({ also }: Wanted): RawBuilder<unknown> => (also ? sql`with also as (${also})` : sql``)

/** Resources by Orthanc id with the attributes of their level and those above it; unknown ones are left out. */
export async function loadMatches(
  db: Db,
  level: Level,
  orthancIds: readonly string[],
  returned: ReadonlySet<Tag>,
): Promise<Map<string, Match>> {
  const ids = sql`array(select t.id from ${sql.table(tableNames[level])} t where t.orthanc_id = any(${orthancIds}::text[]))`
  return new Map((await load[level](db, { ids, wanted: returned })).map(match => [match.orthancId, match]))
}

/** The resources of `level` that matches of a level below it belong to, in order of arrival, each once. */
export async function ancestorsOf(db: Db, from: Level, orthancIds: readonly string[], level: Level): Promise<string[]> {
  const { rows } = await sql<{ id: number; orthancId: string }>`
    select distinct ${sql.ref(`${alias[level]}.id`)} as id, ${sql.ref(`${alias[level]}.orthanc_id`)} as "orthancId"
      from ${tables[from]} where ${sql.ref(`${alias[from]}.orthanc_id`)} = any(${orthancIds}::text[]) order by 1
  `.execute(db.kysely)
  return rows.map(row => row.orthancId)
}

/** Loads rows by id, in their order. */
type Loader = (db: Db, which: Wanted) => Promise<Match[]>

const load: Readonly<Record<Level, Loader>> = { patient, study, series, instance }

interface PatientRow {
  readonly id: number
  readonly orthancId: string
  readonly patientId: string
  readonly attributes: DicomJson
  readonly studies: number | null
  readonly series: number | null
  readonly instances: number | null
}

async function patient(db: Db, which: Wanted): Promise<Match[]> {
  const isCounted = computedTags.patient.some(tag => which.wanted.has(tag))
  const { rows } = await sql<PatientRow>`
    ${alongside(which)} select p.id, p.orthanc_id as "orthancId", p.patient_id as "patientId", p.attributes, counted.*
      from patients p
      left join lateral (
        select count(*) as studies, sum(s.instance_count) as instances,
               (select count(*) from series c join studies s on s.id = c.study where s.patient = p.id) as series
          from studies s where s.patient = p.id
      ) counted on ${isCounted}
     where p.id = any(${which.ids}) order by p.id
  `.execute(db.kysely)
  return rows.map(row => ({
    id: row.id,
    orthancId: row.orthancId,
    attributes: {
      ...row.attributes,
      ...text('LO', 0x00100020, row.patientId),
      ...count(0x00201200, row.studies),
      ...count(0x00201202, row.series),
      ...count(0x00201204, row.instances),
    },
  }))
}

interface StudyRow {
  readonly id: number
  readonly orthancId: string
  readonly uid: string
  readonly attributes: DicomJson
  readonly modalities: readonly string[]
  readonly instances: number
  readonly patientId: string
  readonly series: number | null
  readonly classes: readonly string[] | null
}

async function study(db: Db, which: Wanted): Promise<Match[]> {
  const rows = await studyRows(db, which)
  return rows.map(row => ({ id: row.id, orthancId: row.orthancId, attributes: studyAttributes(row) }))
}

async function studyRows(db: Db, which: Wanted): Promise<StudyRow[]> {
  const { rows } = await sql<StudyRow>`
    ${alongside(which)} select s.id, s.orthanc_id as "orthancId", s.study_instance_uid as uid, s.attributes, s.modalities,
           s.instance_count as instances, p.patient_id as "patientId", counted.series, classes.classes
      from studies s
      join patients p on p.id = s.patient
      left join lateral (select count(*) as series from series c where c.study = s.id) counted on ${which.wanted.has(0x00201206)}
      left join lateral (
        select array_agg(distinct i.sop_class_uid) as classes
          from series c join instances i on i.series = c.id where c.study = s.id
      ) classes on ${which.wanted.has(0x00080062)}
     where s.id = any(${which.ids}) order by s.id
  `.execute(db.kysely)
  return rows
}

function studyAttributes(row: StudyRow): DicomJson {
  return {
    ...row.attributes,
    ...text('LO', 0x00100020, row.patientId),
    ...text('UI', 0x0020000d, row.uid),
    '00080061': { vr: 'CS', Value: row.modalities },
    ...(row.classes && { '00080062': { vr: 'UI' as const, Value: row.classes } }),
    ...count(0x00201206, row.series),
    ...count(0x00201208, row.instances),
  }
}

interface SeriesRow {
  readonly id: number
  readonly orthancId: string
  readonly study: number
  readonly uid: string
  readonly attributes: DicomJson
  readonly instances: number
}

async function series(db: Db, which: Wanted): Promise<Match[]> {
  return [...(await seriesById(db, which)).values()]
}

/** Series with the attributes of their studies, each of which is read once. */
async function seriesById(db: Db, which: Wanted): Promise<Map<number, Match>> {
  const { rows } = await sql<SeriesRow>`
    ${alongside(which)} select c.id, c.orthanc_id as "orthancId", c.study, c.series_instance_uid as uid, c.attributes,
           c.instance_count as instances
      from series c where c.id = any(${which.ids}) order by c.id
  `.execute(db.kysely)
  const studies = await studyRows(db, {
    ids: listed([...new Set(rows.map(row => row.study))]),
    wanted: which.wanted,
  })
  const above = new Map(studies.map(row => [row.id, studyAttributes(row)]))
  return new Map(
    rows.map(row => [
      row.id,
      {
        id: row.id,
        orthancId: row.orthancId,
        attributes: {
          ...above.get(row.study),
          ...row.attributes,
          ...text('UI', 0x0020000e, row.uid),
          ...count(0x00201209, row.instances),
        },
      },
    ]),
  )
}

interface InstanceRow {
  readonly id: number
  readonly orthancId: string
  readonly series: number
  readonly uid: string
  readonly sopClassUid: string
  readonly transferSyntaxUid: string
  readonly attributes: DicomJson
}

async function instance(db: Db, which: Wanted): Promise<Match[]> {
  const { rows } = await sql<InstanceRow>`
    ${alongside(which)} select i.id, i.orthanc_id as "orthancId", i.series, i.sop_instance_uid as uid, i.sop_class_uid as "sopClassUid",
           i.transfer_syntax_uid as "transferSyntaxUid", i.attributes
      from instances i where i.id = any(${which.ids}) order by i.id
  `.execute(db.kysely)
  const above = await seriesById(db, {
    ids: listed([...new Set(rows.map(row => row.series))]),
    wanted: which.wanted,
  })
  return rows.map(row => ({
    id: row.id,
    orthancId: row.orthancId,
    attributes: {
      ...above.get(row.series)?.attributes,
      ...row.attributes,
      ...text('UI', 0x00080018, row.uid),
      ...text('UI', 0x00080016, row.sopClassUid),
      // Available Transfer Syntax UID, PS3.18 Table 10.6.3-5.
      ...text('UI', 0x00083002, row.transferSyntaxUid),
    },
  }))
}

/** What the store's columns say stands even where the data set has it otherwise, or not at all. */
function text(vr: 'LO' | 'UI', tag: Tag, value: string): Record<string, JsonElement> {
  return value === '' ? {} : { [formatTag(tag)]: { vr, Value: [value] } }
}

function count(tag: Tag, value: number | null): Record<string, JsonElement> {
  return value === null ? {} : { [formatTag(tag)]: { vr: 'IS', Value: [Number(value)] } }
}
