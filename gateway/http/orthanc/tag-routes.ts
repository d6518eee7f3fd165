/** Tags read from the files: of one instance, of a module, of all instances below a resource, and what those share. */
import { Readable } from 'node:stream'
import type { FastifyInstance, FastifyReply } from 'fastify'
import type { Dataset } from '../../dicom/dataset.ts'
import type { Tag } from '../../dicom/tag.ts'
import { isBulkVr } from '../../dicom/vr.ts'
import { GatewayError } from '../../errors.ts'
import type { ResourceDatasets } from '../../services/resource-datasets.ts'
import { levelOrder } from '../../store/hierarchy.ts'
import type { Level } from '../../store/query.ts'
import { formatOf, readTag } from './details.ts'
import { isAsked } from './lenient-scope.ts'
import type { TagFormat } from './main-tags.ts'
import { moduleTags } from './modules.ts'
import { idParams, pathOfLevel } from './navigation.ts'
import { formatTags, fullTags, type PrivateNames, type TagEntry, type TagOptions } from './tags.ts'

const tags = ['Orthanc']
const querystring = {
  type: 'object',
  properties: {
    simplify: { type: 'string', description: 'Tags by name' },
    short: { type: 'string', description: 'Tags by number, values only' },
    'ignore-length': { type: 'string', maxLength: 4096, description: 'Tags that are given whatever their length' },
  },
} as const

interface TagQuery {
  readonly simplify?: string
  readonly short?: string
  readonly 'ignore-length'?: string
}
interface Route {
  readonly Params: { id: string }
  readonly Querystring: TagQuery
}

/** Pixel data and other long values stay on disk. */
const bounds = { maxValueBytes: 65_536, maxTotalBytes: 16 * 1024 ** 2 } as const
const wholeBounds = { maxValueBytes: 4 * 1024 ** 2, maxTotalBytes: 16 * 1024 ** 2 } as const

/** Registers the routes. */
export function tagRoutes(
  app: FastifyInstance,
  { datasets, privateNames }: { readonly datasets: ResourceDatasets; readonly privateNames?: PrivateNames | undefined },
): void {
  const optionsFor = (query: TagQuery) => ({ ...optionsOf(query), privateNames })
  for (const [name, format, summary] of [
    ['tags', 'full', 'The data set as JSON; audited'],
    ['simplified-tags', 'simple', 'The data set as JSON by names; audited'],
  ] as const) {
    app.get<Route>(
      `/instances/:id/${name}`,
      { schema: { tags, summary, params: idParams, querystring } },
      async request => {
        const options = optionsFor(request.query)
        const dataset = await readOne('instance', request, options)
        return formatTags(dataset, format === 'simple' ? 'simple' : readFormat(request.query), options)
      },
    )
  }
  app.get<Route>(
    '/instances/:id/header',
    { schema: { tags, summary: 'The file meta information as JSON; audited', params: idParams, querystring } },
    async request => {
      for await (const { file } of datasets.read(request.principal, instance(request.params.id), {
        stopBefore: 0x00080000,
      })) {
        const { elements, charset } = file.meta
        const texts = elements.filter(element => !isBulkVr(element.vr))
        return formatTags({ elements: texts, charset }, readFormat(request.query), { groupLengths: true })
      }
      throw new GatewayError('NOT_FOUND', 'no such instance')
    },
  )
  // As in Orthanc these do not look at the level of the resource, but for its instances'.
  for (const level of levelOrder) moduleRoute(level, level, 'module')
  moduleRoute('study', 'patient', 'module-patient')
  for (const level of levelOrder.slice(0, -1)) {
    const path = `/${pathOfLevel[level]}/:id`
    app.get<Route>(
      `${path}/instances-tags`,
      { schema: { tags, summary: `The tags of each instance of a ${level}; audited`, params: idParams, querystring } },
      async (request, reply) => await sendEach(reply, request),
    )
    app.get<Route>(
      `${path}/shared-tags`,
      {
        schema: {
          tags,
          summary: `The tags that all instances of a ${level} share; audited`,
          params: idParams,
          querystring,
        },
      },
      async request => await shared(request),
    )
  }

  type Asked = { readonly principal: Parameters<ResourceDatasets['read']>[0] } & {
    readonly params: { readonly id: string }
    readonly query: TagQuery
  }

  function moduleRoute(level: Level, module: Level, name: string): void {
    app.get<Route>(
      `/${pathOfLevel[level]}/:id/${name}`,
      { schema: { tags, summary: `The ${module} module of a ${level}; audited`, params: idParams, querystring } },
      async request => {
        const options = optionsFor(request.query)
        const { elements, charset } = await readOne(level, request, options)
        const chosen = elements.filter(element => moduleTags[module].has(element.tag))
        return formatTags({ elements: chosen, charset }, readFormat(request.query), options)
      },
    )
  }

  /** The data set of the first instance of a resource. */
  async function readOne(level: Level, { principal, params }: Asked, options: TagOptions): Promise<Dataset> {
    const resource = level === 'instance' ? instance(params.id) : { orthancId: params.id }
    for await (const { file } of datasets.read(principal, resource, { ...boundsOf(options), limit: 1 }))
      return file.dataset
    throw new GatewayError('NOT_FOUND', `no such ${level}`)
  }

  /** As in Orthanc, texts only: what is alike in binary values, or in sequences, is not told. */
  async function shared({ principal, params, query }: Asked): Promise<object> {
    const options = optionsFor(query)
    let common: Map<string, TagEntry> | undefined
    for await (const { file } of datasets.read(principal, { orthancId: params.id }, boundsOf(options))) {
      const here = new Map(Object.entries(fullTags(file.dataset, options)).filter(([, { Type }]) => Type === 'String'))
      if (!common) common = here
      else for (const [tag, { Value }] of common) if (here.get(tag)?.Value !== Value) common.delete(tag)
    }
    const format = readFormat(query)
    return Object.fromEntries(
      [...(common ?? [])].map(([tag, entry]) =>
        format === 'full' ? [tag, entry] : [format === 'simple' ? entry.Name : tag, entry.Value],
      ),
    )
  }

  /** One object written instance by instance. */
  async function sendEach(reply: FastifyReply, { principal, params, query }: Asked): Promise<FastifyReply> {
    const options = optionsFor(query)
    const format = readFormat(query)
    const instances = datasets.read(principal, { orthancId: params.id }, boundsOf(options))
    // What is wrong shows before the first byte has left.
    const first = await instances.next()
    async function* text(): AsyncGenerator<string> {
      let separator = '{'
      for (let next = first; !next.done; next = await instances.next()) {
        const { orthancId, file } = next.value
        yield `${separator}${JSON.stringify(orthancId)}:${JSON.stringify(formatTags(file.dataset, format, options))}`
        separator = ','
      }
      yield separator === '{' ? '{}' : '}'
    }
    return reply.type('application/json; charset=utf-8').send(Readable.from(text()))
  }
}

const instance = (orthancId: string) => ({ level: 'instance', orthancId }) as const
const readFormat = ({ simplify, short }: TagQuery): TagFormat =>
  isAsked(simplify) ? 'simple' : formatOf(true, isAsked(short))
const boundsOf = ({ whole }: TagOptions) => (whole && whole.size > 0 ? wholeBounds : bounds)

function optionsOf(query: TagQuery): { readonly whole: ReadonlySet<Tag> } {
  const names = (query['ignore-length'] ?? '').split(',').filter(name => name !== '')
  return { whole: new Set(names.map(readTag)) }
}
