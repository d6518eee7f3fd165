/** WADO-RS: metadata, data sets with their bulk data by reference; DICOM PS3.18 §10.4.1.1.2. */
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import type { Element } from '../../dicom/dataset.ts'
import { bulkPaths } from '../../dicom/element-path.ts'
import { type DicomJson, toJson } from '../../dicom/json.ts'
import { readPart10 } from '../../dicom/part10-reader.ts'
import { GatewayError } from '../../errors.ts'
import type { Retrieve } from '../../services/retrieve.ts'
import type { PlannedInstance } from '../../services/retrieve-plan.ts'
import { baseUrlOf, type ServicePlace } from './base-url.ts'
import { formatOf, sendDataSets } from './data-sets.ts'
import { instanceUrl, keysOf, readerOf, uidParams } from './uids.ts'

/** What the routes need. */
export interface MetadataServices {
  readonly retrieve: Retrieve
  readonly place: ServicePlace
}

type UidRequest = FastifyRequest<{ Params: Record<string, string>; Querystring: Record<string, string | string[]> }>

const routes = [
  { url: '/studies/:study/metadata', summary: 'Retrieve the metadata of a study' },
  { url: '/studies/:study/series/:series/metadata', summary: 'Retrieve the metadata of a series' },
  {
    url: '/studies/:study/series/:series/instances/:instance/metadata',
    summary: 'Retrieve the metadata of an instance',
  },
] as const
const description =
  'The data sets as application/dicom+json or multipart application/dicom+xml; long binary values are BulkDataURIs. Audited.'

/** Shorter binary values stand in the metadata themselves. */
const longestInlineBytes = 1024
const limits = { maxValueBytes: 65_536, maxTotalBytes: 16 * 1024 ** 2 }
const pixelData: ReadonlySet<number> = new Set([0x7fe00008, 0x7fe00009, 0x7fe00010])

/** Registers the routes. */
export function metadataRoutes(app: FastifyInstance, services: MetadataServices): void {
  for (const { url, summary } of routes) {
    app.get<{ Params: Record<string, string>; Querystring: Record<string, string | string[]> }>(
      url,
      {
        config: { action: 'study.read' },
        exposeHeadRoute: false,
        schema: { tags: ['DICOMweb'], summary, description, ...uidParams(url) },
      },
      (request, reply) => answer(services, request, reply),
    )
  }
}

async function answer(
  { retrieve, place }: MetadataServices,
  request: UidRequest,
  reply: FastifyReply,
): Promise<FastifyReply> {
  const format = formatOf(request)
  const plan = await retrieve.plan(keysOf(request.params))
  if (plan.instanceCount === 0) throw new GatewayError('NOT_FOUND', 'no such instances')
  await plan.read(readerOf(request.principal))
  const baseUrl = baseUrlOf(request, place)
  const iterator = plan.instances()[Symbol.asyncIterator]()
  // The first one is read before the answer begins, so that what fails at once is told as an error.
  const first = await iterator.next()
  const head = first.done ? undefined : await metadataOf(retrieve, first.value, baseUrl)
  return sendDataSets(
    reply,
    format,
    (async function* () {
      if (head) yield [head]
      for (let next = await iterator.next(); !next.done; next = await iterator.next()) {
        yield [await metadataOf(retrieve, next.value, baseUrl)]
      }
    })(),
  )
}

/** The metadata of a stored instance. @throws GatewayError as `Retrieve.openDataset` and `readPart10` */
async function metadataOf(
  retrieve: Pick<Retrieve, 'openDataset'>,
  instance: PlannedInstance,
  baseUrl: string,
): Promise<DicomJson> {
  const stored = await retrieve.openDataset(instance)
  try {
    const { dataset } = await readPart10(stored.source, limits)
    const paths = bulkPaths(dataset)
    const place = `${instanceUrl(baseUrl, instance)}/bulkdata/`
    const bulkDataUri = (element: Element): string | undefined => {
      const isShort = element.value !== undefined && element.length <= longestInlineBytes && !pixelData.has(element.tag)
      return isShort ? undefined : `${place}${paths.get(element) ?? ''}`
    }
    // Available Transfer Syntax UID, so that a viewer knows what the frames are.
    return { ...toJson(dataset, { bulkDataUri }), '00083002': { vr: 'UI', Value: [instance.transferSyntaxUid] } }
  } finally {
    await stored.close()
    stored.onFlushed()
  }
}
