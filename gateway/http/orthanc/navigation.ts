/** Lists, single resources, the ways between the levels, and what each holds. */
import type { FastifyInstance } from 'fastify'
import type { Db } from '../../db/db.ts'
import { GatewayError } from '../../errors.ts'
import {
  findAncestor,
  findDescendants,
  findResource,
  levelOrder,
  loadAttachedBytes,
  loadPartCounts,
} from '../../store/hierarchy.ts'
import { findIds, type Level } from '../../store/query.ts'
import { loadDetails, type ShapeQuery, shapeOf, shapeQuery } from './details.ts'
import { sendList } from './id-list.ts'
import { isAsked } from './lenient-scope.ts'

const tags = ['Orthanc']
/** Parameters of a route about one resource. */
export const idParams = {
  type: 'object',
  properties: { id: { type: 'string', maxLength: 64 } },
  required: ['id'],
} as const
const count = { type: 'integer', minimum: 0, maximum: Number.MAX_SAFE_INTEGER } as const
const expand = { type: 'string', description: 'Give details instead of ids' } as const
const listQuery = {
  type: 'object',
  properties: {
    since: { ...count, description: 'Rows to skip; only together with limit' },
    limit: { ...count, description: 'Rows to give; only together with since' },
    expand,
    ...shapeQuery,
  },
} as const
const oneQuery = { type: 'object', properties: shapeQuery } as const
const childrenQuery = { type: 'object', properties: { expand, ...shapeQuery } } as const

/** The levels by the first part of their paths. */
export const levelOfPath = { patients: 'patient', studies: 'study', series: 'series', instances: 'instance' } as const
/** The first part of the paths of a level. */
export const pathOfLevel: Readonly<Record<Level, keyof typeof levelOfPath>> = {
  patient: 'patients',
  study: 'studies',
  series: 'series',
  instance: 'instances',
}

interface ListQuery extends ShapeQuery {
  readonly since?: number
  readonly limit?: number
  readonly expand?: string
}
interface One {
  readonly Params: { id: string }
  readonly Querystring: ShapeQuery
}
interface Children {
  readonly Params: { id: string }
  readonly Querystring: ShapeQuery & { readonly expand?: string }
}

/** Registers the routes. */
export function navigationRoutes(app: FastifyInstance, { db }: { readonly db: Db }): void {
  for (const level of levelOrder) {
    const path = pathOfLevel[level]
    app.get<{ Querystring: ListQuery }>(
      `/${path}`,
      { schema: { tags, summary: `List ${path}`, querystring: listQuery } },
      async (request, reply) => {
        const { since, limit, expand } = request.query
        if ((since === undefined) !== (limit === undefined)) {
          throw new GatewayError('BAD_REQUEST', 'since and limit are given together or not at all')
        }
        const window = since !== undefined && limit !== undefined ? { since, limit } : undefined
        const shape = shapeOf(request.query)
        return await sendList(reply, findIds(db, level, window), isAsked(expand) ? { db, level, shape } : undefined)
      },
    )
    app.get<One>(
      `/${path}/:id`,
      { schema: { tags, summary: `One ${level}`, params: idParams, querystring: oneQuery } },
      async request => {
        const [found] = await loadDetails(db, level, [request.params.id], shapeOf(request.query))
        if (!found) throw unknown(level)
        return found
      },
    )
    app.get<One>(
      `/${path}/:id/statistics`,
      { schema: { tags, summary: `What a ${level} holds`, params: idParams } },
      async request => await statistics(db, level, request.params.id),
    )
    const place = levelOrder.indexOf(level)
    for (const above of levelOrder.slice(0, place)) upRoute(app, db, level, above)
    for (const below of levelOrder.slice(place + 1)) downRoute(app, db, level, below)
  }
}

function upRoute(app: FastifyInstance, db: Db, level: Level, above: Level): void {
  app.get<One>(
    `/${pathOfLevel[level]}/:id/${above}`,
    { schema: { tags, summary: `The ${above} of a ${level}`, params: idParams, querystring: oneQuery } },
    async request => {
      const id = await findAncestor(db, level, request.params.id, above)
      const [found] = id === undefined ? [] : await loadDetails(db, above, [id], shapeOf(request.query))
      if (!found) throw unknown(level)
      return found
    },
  )
}

function downRoute(app: FastifyInstance, db: Db, level: Level, below: Level): void {
  app.get<Children>(
    `/${pathOfLevel[level]}/:id/${pathOfLevel[below]}`,
    {
      schema: {
        tags,
        summary: `The ${pathOfLevel[below]} of a ${level}; expand=false gives ids only`,
        params: idParams,
        querystring: childrenQuery,
      },
    },
    async (request, reply) => {
      const { id } = request.params
      if (!(await findResource(db, level, id))) throw unknown(level)
      const isExpanded = request.query.expand === undefined || isAsked(request.query.expand)
      const shape = shapeOf(request.query)
      const pages = findDescendants(db, level, id, below)
      return await sendList(reply, pages, isExpanded ? { db, level: below, shape } : undefined)
    },
  )
}

/** The error for an id that no resource of the level has. */
export function unknown(level: Level): GatewayError {
  return new GatewayError('NOT_FOUND', `no such ${level}`)
}

/** Counts of the levels below and bytes, as Orthanc gives them for a resource. */
async function statistics(db: Db, level: Level, id: string): Promise<object> {
  const counts = await loadPartCounts(db, level, id)
  if (!counts) throw unknown(level)
  const attached = await loadAttachedBytes(db, level, id)
  return {
    ...(level !== 'instance' && { CountInstances: counts.instances }),
    ...((level === 'patient' || level === 'study') && { CountSeries: counts.series }),
    ...(level === 'patient' && { CountStudies: counts.studies }),
    ...sizes('Dicom', counts.sizeBytes, counts.sizeBytes),
    ...sizes('', counts.sizeBytes + attached.stored, counts.sizeBytes + attached.content),
  }
}

function sizes(prefix: string, storedBytes: number, contentBytes: number): Record<string, string | number> {
  return {
    [`${prefix}DiskSize`]: String(storedBytes),
    [`${prefix}DiskSizeMB`]: Math.floor(storedBytes / 1024 ** 2),
    [`${prefix}UncompressedSize`]: String(contentBytes),
    [`${prefix}UncompressedSizeMB`]: Math.floor(contentBytes / 1024 ** 2),
  }
}
