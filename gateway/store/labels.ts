/** Labels of resources: words that people and scripts give them, to find them again. */
import { sql } from 'kysely'
import type { Db, Tx } from '../db/db.ts'
import type { ResourceRow } from './hierarchy.ts'
import { levelTables } from './hierarchy.ts'
import type { Level } from './query.ts'

/** What a label may consist of; the table checks the same. */
export const labelPattern = /^[A-Za-z0-9_-]{1,64}$/

/** The labels of resources by Orthanc id, in alphabetical order; resources without any are left out. */
export async function loadLabels(db: Db, level: Level, orthancIds: readonly string[]): Promise<Map<string, string[]>> {
  const { rows } = await sql<{ orthancId: string; labels: string[] }>`
    select t.orthanc_id as "orthancId", array_agg(l.label order by l.label) as labels
      from ${sql.table(levelTables[level])} t join resource_labels l on l.level = ${level} and l.resource = t.id
     where t.orthanc_id = any(${orthancIds}::text[]) group by t.orthanc_id
  `.execute(db.kysely)
  return new Map(rows.map(row => [row.orthancId, row.labels]))
}

/** Every label that a resource has, in alphabetical order. */
export async function loadAllLabels(db: Db): Promise<string[]> {
  // Steps from one label to the next in the index: there are few labels, and they may have millions of resources.
  const { rows } = await sql<{ label: string }>`
    with recursive each as (
      (select label from resource_labels order by label limit 1)
      union all
      select (select l.label from resource_labels l where l.label > each.label order by l.label limit 1)
        from each where each.label is not null
    )
    select label from each where label is not null order by label
  `.execute(db.kysely)
  return rows.map(row => row.label)
}

/** Adds a label; false when the resource has it. */
export async function addLabel(
  tx: Tx,
  { level, id }: Pick<ResourceRow, 'level' | 'id'>,
  label: string,
): Promise<boolean> {
  const { rows } = await sql`
    insert into resource_labels (level, resource, label) values (${level}, ${id}, ${label}) on conflict do nothing returning label
  `.execute(tx)
  return rows.length > 0
}

/** Takes a label away; false when the resource does not have it. */
export async function removeLabel(
  tx: Tx,
  { level, id }: Pick<ResourceRow, 'level' | 'id'>,
  label: string,
): Promise<boolean> {
  const { rows } = await sql`
    delete from resource_labels where level = ${level} and resource = ${id} and label = ${label} returning label
  `.execute(tx)
  return rows.length > 0
}
