/** Orthanc's archives: resources as a ZIP file, in named folders or as a medium with a DICOMDIR. */
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { boolean, decode, describe, integer, isObject, list, object, oneOf, optional, text } from '../../decode.ts'
import { GatewayError } from '../../errors.ts'
import type { ZipArchives, ZipOptions } from '../../services/zip-archive.ts'
import { submitZip, type ZipJobs } from '../../services/zip-jobs.ts'
import type { Level } from '../../store/query.ts'
import { sendChunks } from '../send-chunks.ts'
import { namedSyntaxQuery } from './named-syntax-query.ts'

const tags = ['Orthanc']
const params = { type: 'object', properties: { id: { type: 'string', maxLength: 64 } }, required: ['id'] } as const
const querystring = {
  type: 'object',
  properties: {
    ...namedSyntaxQuery,
    extended: { type: 'string', description: 'Descriptions in the DICOMDIR beside the keys' },
    compression: {
      enum: ['stored', 'fast'],
      description: 'stored (default), or fast to deflate where it gains something',
    },
  },
} as const

interface Query {
  readonly transcode?: string
  readonly 'lossy-quality'?: number
  readonly extended?: string
  readonly compression?: 'stored' | 'fast'
}

const flags = {
  Asynchronous: optional(boolean),
  Synchronous: optional(boolean),
  Priority: optional(integer({ min: -(2 ** 31), max: 2 ** 31 - 1 })),
  Transcode: optional(text({ max: 64 })),
  LossyQuality: optional(integer({ min: 1, max: 100 })),
  Extended: optional(boolean),
  Compression: optional(oneOf('stored', 'fast'), 'stored'),
}
const oneResource = object(flags, { unknown: 'keep' })
const maxResources = 100_000
const manyResources = object(
  { ...flags, Resources: list(text({ max: 64 }), { max: maxResources }) },
  { unknown: 'keep' },
)

const levels: readonly { readonly path: string; readonly level: Level }[] = [
  { path: 'patients', level: 'patient' },
  { path: 'studies', level: 'study' },
  { path: 'series', level: 'series' },
]
const kinds = [
  { kind: 'archive', what: 'ZIP file' },
  { kind: 'media', what: 'ZIP file with a DICOMDIR' },
] as const

interface Named {
  readonly Params: { readonly id: string }
}

/** What the routes need. */
export interface ArchiveServices extends ZipJobs {
  readonly archives: ZipArchives
}

/** Registers the routes. */
export async function archiveRoutes(app: FastifyInstance, services: ArchiveServices): Promise<void> {
  const send = async (
    request: FastifyRequest,
    reply: FastifyReply,
    wanted: { readonly orthancIds: readonly string[]; readonly level?: Level },
    options: ZipOptions,
    body: Partial<BodyOptions> = {},
  ): Promise<FastifyReply> => {
    const archive = await services.archives.plan(request.principal, wanted, options)
    const filename = `${wanted.level === undefined ? 'Archive' : wanted.orthancIds[0]}.zip`
    if (body.Synchronous ?? !(body.Asynchronous ?? false)) {
      return await sendChunks(reply, { type: 'application/zip', filename }, signal => archive.write(signal))
    }
    const { layout } = options
    const job = { archive, layout, priority: body.Priority ?? 0, filename }
    const id = await submitZip(services, request.principal, job)
    return reply.send({ ID: id, Path: `/jobs/${id}` })
  }

  await app.register(async scope => {
    // Orthanc's clients send JSON under any content type: `curl -d` says it is a form.
    scope.removeAllContentTypeParsers()
    scope.addContentTypeParser('*', { parseAs: 'string' }, async (_request: unknown, body: string | Buffer) =>
      parseBody(String(body)),
    )
    for (const { path, level } of levels) {
      for (const { kind, what } of kinds) {
        scope.get<Named & { Querystring: Query }>(
          `/${path}/:id/${kind}`,
          {
            exposeHeadRoute: false,
            schema: { tags, summary: `A ${level} as a ${what}; audited`, params, querystring },
          },
          async (request, reply) => {
            const { transcode, extended, compression = 'stored', 'lossy-quality': lossyQuality } = request.query
            return await send(
              request,
              reply,
              { orthancIds: [request.params.id], level },
              {
                layout: layoutOf(kind, extended !== undefined),
                compression,
                lossyQuality,
                ...(transcode !== undefined && { transcodeTo: transcode }),
              },
            )
          },
        )
        scope.post<Named>(
          `/${path}/:id/${kind}`,
          { schema: { tags, summary: `A ${level} as a ${what}; audited`, params } },
          async (request, reply) => {
            const options = decode(oneResource, request.body)
            if (!options.ok) throw new GatewayError('BAD_REQUEST', describe(options.problems))
            const wanted = { orthancIds: [request.params.id], level }
            return await send(request, reply, wanted, optionsOf(kind, options.value, false), options.value)
          },
        )
      }
    }
    for (const { tool, kind, isExtended } of [
      { tool: 'create-archive', kind: 'archive', isExtended: false },
      { tool: 'create-media', kind: 'media', isExtended: false },
      { tool: 'create-media-extended', kind: 'media', isExtended: true },
    ] as const) {
      scope.post(
        `/tools/${tool}`,
        { schema: { tags, summary: `Resources of any level as a ${kind === 'media' ? 'medium' : kind}; audited` } },
        async (request, reply) => {
          const body = Array.isArray(request.body) ? { Resources: request.body } : request.body
          const options = decode(manyResources, body)
          if (!options.ok) throw new GatewayError('BAD_REQUEST', describe(options.problems))
          const wanted = { orthancIds: [...new Set(options.value.Resources)] }
          return await send(request, reply, wanted, optionsOf(kind, options.value, isExtended), options.value)
        },
      )
    }
  })
}

interface BodyOptions {
  readonly Asynchronous?: boolean | undefined
  readonly Synchronous?: boolean | undefined
  readonly Priority?: number | undefined
  readonly Transcode?: string | undefined
  readonly LossyQuality?: number | undefined
  readonly Extended?: boolean | undefined
  readonly Compression: 'stored' | 'fast'
}

function optionsOf(kind: 'archive' | 'media', body: BodyOptions, isExtended: boolean): ZipOptions {
  return {
    layout: layoutOf(kind, body.Extended ?? isExtended),
    compression: body.Compression,
    lossyQuality: body.LossyQuality,
    ...(body.Transcode !== undefined && { transcodeTo: body.Transcode }),
  }
}

const layoutOf = (kind: 'archive' | 'media', isExtended: boolean): ZipOptions['layout'] =>
  kind === 'archive' ? 'folders' : isExtended ? 'media-extended' : 'media'

function parseBody(body: string): unknown {
  try {
    const parsed: unknown = JSON.parse(body)
    if (isObject(parsed) || Array.isArray(parsed)) return parsed
  } catch {
    // refused below
  }
  throw new GatewayError('BAD_REQUEST', 'expected JSON')
}
