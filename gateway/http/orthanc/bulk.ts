/** Orthanc's `/tools/bulk-content` and `/tools/bulk-delete`: many resources of any levels in one call. */
import { Readable } from 'node:stream'
import type { FastifyInstance } from 'fastify'
import type { Db } from '../../db/db.ts'
import { isObject } from '../../decode.ts'
import { GatewayError } from '../../errors.ts'
import { readFlag, readIds, readLevel } from '../../services/modify-request.ts'
import { findKnownResources, type Resource } from '../../services/modify-sources.ts'
import type { Removal } from '../../services/removal.ts'
import { findAncestor, findDescendants, levelOrder } from '../../store/hierarchy.ts'
import { loadMetadata, systemMetadata } from '../../store/metadata.ts'
import type { Level } from '../../store/query.ts'
import { formatOf, loadDetails, type Shape } from './details.ts'
import { readAnyBodyAsJson } from './json-body.ts'
import { type Names, nameTable } from './names.ts'

/** What the routes need. */
export interface BulkServices {
  readonly db: Db
  readonly removal: Removal
  /** Names of users' metadata. */
  readonly metadataNames?: Names | undefined
}

const tags = ['Orthanc']
/** The most resources that one call describes. */
const mostResources = 100_000
const detailPage = 100

/** Registers the routes. */
export function bulkRoutes(app: FastifyInstance, services: BulkServices): void {
  const { db, removal, metadataNames = {} } = services
  const names = nameTable({ ...systemMetadata, ...metadataNames })

  /** Details of resources of one level, with their metadata where it is wanted. */
  const describe = async (level: Level, ids: readonly string[], shape: Shape, withMetadata: boolean) => {
    const found = await loadDetails(db, level, ids, shape)
    if (!withMetadata) return found
    const metadata = await loadMetadata(db, level, ids)
    return found.map(detail => ({
      ...detail,
      Metadata: Object.fromEntries(
        ('ID' in detail ? (metadata.get(String(detail.ID)) ?? []) : []).map(entry => [
          names.nameOf(entry.name),
          entry.value,
        ]),
      ),
    }))
  }

  app.register(async scope => {
    readAnyBodyAsJson(scope)

    scope.post(
      '/tools/bulk-content',
      { schema: { tags, summary: 'What several resources are, or those above or below them at a level' } },
      async (request, reply) => {
        const body = isObject(request.body) ? request.body : {}
        const ids = readIds(request.body, 'Resources')
        const level = body['Level'] === undefined ? undefined : readLevel(body['Level'])
        if (body['Level'] !== undefined && !level)
          throw new GatewayError('BAD_REQUEST', 'Level: expected Patient, Study, Series or Instance')
        const shape = {
          format: formatOf(readFlag(body, 'Full') ?? false, readFlag(body, 'Short') ?? false),
          requested: [],
        }
        const withMetadata = readFlag(body, 'Metadata') ?? true
        const named = await findKnownResources(db, ids)
        const wanted = level ? await atLevel(db, named, level) : named
        async function* text(): AsyncGenerator<string> {
          let separator = '['
          for (const page of pagesOf(wanted)) {
            const found = await describe(page.level, page.ids, shape, withMetadata)
            if (found.length === 0) continue
            yield separator + found.map(item => JSON.stringify(item)).join(',')
            separator = ','
          }
          yield separator === '[' ? '[]' : ']'
        }
        return reply.type('application/json; charset=utf-8').send(Readable.from(text()))
      },
    )

    scope.post(
      '/tools/bulk-delete',
      {
        schema: {
          tags,
          summary: 'Delete several resources; audited. Unknown ids are passed over',
          description: '409 while a transfer still has to send one of them: then those of its level all stay.',
        },
      },
      async (request, reply) => {
        const named = await findKnownResources(db, readIds(request.body, 'Resources'))
        for (const level of levelOrder) {
          const ids = named.filter(one => one.level === level).map(one => one.orthancId)
          if (ids.length > 0) await removal.remove(request.principal, level, ids)
        }
        return reply.type('text/plain').send('')
      },
    )
  })
}

/** The resources of a level that these are, are below of, or above of; each once. */
async function atLevel(db: Db, named: readonly Resource[], level: Level): Promise<Resource[]> {
  const ids = new Set<string>()
  const add = (id: string): void => {
    ids.add(id)
    if (ids.size > mostResources) throw new GatewayError('TOO_LARGE', `expected at most ${mostResources} resources`)
  }
  for (const { level: own, orthancId } of named) {
    if (own === level) add(orthancId)
    else if (levelOrder.indexOf(level) < levelOrder.indexOf(own)) {
      const above = await findAncestor(db, own, orthancId, level)
      if (above !== undefined) add(above)
    } else {
      for await (const page of findDescendants(db, own, orthancId, level)) for (const id of page) add(id)
    }
  }
  return [...ids].sort().map(orthancId => ({ level, orthancId }))
}

/** Neighbours of one level together, in their order. */
function* pagesOf(resources: readonly Resource[]): Generator<{ level: Level; ids: string[] }> {
  let page: { level: Level; ids: string[] } | undefined
  for (const { level, orthancId } of resources) {
    if (page && (page.level !== level || page.ids.length >= detailPage)) {
      yield page
      page = undefined
    }
    page ??= { level, ids: [] }
    page.ids.push(orthancId)
  }
  if (page) yield page
}
