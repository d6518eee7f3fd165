/**
 * The part of a query that the database decides by its indexes: conditions that every match meets. What they
 * let through is a superset; `matches` of dicom/matching.ts decides on each row's attributes.
 */
import { type RawBuilder, sql } from 'kysely'
import type { Level } from '../dicom/levels.ts'
import type { Range } from '../dicom/match-range.ts'
import type { TextPattern } from '../dicom/match-text.ts'
import type { Condition, MatchKey } from '../dicom/matching.ts'

type Where = RawBuilder<unknown>
type Narrow = (condition: Condition, level: Level) => Where | undefined

/** Longer beginnings say no more, and stored keys are cut. */
const longestLiteral = 64

/** The conditions for rows of `level`; tables are p, s, c, i from the patient down. */
export function candidateConditions(keys: readonly MatchKey[], level: Level): Where[] {
  return keys.flatMap(({ tag, condition }) => {
    if (condition.kind === 'nothing') return [sql`false`]
    const where = columns.get(tag)?.(condition, level)
    return where ? [where] : []
  })
}

const text =
  (column: string): Narrow =>
  condition =>
    condition.kind === 'text'
      ? anyOf(condition.patterns.map(pattern => startsLike(sql.ref(column), pattern)))
      : undefined

const columns: ReadonlyMap<number, Narrow> = new Map<number, Narrow>([
  [0x00100020, text('p.patient_id')],
  [0x00100010, nameStarts],
  [0x0020000d, text('s.study_instance_uid')],
  [0x0020000e, text('c.series_instance_uid')],
  [0x00080018, text('i.sop_instance_uid')],
  [0x00080016, text('i.sop_class_uid')],
  [0x00080050, text('s.accession_number')],
  [0x00080060, text('c.modality')],
  [0x00080020, studyDate],
  [0x00080061, modalitiesInStudy],
])

/** All values of the key on one column, single ones as one list. */
function anyOf(conditions: readonly (Where | undefined)[]): Where | undefined {
  const known = conditions.filter(condition => condition !== undefined)
  // Where one value says nothing, all of them together say nothing.
  if (known.length === 0 || known.length < conditions.length) return undefined
  return sql`(${sql.join(known, sql` or `)})`
}

function startsLike(column: Where, { literal, isWildcard, folded }: TextPattern): Where | undefined {
  if (folded !== undefined) {
    const start = folded.slice(0, longestLiteral).trimEnd()
    return sql`(lower(${column} collate "C") like ${likeStart(start)} or ${column} ~ '[^ -~]')`
  }
  if (!isWildcard && literal.length <= longestLiteral) return sql`${column} = ${literal}`
  const start = literal.slice(0, longestLiteral).trimEnd()
  return start === '' ? undefined : sql`${column} like ${likeStart(start)}`
}

/** Folded names: the key may be the beginning of any component group. */
function nameStarts(condition: Condition, level: Level): Where | undefined {
  if (condition.kind !== 'text') return undefined
  const column = sql.ref(level === 'patient' ? 'p.name_folded' : 's.name_folded')
  return anyOf(
    condition.patterns.map(({ literal }) => {
      // The last letter of another script may be folded otherwise before other letters.
      const start = (/^[ -~]*$/.test(literal) ? literal : literal.slice(0, -1)).slice(0, longestLiteral)
      const safe = start.replace(/[\^ ]+$/, '')
      if (safe === '') return undefined
      return sql`(${column} like ${likeStart(safe)} or (${column} like '%=%' and ${column} like ${`%=${likeStart(safe)}`}))`
    }),
  )
}

function likeStart(literal: string): string {
  return `${literal.replace(/[\\%_]/g, '\\$&')}%`
}

/** Dates that are not written in eight digits are let through. */
function studyDate(condition: Condition): Where | undefined {
  if (condition.kind !== 'range') return undefined
  const within = ({ from, to }: Range): Where => {
    const bounds = [
      ...(from === undefined ? [] : [sql`s.study_date ~>=~ ${from}`]),
      ...(to === undefined ? [] : [sql`s.study_date ~<=~ ${to}`]),
    ]
    return bounds.length === 0 ? sql`true` : sql`(${sql.join(bounds, sql` and `)})`
  }
  return sql`(${sql.join(condition.ranges.map(within), sql` or `)} or length(s.study_date) <> 8)`
}

function modalitiesInStudy(condition: Condition): Where | undefined {
  if (condition.kind !== 'text' || condition.patterns.some(pattern => pattern.isWildcard)) return undefined
  return sql`s.modalities && ${condition.patterns.map(pattern => pattern.literal)}::text[]`
}
