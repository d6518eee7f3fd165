/** WADO-RS: frames of an image, as stored, decompressed, or in another compression; DICOM PS3.18 §10.4.1.1.6. */
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { newBoundary, type Part, partsBody } from '../../dicom/multipart-writer.ts'
import { GatewayError, isGatewayError } from '../../errors.ts'
import type { ImageFrames, OpenFrames } from '../../services/image-frames.ts'
import type { Retrieve } from '../../services/retrieve.ts'
import type { PlannedInstance } from '../../services/retrieve-plan.ts'
import { goneSignal } from '../gone.ts'
import { baseUrlOf, type ServicePlace } from './base-url.ts'
import { acceptOf } from './data-sets.ts'
import { type FrameForm, frameForms } from './frame-forms.ts'
import { representations } from './representation.ts'
import { streamAnswer } from './stream-answer.ts'
import { instanceUrl, keysOf, readerOf, uidParams } from './uids.ts'

/** What the routes need. */
export interface FrameServices {
  readonly retrieve: Retrieve
  readonly frames: ImageFrames
  readonly place: ServicePlace
}

type FrameRequest = FastifyRequest<{ Params: Record<string, string>; Querystring: Record<string, string | string[]> }>

const url = '/studies/:study/series/:series/instances/:instance/frames/:frames'
const maxFrameNumbers = 10_000

/** Registers the route. */
export function frameRoutes(app: FastifyInstance, services: FrameServices): void {
  app.get<{ Params: Record<string, string>; Querystring: Record<string, string | string[]> }>(
    url,
    {
      config: { action: 'study.read' },
      exposeHeadRoute: false,
      schema: {
        tags: ['DICOMweb'],
        summary: 'Retrieve frames by number, from 1, separated by commas',
        description:
          'multipart/related, or single part for one frame. application/octet-stream is decompressed unless ' +
          'transfer-syntax says otherwise (* is as stored); image/jls, image/jp2, image/jpeg, image/* and others are as ' +
          'stored or compressed without loss. Audited.',
        ...uidParams(url),
      },
    },
    async (request, reply) => {
      const numbers = frameNumbers(request.params['frames'] ?? '')
      const instance = await onlyInstance(services.retrieve, request)
      return await sendFrames(services, request, reply, instance, numbers)
    },
  )
}

/** The instance of the path, its reading recorded. @throws GatewayError NOT_FOUND */
export async function onlyInstance(retrieve: Retrieve, request: FrameRequest): Promise<PlannedInstance> {
  const plan = await retrieve.plan(keysOf(request.params))
  await plan.read(readerOf(request.principal))
  for await (const instance of plan.instances()) return instance
  throw new GatewayError('NOT_FOUND', 'no such instance')
}

/**
 * Sends frames of an instance.
 *
 * @param numbers  from 1; `all` of them
 */
export async function sendFrames(
  { frames, place }: Pick<FrameServices, 'frames' | 'place'>,
  request: FrameRequest,
  reply: FastifyReply,
  instance: PlannedInstance,
  numbers: readonly number[] | 'all',
): Promise<FastifyReply> {
  const facts = await frames.facts(instance)
  const wanted = numbers === 'all' ? Array.from({ length: facts.count }, (_, index) => index + 1) : numbers
  if (wanted.some(number => number > facts.count)) throw new GatewayError('NOT_FOUND', 'there is no such frame')
  const forms = frameForms(facts, representations(acceptOf(request)), { isOneFrame: wanted.length === 1 })
  const gone = goneSignal(reply)
  const { form, open } = await openFirst(frames, instance, forms, gone)
  try {
    const type = `${form.type}; transfer-syntax=${form.transferSyntaxUid}`
    if (!form.isMultipart) return await reply.type(type).send(Buffer.from(await open.read((wanted[0] ?? 1) - 1)))
    const boundary = newBoundary()
    const location = `${instanceUrl(baseUrlOf(request, place), instance)}/frames/`
    reply.type(`multipart/related; type="${form.type}"; boundary=${boundary}`)
    return await streamAnswer(reply, partsBody(frameParts(open, wanted, type, location), boundary))
  } finally {
    await open.close()
  }
}

/** The best form that the object can be had in. */
async function openFirst(
  frames: ImageFrames,
  instance: PlannedInstance,
  forms: readonly FrameForm[],
  signal: AbortSignal,
): Promise<{ form: FrameForm; open: OpenFrames }> {
  for (const form of forms) {
    try {
      return { form, open: await frames.open(instance, form.how, signal) }
    } catch (error) {
      if (!isGatewayError(error, 'TRANSCODE_UNSUPPORTED')) throw error
    }
  }
  throw new GatewayError('NOT_ACCEPTABLE', 'the frames cannot be had in an accepted form')
}

async function* frameParts(
  open: OpenFrames,
  numbers: readonly number[],
  type: string,
  location: string,
): AsyncGenerator<Part> {
  for (const number of numbers) {
    const bytes = await open.read(number - 1)
    yield {
      headers: { 'Content-Type': type, 'Content-Location': `${location}${number}` },
      content: [bytes],
    }
  }
}

/** Numbers of frames from 1. @throws GatewayError BAD_REQUEST */
export function frameNumbers(text: string): number[] {
  const numbers = text.split(',').map(part => (/^[1-9]\d{0,8}$/.test(part) ? Number(part) : 0))
  if (numbers.includes(0) || numbers.length > maxFrameNumbers) {
    throw new GatewayError('BAD_REQUEST', 'expected numbers of frames from 1, separated by commas')
  }
  return numbers
}
