/** WADO-RS: instances of a study, of a series, and single ones; DICOM PS3.18 §10.4, Table 10.4.1-1. */

import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { newBoundary, type Part, partsBody } from '../../dicom/multipart-writer.ts'
import { GatewayError } from '../../errors.ts'
import { type FileTools, openPart10, type Part10File } from '../../services/part10-file.ts'
import type { Retrieve } from '../../services/retrieve.ts'
import type { PlannedInstance, RetrieveParties, RetrievePlan } from '../../services/retrieve-plan.ts'
import { goneSignal } from '../gone.ts'
import { sendFile } from '../send-file.ts'
import { baseUrlOf, type ServicePlace } from './base-url.ts'
import { acceptOf } from './data-sets.ts'
import { ofType, type Representation, representations, syntaxesFor } from './representation.ts'
import { contentOf } from './source-content.ts'
import { streamAnswer } from './stream-answer.ts'
import { instanceUrl, keysOf, readerOf, uidParams } from './uids.ts'

/** What the routes need. */
export interface InstanceServices extends FileTools {
  readonly retrieve: Retrieve
  readonly place: ServicePlace
}

type UidRequest = FastifyRequest<{ Params: Record<string, string>; Querystring: Record<string, string | string[]> }>

const routes = [
  { url: '/studies/:study', summary: 'Retrieve the instances of a study' },
  { url: '/studies/:study/series/:series', summary: 'Retrieve the instances of a series' },
  { url: '/studies/:study/series/:series/instances/:instance', summary: 'Retrieve an instance' },
] as const
const description =
  'multipart/related; type="application/dicom", or application/dicom for one instance (with ranges), in the transfer ' +
  'syntaxes that Accept names: by parameter transfer-syntax, * is as stored, none is Explicit VR Little Endian. Audited.'

/** Registers the routes. */
export function instanceRoutes(app: FastifyInstance, services: InstanceServices): void {
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

async function answer(services: InstanceServices, request: UidRequest, reply: FastifyReply): Promise<FastifyReply> {
  const accepted = ofType(representations(acceptOf(request)), 'application/dicom')
  const plan = await services.retrieve.plan(keysOf(request.params))
  if (plan.instanceCount === 0) throw new GatewayError('NOT_FOUND', 'no such instances')
  const usable = plan.instanceCount === 1 ? accepted : accepted.filter(({ isMultipart }) => isMultipart !== false)
  const isMultipart = usable[0]?.isMultipart ?? true
  const chosen = usable.filter(each => (each.isMultipart ?? true) === isMultipart)
  // Each kind of object that is there has to be acceptable, before anything leaves.
  if (chosen.length === 0 || plan.kinds.some(kind => syntaxesFor(kind.transferSyntaxUid, chosen).length === 0)) {
    throw new GatewayError('NOT_ACCEPTABLE', 'the instances cannot be had in an accepted form')
  }
  const reader = readerOf(request.principal)
  return isMultipart
    ? await sendParts(services, request, reply, { plan, chosen, parties: { requestor: reader, destination: reader } })
    : await sendOne(services, request, reply, { plan, chosen, parties: { requestor: reader, destination: reader } })
}

interface Retrieval {
  readonly plan: RetrievePlan
  readonly chosen: readonly Representation[]
  readonly parties: RetrieveParties
}

/** Sends one instance alone, in a transfer syntax or the default one. @throws GatewayError NOT_FOUND, NOT_ACCEPTABLE */
export async function sendInstance(
  services: InstanceServices,
  request: FastifyRequest,
  reply: FastifyReply,
  wanted: { readonly uids: Readonly<Record<string, string>>; readonly transferSyntaxUid: string | undefined },
): Promise<FastifyReply> {
  const plan = await services.retrieve.plan(keysOf(wanted.uids))
  const reader = readerOf(request.principal)
  const { transferSyntaxUid } = wanted
  const chosen = [{ isMultipart: false, type: 'application/dicom', transferSyntaxUid, quality: 1 }]
  return await sendOne(services, request, reply, { plan, chosen, parties: { requestor: reader, destination: reader } })
}

async function sendOne(
  services: InstanceServices,
  request: FastifyRequest,
  reply: FastifyReply,
  { plan, chosen, parties }: Retrieval,
): Promise<FastifyReply> {
  const gone = goneSignal(reply)
  await plan.read(parties.requestor)
  for await (const instance of plan.instances()) {
    const file = await openPart10(services, instance, syntaxesFor(instance.transferSyntaxUid, chosen), gone)
    const { sizeBytes } = file.source
    return await sendFile(
      request,
      reply,
      { sizeBytes, read: (offset, length, into) => file.source.read(offset, length, into), close: () => file.close() },
      {
        sha256: `${instance.fileSha256.toString('hex')}-${file.transferSyntaxUid}`,
        type: `application/dicom; transfer-syntax=${file.transferSyntaxUid}`,
        filename: `${instance.sopInstanceUid}.dcm`,
      },
    )
  }
  throw new GatewayError('NOT_FOUND', 'no such instance')
}

async function sendParts(
  services: InstanceServices,
  request: UidRequest,
  reply: FastifyReply,
  { plan, chosen, parties }: Retrieval,
): Promise<FastifyReply> {
  const gone = goneSignal(reply)
  const boundary = newBoundary()
  const sent = new Map<number, number>()
  await plan.begin(parties)
  try {
    reply.type(`multipart/related; type="application/dicom"; boundary=${boundary}`)
    const files = opened(services, plan.instances(), chosen, gone)
    return await streamAnswer(reply, partsBody(partsOf(files, baseUrlOf(request, services.place), sent), boundary))
  } finally {
    await plan.end(parties, sent)
  }
}

/** Files, each opened while the one before it is on its way. */
async function* opened(
  services: InstanceServices,
  instances: AsyncIterable<PlannedInstance>,
  chosen: readonly Representation[],
  signal: AbortSignal,
): AsyncGenerator<Part10File> {
  const open = (instance: PlannedInstance): Promise<Part10File> => {
    const opening = openPart10(services, instance, syntaxesFor(instance.transferSyntaxUid, chosen), signal)
    opening.catch(() => undefined)
    return opening
  }
  let current: Promise<Part10File> | undefined
  try {
    for await (const instance of instances) {
      const ready = current
      current = open(instance)
      if (ready) yield await ready
    }
    const last = current
    current = undefined
    if (last) yield await last
  } finally {
    await current?.then(
      file => file.close(),
      () => undefined,
    )
  }
}

async function* partsOf(
  files: AsyncIterable<Part10File>,
  baseUrl: string,
  sent: Map<number, number>,
): AsyncGenerator<Part> {
  for await (const file of files) {
    const { instance } = file
    try {
      yield {
        headers: {
          // Without parameters: some clients know the type in this spelling only, and the file says its syntax.
          'Content-Type': 'application/dicom',
          'Content-Location': instanceUrl(baseUrl, instance),
        },
        content: contentOf(file.source),
      }
      sent.set(instance.study, (sent.get(instance.study) ?? 0) + 1)
    } finally {
      await file.close()
    }
  }
}
