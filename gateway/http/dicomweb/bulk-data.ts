/** WADO-RS: bulk data that metadata refer to, whole or a range; DICOM PS3.18 §10.4.1.1.5. */
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import type { Element } from '../../dicom/dataset.ts'
import { elementAt } from '../../dicom/element-path.ts'
import { inflateSource } from '../../dicom/inflate-source.ts'
import { newBoundary, partsBody } from '../../dicom/multipart-writer.ts'
import { readPart10 } from '../../dicom/part10-reader.ts'
import { vrFacts } from '../../dicom/vr.ts'
import { GatewayError } from '../../errors.ts'
import type { ReusingSource } from '../../services/retrieve.ts'
import { parseRange } from '../send-file.ts'
import { acceptOf } from './data-sets.ts'
import { type FrameServices, onlyInstance, sendFrames } from './frames.ts'
import { ofType, representations } from './representation.ts'
import { contentOf } from './source-content.ts'
import { streamAnswer } from './stream-answer.ts'
import { uidParams } from './uids.ts'

type BulkRequest = FastifyRequest<{ Params: Record<string, string>; Querystring: Record<string, string | string[]> }>

const url = '/studies/:study/series/:series/instances/:instance/bulkdata/*'
const type = 'application/octet-stream'
const pixelData = 0x7fe00010
const maxInflatedBytes = 4_294_967_296
/** No value is needed, only its place. */
const limits = { maxValueBytes: 0, maxTotalBytes: 0 }

/** Registers the route. */
export function bulkDataRoutes(app: FastifyInstance, services: FrameServices): void {
  app.get<{ Params: Record<string, string>; Querystring: Record<string, string | string[]> }>(
    url,
    {
      config: { action: 'study.read' },
      exposeHeadRoute: false,
      schema: {
        tags: ['DICOMweb'],
        summary: 'Retrieve a value that metadata refer to by BulkDataURI',
        description:
          'application/octet-stream, little endian, single part or multipart, whole or a range of bytes; compressed ' +
          'pixel data as frames. Audited.',
        ...uidParams(url),
      },
    },
    (request, reply) => answer(services, request, reply),
  )
}

async function answer(services: FrameServices, request: BulkRequest, reply: FastifyReply): Promise<FastifyReply> {
  const instance = await onlyInstance(services.retrieve, request)
  const stored = await services.retrieve.openDataset(instance)
  try {
    const { dataset, datasetOffset, isDeflated } = await readPart10(stored.source, limits)
    const element = elementAt(dataset, request.params['*'] ?? '')
    if (!element || element.items) throw new GatewayError('NOT_FOUND', 'no such bulk data')
    if (element.fragments) {
      if (element.tag === pixelData && dataset.elements.includes(element)) {
        return await sendFrames(services, request, reply, instance, 'all')
      }
      throw new GatewayError('NOT_ACCEPTABLE', 'compressed pixels of an item cannot be had by themselves')
    }
    if (!isDeflated) return await sendValue(request, reply, valueSource(stored.source, element))
    await using inflated = inflateSource(stored.source, datasetOffset, maxInflatedBytes)
    return await sendValue(request, reply, valueSource(inflated, element))
  } finally {
    await stored.close()
    stored.onFlushed()
  }
}

async function sendValue(request: BulkRequest, reply: FastifyReply, value: ReusingSource): Promise<FastifyReply> {
  const [best] = ofType(representations(acceptOf(request)), type)
  if (!best) throw new GatewayError('NOT_ACCEPTABLE', `expected ${type} to be accepted`)
  const range = parseRange(request.headers.range, value.sizeBytes)
  if (range === 'unsatisfiable') {
    return reply.code(416).header('content-range', `bytes */${value.sizeBytes}`).send()
  }
  const { start, end } = range ?? { start: 0, end: value.sizeBytes }
  const headers = {
    'Content-Type': type,
    ...(range && { 'Content-Range': `bytes ${start}-${end - 1}/${value.sizeBytes}` }),
  }
  reply.code(range ? 206 : 200).header('accept-ranges', 'bytes')
  const content = contentOf(value, start, end)
  if (best.isMultipart !== true) {
    reply.headers({ ...headers, 'content-length': end - start })
    return await streamAnswer(reply, content)
  }
  const boundary = newBoundary()
  reply.type(`multipart/related; type="${type}"; boundary=${boundary}`)
  return await streamAnswer(reply, partsBody(only({ headers, content }), boundary))
}

async function* only<T>(item: T): AsyncGenerator<T> {
  yield item
}

/** The bytes of a value, little endian as PS3.18 §8.7.3.3.2 has them. */
function valueSource(dataset: ReusingSource, { valueOffset, length, vr, encoding }: Element): ReusingSource {
  const width = encoding.bigEndian ? vrFacts(vr).unitBytes : 1
  return {
    sizeBytes: length,
    async read(offset, wanted, into) {
      const end = Math.min(offset + wanted, length)
      if (width === 1) return await dataset.read(valueOffset + offset, end - offset, into)
      const from = offset - (offset % width)
      const to = Math.min(length, Math.ceil(end / width) * width)
      const bytes = Buffer.from(await dataset.read(valueOffset + from, to - from))
      const whole = bytes.subarray(0, bytes.length - (bytes.length % width))
      if (width === 2) whole.swap16()
      else if (width === 4) whole.swap32()
      else whole.swap64()
      return bytes.subarray(offset - from, end - from)
    },
  }
}
