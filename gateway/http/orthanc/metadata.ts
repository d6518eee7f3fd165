/** Metadata, labels and protection of resources. */
import type { FastifyInstance, FastifyReply } from 'fastify'
import { GatewayError } from '../../errors.ts'
import { md5Of, type ResourceMetadata } from '../../services/resource-metadata.ts'
import { levelOrder } from '../../store/hierarchy.ts'
import { systemMetadata } from '../../store/metadata.ts'
import type { Level } from '../../store/query.ts'
import { entityTag, isKnown, seenRevision } from './entity-tag.ts'
import { booleanBody, isAsked, lenientScope, textBody } from './lenient-scope.ts'
import { type Names, nameTable } from './names.ts'
import { idParams, pathOfLevel } from './navigation.ts'

/** What the routes need. */
export interface MetadataServices {
  readonly metadata: ResourceMetadata
  /** Names of users' metadata. */
  readonly metadataNames?: Names | undefined
}

const tags = ['Orthanc']
const namedParams = {
  type: 'object',
  properties: { ...idParams.properties, name: { type: 'string', minLength: 1, maxLength: 64 } },
  required: ['id', 'name'],
} as const
const listQuery = {
  type: 'object',
  properties: {
    expand: { type: 'string', description: 'Give values too' },
    numeric: { type: 'string', description: 'Give numbers instead of names' },
  },
} as const

interface One {
  readonly Params: { id: string }
}
interface Named {
  readonly Params: { id: string; name: string }
}

const text = (reply: FastifyReply, body: string): FastifyReply => reply.type('text/plain').send(body)

/** Registers the routes. */
export function metadataRoutes(app: FastifyInstance, { metadata, metadataNames = {} }: MetadataServices): void {
  const names = nameTable({ ...systemMetadata, ...metadataNames })
  app.get('/tools/labels', { schema: { tags, summary: 'All labels' } }, async () => await metadata.allLabels())
  lenientScope(app, scope => {
    for (const level of levelOrder) {
      listRoutes(scope, level)
      entryRoutes(scope, level)
      labelRoutes(scope, level)
    }
    protectionRoutes(scope)
  })

  function listRoutes(scope: FastifyInstance, level: Level): void {
    scope.get<One & { Querystring: { expand?: string; numeric?: string } }>(
      `/${pathOfLevel[level]}/:id/metadata`,
      { schema: { tags, summary: `Metadata of a ${level}`, params: idParams, querystring: listQuery } },
      async request => {
        const { expand, numeric } = request.query
        const found = await metadata.list({ level, orthancId: request.params.id })
        const nameOf = (name: number): string => (isAsked(numeric) ? String(name) : names.nameOf(name))
        if (isAsked(expand)) return Object.fromEntries(found.map(({ name, value }) => [nameOf(name), value]))
        return found.map(({ name }) => (isAsked(numeric) ? name : nameOf(name)))
      },
    )
  }

  function entryRoutes(scope: FastifyInstance, level: Level): void {
    const path = `/${pathOfLevel[level]}/:id/metadata/:name`
    const schema = (summary: string) => ({ schema: { tags, summary, params: namedParams } })
    scope.get<Named>(path, schema(`One metadata of a ${level}`), async (request, reply) => {
      const { id, name } = request.params
      const number = names.numberOf(name)
      const found = (await metadata.list({ level, orthancId: id })).find(entry => entry.name === number)
      if (!found) throw new GatewayError('NOT_FOUND', 'no such metadata')
      const current = { revision: found.revision, md5: md5Of(found.value) }
      reply.header('etag', entityTag(current))
      return isKnown(request, current) ? reply.code(304).send() : text(reply, found.value)
    })
    scope.put<Named>(
      path,
      schema(`Set metadata of a ${level}, numbers from 1024 on; audited`),
      async (request, reply) => {
        const { id, name } = request.params
        const value = textBody(request.body)
        const { revision } = await metadata.set(
          request.principal,
          { level, orthancId: id },
          names.numberOf(name),
          value,
          seenRevision(request),
        )
        return text(reply.header('etag', entityTag({ revision, md5: md5Of(value) })), '')
      },
    )
    scope.delete<Named>(path, schema(`Remove metadata of a ${level}; audited`), async (request, reply) => {
      const { id, name } = request.params
      await metadata.remove(request.principal, { level, orthancId: id }, names.numberOf(name), seenRevision(request))
      return text(reply, '')
    })
  }

  function labelRoutes(scope: FastifyInstance, level: Level): void {
    const path = `/${pathOfLevel[level]}/:id/labels`
    scope.get<One>(
      path,
      { schema: { tags, summary: `Labels of a ${level}`, params: idParams } },
      async request => await metadata.labels({ level, orthancId: request.params.id }),
    )
    const schema = (summary: string) => ({ schema: { tags, summary, params: namedParams } })
    scope.get<Named>(`${path}/:name`, schema(`Has the ${level} this label?`), async (request, reply) => {
      const { id, name } = request.params
      if (!(await metadata.labels({ level, orthancId: id })).includes(name)) {
        throw new GatewayError('NOT_FOUND', 'no such label')
      }
      return text(reply, '')
    })
    scope.put<Named>(`${path}/:name`, schema(`Label a ${level}; audited`), async (request, reply) => {
      const { id, name } = request.params
      await metadata.addLabel(request.principal, { level, orthancId: id }, name)
      return text(reply, '')
    })
    scope.delete<Named>(`${path}/:name`, schema(`Take a label from a ${level}; audited`), async (request, reply) => {
      const { id, name } = request.params
      await metadata.removeLabel(request.principal, { level, orthancId: id }, name)
      return text(reply, '')
    })
  }

  function protectionRoutes(scope: FastifyInstance): void {
    const path = '/patients/:id/protected'
    scope.get<One>(
      path,
      { schema: { tags, summary: 'Is the patient protected?', params: idParams } },
      async (request, reply) => text(reply, (await metadata.isProtected(request.params.id)) ? '1' : '0'),
    )
    const description = 'A mark for clients: nothing is recycled by this server.'
    scope.put<One>(
      path,
      { schema: { tags, summary: 'Protect a patient, or not', description, params: idParams } },
      async (request, reply) => {
        await metadata.protect(request.principal, request.params.id, booleanBody(request.body))
        return text(reply, '')
      },
    )
  }
}
