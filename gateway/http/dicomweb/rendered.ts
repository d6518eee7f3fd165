/** WADO-RS: pictures of instances and frames, and thumbnails at every level; DICOM PS3.18 §10.4.1.1.3 and §10.4.1.1.4. */
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { newBoundary, type Part, partsBody } from '../../dicom/multipart-writer.ts'
import { GatewayError, isGatewayError } from '../../errors.ts'
import type { RenderedPicture, Rendering } from '../../services/rendering.ts'
import type { Retrieve } from '../../services/retrieve.ts'
import type { PlannedInstance } from '../../services/retrieve-plan.ts'
import { goneSignal } from '../gone.ts'
import { acceptOf } from './data-sets.ts'
import { isPdf, pdfType, sendPdf } from './document.ts'
import { frameNumbers } from './frames.ts'
import { type PictureQuery, readPicture } from './picture-query.ts'
import { ofType, type Representation, representations } from './representation.ts'
import { streamAnswer } from './stream-answer.ts'
import { keysOf, uidParams } from './uids.ts'

/** What the routes need. */
export interface RenderedServices {
  readonly retrieve: Retrieve
  readonly rendering: Rendering
}

type PictureRequest = FastifyRequest<{ Params: Record<string, string>; Querystring: Record<string, string | string[]> }>

const instance = '/studies/:study/series/:series/instances/:instance'
const places = [
  { url: '/studies/:study', of: 'a study' },
  { url: '/studies/:study/series/:series', of: 'a series' },
  { url: instance, of: 'an instance' },
  { url: `${instance}/frames/:frames`, of: 'frames' },
] as const
const formats = [
  { type: 'image/jpeg', format: 'jpeg' },
  { type: 'image/png', format: 'png' },
] as const
const description =
  'image/jpeg or image/png, single part or multipart; an encapsulated PDF as application/pdf. viewport=columns,rows fits the picture in, ' +
  'window=center,width,function and quality are as PS3.18 §8.3.5 has them. Audited.'
const thumbnailSide = 128
/** Instances that are looked at for one that is an image. */
const maxTries = 20

/** Registers the routes. */
export function renderedRoutes(app: FastifyInstance, services: RenderedServices): void {
  for (const { url, of } of places) {
    for (const kind of ['rendered', 'thumbnail'] as const) {
      app.get<{ Params: Record<string, string>; Querystring: Record<string, string | string[]> }>(
        `${url}/${kind}`,
        {
          config: { action: 'study.read' },
          exposeHeadRoute: false,
          schema: {
            tags: ['DICOMweb'],
            summary: kind === 'rendered' ? `Pictures of ${of}` : `A small picture of ${of}`,
            description,
            ...uidParams(url),
          },
        },
        (request, reply) =>
          kind === 'rendered' ? sendRendered(services, request, reply) : sendThumbnail(services, request, reply),
      )
    }
  }
}

/** The format that is accepted best, and whether as parts. @throws GatewayError NOT_ACCEPTABLE */
function chosenFormat(request: PictureRequest): { format: 'jpeg' | 'png'; accepted: Representation } {
  for (const accepted of representations(acceptOf(request))) {
    const found = formats.find(({ type }) => ofType([accepted], type).length > 0)
    if (found) return { format: found.format, accepted }
  }
  throw new GatewayError('NOT_ACCEPTABLE', 'expected image/jpeg or image/png to be accepted')
}

async function sendRendered(
  { retrieve, rendering }: RenderedServices,
  request: PictureRequest,
  reply: FastifyReply,
): Promise<FastifyReply> {
  const plan = await retrieve.plan(keysOf(request.params))
  if (plan.instanceCount === 0) throw new GatewayError('NOT_FOUND', 'no such instances')
  if (isPdf(plan)) {
    const isAccepted = ofType(representations(acceptOf(request)), pdfType).some(each => each.isMultipart !== true)
    if (!isAccepted) throw new GatewayError('NOT_ACCEPTABLE', `expected ${pdfType} to be accepted`)
    return await sendPdf(rendering, plan, request, reply)
  }
  const { format, accepted } = chosenFormat(request)
  const picture = readPicture(request.query)
  const numbers = request.params['frames'] === undefined ? [1] : frameNumbers(request.params['frames'])
  const isOne = plan.instanceCount === 1 && numbers.length === 1
  if (!isOne && accepted.isMultipart === false) {
    throw new GatewayError('NOT_ACCEPTABLE', 'expected multipart/related to be accepted for several pictures')
  }
  const gone = goneSignal(reply)
  const render = (each: PlannedInstance, number: number): Promise<RenderedPicture> =>
    rendering.render(request.principal, each.orthancId, number - 1, { mode: 'rendered', format, ...picture }, gone)
  if (isOne && accepted.isMultipart !== true) {
    for await (const each of plan.instances()) {
      const { bytes, mediaType } = await render(each, numbers[0] ?? 1)
      return reply.type(mediaType).send(Buffer.from(bytes))
    }
  }
  const boundary = newBoundary()
  reply.type(`multipart/related; type="image/${format}"; boundary=${boundary}`)
  return await streamAnswer(reply, partsBody(pictures(plan.instances(), numbers, render), boundary))
}

/** What is no image is passed over where there are others. */
async function* pictures(
  instances: AsyncIterable<PlannedInstance>,
  numbers: readonly number[],
  render: (each: PlannedInstance, number: number) => Promise<RenderedPicture>,
): AsyncGenerator<Part> {
  let count = 0
  let reason: unknown
  for await (const each of instances) {
    for (const number of numbers) {
      try {
        const { bytes, mediaType } = await render(each, number)
        count += 1
        yield { headers: { 'Content-Type': mediaType }, content: [bytes] }
      } catch (error) {
        if (!isGatewayError(error, 'PICTURE_UNSUPPORTED')) throw error
        reason = error
      }
    }
  }
  if (count === 0) throw reason ?? new GatewayError('NOT_FOUND', 'no such instances')
}

/** A picture of the first image that there is. */
async function sendThumbnail(
  { retrieve, rendering }: RenderedServices,
  request: PictureRequest,
  reply: FastifyReply,
): Promise<FastifyReply> {
  const { format } = chosenFormat(request)
  const { width = thumbnailSide, height = thumbnailSide, ...picture }: PictureQuery = readPicture(request.query)
  const [number = 1] = request.params['frames'] === undefined ? [1] : frameNumbers(request.params['frames'])
  const plan = await retrieve.plan(keysOf(request.params))
  const gone = goneSignal(reply)
  const options = { mode: 'rendered', format, width, height, isSmooth: true, ...picture } as const
  let tries = 0
  let reason: unknown
  for await (const each of plan.instances()) {
    try {
      const { bytes, mediaType } = await rendering.render(request.principal, each.orthancId, number - 1, options, gone)
      return reply.type(mediaType).send(Buffer.from(bytes))
    } catch (error) {
      if (!isGatewayError(error, 'PICTURE_UNSUPPORTED')) throw error
      reason = error
    }
    tries += 1
    if (tries === maxTries) break
  }
  throw reason ?? new GatewayError('NOT_FOUND', 'no such instances')
}
