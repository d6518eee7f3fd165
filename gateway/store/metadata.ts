/**
 * Metadata of resources: what the store knows of them anyway, under Orthanc's names and numbers, and what others
 * have set. Numbers from 1024 on are the users'.
 */
import { sql } from 'kysely'
import type { Db, Tx } from '../db/db.ts'
import { isObject } from '../decode.ts'
import { expectedInstances, indexInSeries } from '../dicom/series-count.ts'
import { levelTables, type ResourceRow } from './hierarchy.ts'
import type { Level, StoredAttributes } from './query.ts'

/** Orthanc's own metadata by number. */
export const systemMetadata = {
  IndexInSeries: 1,
  ReceptionDate: 2,
  RemoteAET: 3,
  ExpectedNumberOfInstances: 4,
  ModifiedFrom: 5,
  AnonymizedFrom: 6,
  LastUpdate: 7,
  Origin: 8,
  TransferSyntax: 9,
  SopClassUid: 10,
  RemoteIP: 11,
  CalledAET: 12,
  HttpUsername: 13,
  HttpHost: 14,
  PixelDataOffset: 15,
} as const

/** The first number that users may set, and the last. */
export const userMetadata = { first: 1024, last: 65_535 } as const

/** One entry. */
export interface Metadatum {
  readonly name: number
  readonly value: string
  /** Raised by each change; 0 for what the store knows by itself. */
  readonly revision: number
}

/** All metadata of resources by Orthanc id, in order of their numbers; unknown resources are left out. */
export async function loadMetadata(
  db: Db,
  level: Level,
  orthancIds: readonly string[],
): Promise<Map<string, Metadatum[]>> {
  const known = await loaders[level](db, orthancIds)
  const { rows } = await sql<{ resource: number; name: number; value: string; revision: number }>`
    select resource, name, value, revision from resource_metadata
     where level = ${level} and resource = any(${known.map(row => row.id)}::bigint[])
  `.execute(db.kysely)
  const stored = Map.groupBy(rows, row => row.resource)
  return new Map(
    known.map(({ id, orthancId, metadata }) => {
      const own = (stored.get(id) ?? []).map(({ name, value, revision }) => ({ name, value, revision }))
      const given = Object.entries(metadata).flatMap(([name, value]) =>
        value === undefined ? [] : [{ name: numberOf(name), value, revision: 0 }],
      )
      // What was taken over from another store precedes what this one knows.
      const set = new Set(own.map(({ name }) => name))
      const left = given.filter(({ name }) => !set.has(name))
      return [orthancId, [...left, ...own].sort((one, other) => one.name - other.name)]
    }),
  )
}

const numberOf = (name: string): number => Object.entries(systemMetadata).find(([key]) => key === name)?.[1] ?? 0

/** What resources were made of, by Orthanc id under Orthanc's names; those that were not made here are left out. */
export async function loadSources(
  db: Db,
  level: Level,
  orthancIds: readonly string[],
): Promise<Map<string, Readonly<Record<string, string>>>> {
  const { ModifiedFrom, AnonymizedFrom } = systemMetadata
  const { rows } = await sql<{ orthancId: string; name: number; value: string }>`
    select r.orthanc_id as "orthancId", m.name, m.value
      from ${sql.table(levelTables[level])} r
      join resource_metadata m on m.level = ${level} and m.resource = r.id and m.name in (${ModifiedFrom}, ${AnonymizedFrom})
     where r.orthanc_id = any(${orthancIds}::text[])
  `.execute(db.kysely)
  return new Map(
    [...Map.groupBy(rows, row => row.orthancId)].map(([orthancId, found]) => [
      orthancId,
      Object.fromEntries(
        found.map(({ name, value }) => [name === ModifiedFrom ? 'ModifiedFrom' : 'AnonymizedFrom', value]),
      ),
    ]),
  )
}

/** Sets an entry, whatever its number; answers its new revision. */
export async function setMetadatum(
  tx: Tx,
  { level, id }: Pick<ResourceRow, 'level' | 'id'>,
  name: number,
  value: string,
): Promise<number> {
  const { rows } = await sql<{ revision: number }>`
    insert into resource_metadata as m (level, resource, name, value) values (${level}, ${id}, ${name}, ${value})
    on conflict (level, resource, name) do update set value = excluded.value, revision = m.revision + 1
    returning revision
  `.execute(tx)
  return rows[0]?.revision ?? 0
}

/** A set entry, locked for a change. */
export async function lockMetadatum(
  tx: Tx,
  { level, id }: Pick<ResourceRow, 'level' | 'id'>,
  name: number,
): Promise<Metadatum | undefined> {
  const { rows } = await sql<Metadatum>`
    select name, value, revision from resource_metadata
     where level = ${level} and resource = ${id} and name = ${name} for update
  `.execute(tx)
  return rows[0]
}

/** Removes a set entry. */
export async function deleteMetadatum(
  tx: Tx,
  { level, id }: Pick<ResourceRow, 'level' | 'id'>,
  name: number,
): Promise<void> {
  await sql`delete from resource_metadata where level = ${level} and resource = ${id} and name = ${name}`.execute(tx)
}

/** What the store knows of one resource by itself, by Orthanc's names. */
interface Known {
  readonly id: number
  readonly orthancId: string
  readonly metadata: Partial<Record<keyof typeof systemMetadata, string | undefined>>
}

type Loader = (db: Db, orthancIds: readonly string[]) => Promise<Known[]>

const loaders: Readonly<Record<Level, Loader>> = {
  patient: (db, ids) => updated(db, 'patients', ids),
  study: (db, ids) => updated(db, 'studies', ids),
  series,
  instance,
}

async function updated(db: Db, table: 'patients' | 'studies', ids: readonly string[]): Promise<Known[]> {
  const { rows } = await sql<{ id: number; orthancId: string; at: Date }>`
    select id, orthanc_id as "orthancId", updated_at as at from ${sql.table(table)} where orthanc_id = any(${ids}::text[])
  `.execute(db.kysely)
  return rows.map(({ id, orthancId, at }) => ({ id, orthancId, metadata: { LastUpdate: stampOf(at) } }))
}

async function series(db: Db, ids: readonly string[]): Promise<Known[]> {
  const { rows } = await sql<{
    id: number
    orthancId: string
    at: Date
    attributes: StoredAttributes
    origin: unknown
  }>`
    select c.id, c.orthanc_id as "orthancId", c.updated_at as at, c.attributes,
           (select i.origin from instances i where i.series = c.id order by i.id limit 1) as origin
      from series c where c.orthanc_id = any(${ids}::text[])
  `.execute(db.kysely)
  return rows.map(({ id, orthancId, at, attributes, origin }) => ({
    id,
    orthancId,
    metadata: {
      RemoteAET: textOf(origin, 'callingAe') ?? '',
      ExpectedNumberOfInstances: expectedInstances(attributes)?.toString(),
      LastUpdate: stampOf(at),
    },
  }))
}

/** Orthanc's words for where an instance came from. */
const origins: Readonly<Record<string, string>> = { dimse: 'DicomProtocol', rest: 'RestApi', peer: 'Plugins' }

async function instance(db: Db, ids: readonly string[]): Promise<Known[]> {
  const { rows } = await sql<{
    id: number
    orthancId: string
    at: Date
    attributes: StoredAttributes
    origin: unknown
    syntax: string
    sopClass: string
    offset: number | null
  }>`
    select id, orthanc_id as "orthancId", created_at as at, attributes, origin, transfer_syntax_uid as syntax,
           sop_class_uid as "sopClass", pixel_data_offset as offset
      from instances where orthanc_id = any(${ids}::text[])
  `.execute(db.kysely)
  return rows.map(({ id, orthancId, at, attributes, origin, syntax, sopClass, offset }) => {
    const kind = textOf(origin, 'kind') ?? 'rest'
    return {
      id,
      orthancId,
      metadata: {
        IndexInSeries: indexInSeries(attributes)?.toString(),
        ReceptionDate: stampOf(at),
        RemoteAET: textOf(origin, 'callingAe') ?? '',
        Origin: origins[kind] ?? 'Unknown',
        TransferSyntax: syntax,
        SopClassUid: sopClass,
        RemoteIP: textOf(origin, 'remoteAddress'),
        CalledAET: kind === 'dimse' ? textOf(origin, 'calledAe') : undefined,
        PixelDataOffset: offset?.toString() ?? '',
        HttpUsername: kind === 'rest' ? userOf(textOf(origin, 'principal') ?? '') : undefined,
      },
    }
  })
}

/** The name of a token or user; this machine's administrator needs none. */
const userOf = (principal: string): string => /^(?:token|user):(.*)$/.exec(principal)?.[1] ?? ''

function textOf(origin: unknown, key: string): string | undefined {
  const value = isObject(origin) ? origin[key] : undefined
  return typeof value === 'string' ? value : undefined
}

/** `20261122T214424`, UTC. */
function stampOf(at: Date): string {
  return at.toISOString().slice(0, 19).replace(/[-:]/g, '')
}
