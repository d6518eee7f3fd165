/** What a search is limited to beside its attributes: a part of the hierarchy, labels, metadata. The database decides it. */
import { type RawBuilder, sql } from 'kysely'
import type { Level } from '../dicom/levels.ts'

/** The limits; all of them hold. */
export interface SearchScope {
  /** Resources below these, by level and Orthanc id; levels above the one that is searched. */
  readonly parents?: readonly { readonly level: Level; readonly orthancId: string }[]
  readonly labels?: { readonly labels: readonly string[]; readonly constraint: 'all' | 'any' | 'none' } | undefined
  /** Metadata that were set, by number, with `*` and `?` as wildcards. */
  readonly metadata?: readonly { readonly name: number; readonly pattern: string; readonly anyCase: boolean }[]
  /** The level that labels and metadata are of, where it is above the one that is searched. */
  readonly level?: Level
}

const alias: Readonly<Record<Level, string>> = { patient: 'p', study: 's', series: 'c', instance: 'i' }

/** The conditions for rows of `level`; tables are p, s, c, i from the patient down. */
export function scopeConditions(scope: SearchScope | undefined, level: Level): RawBuilder<unknown>[] {
  if (!scope) return []
  const subject = scope.level ?? level
  const id = sql.ref(`${alias[subject]}.id`)
  const { labels, parents = [], metadata = [] } = scope
  return [
    ...parents.map(parent => sql`${sql.ref(`${alias[parent.level]}.orthanc_id`)} = ${parent.orthancId}`),
    ...(labels && labels.labels.length > 0 ? [labelled(id, subject, labels)] : []),
    ...metadata.map(({ name, pattern, anyCase }) => {
      const [value, wanted] = anyCase
        ? [sql`lower(m.value)`, likePattern(pattern.toLowerCase())]
        : [sql`m.value`, likePattern(pattern)]
      return sql`${id} in (select m.resource from resource_metadata m
        where m.level = ${subject} and m.name = ${name} and ${value} like ${wanted})`
    }),
  ]
}

function labelled(
  id: RawBuilder<unknown>,
  level: Level,
  { labels, constraint }: { readonly labels: readonly string[]; readonly constraint: 'all' | 'any' | 'none' },
): RawBuilder<unknown> {
  const having = sql`select l.resource from resource_labels l where l.level = ${level} and l.label = any(${labels}::text[])`
  if (constraint === 'none') return sql`${id} not in (${having})`
  if (constraint === 'any') return sql`${id} in (${having})`
  return sql`${id} in (${having} group by l.resource having count(*) = ${new Set(labels).size})`
}

function likePattern(pattern: string): string {
  return pattern
    .replace(/[\\%_]/g, '\\$&')
    .replaceAll('*', '%')
    .replaceAll('?', '_')
}
