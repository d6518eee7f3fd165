/** UPS-RS: the worklist service, DICOM PS3.18 §11, without subscriptions: there are no events that they could bring. */
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { type DicomJson, fromJson } from '../../dicom/json.ts'
import { jsonText } from '../../dicom/json-read.ts'
import { procedureStepState, type Transition, workitemState } from '../../dicom/workitem.ts'
import { GatewayError } from '../../errors.ts'
import { transactionOf, type Workitems } from '../../services/workitems.ts'
import { baseUrlOf, type ServicePlace } from './base-url.ts'
import { formatOf, sendDataSetPage, sendDataSets } from './data-sets.ts'
import { type QueryString, readKeys } from './search-query.ts'
import { parseMetadata } from './store.ts'

/** What the routes need. */
export interface WorkitemServices {
  readonly workitems: Workitems
  readonly place: ServicePlace
}

interface One {
  readonly Params: { uid: string }
  readonly Querystring: Record<string, string | string[]>
}
interface All {
  readonly Querystring: Record<string, string | string[]>
}

const tags = ['DICOMweb']
const params = {
  type: 'object',
  properties: { uid: { type: 'string', pattern: '^[0-9.]{1,64}$' } },
  required: ['uid'],
} as const
const read = { action: 'worklist.read' } as const
const write = { action: 'worklist.write' } as const

/** Registers the routes in a scope of its own, where bodies are DICOM JSON or the native model in XML. */
export function workitemRoutes(app: FastifyInstance, { workitems, place }: WorkitemServices): void {
  app.register(async scope => {
    scope.removeAllContentTypeParsers()
    const types = ['application/dicom+json', 'application/json', 'application/dicom+xml']
    scope.addContentTypeParser(types, { parseAs: 'buffer' }, async (request: FastifyRequest, body: Buffer | string) => {
      const type = request.headers['content-type']?.split(';', 1)[0]?.trim().toLowerCase() ?? ''
      return parseMetadata(type, Buffer.from(body))
    })

    scope.post<All & { Body: DicomJson[] }>(
      '/workitems',
      { config: write, schema: { tags, summary: 'Create a workitem, under the UID of the query or its own; audited' } },
      async (request, reply) => {
        const [key, value] = Object.entries(request.query)[0] ?? []
        // `?1.2.3`, as the standard wrote it first, and `?workitem=1.2.3`.
        const given = key === undefined ? undefined : value === '' ? key : value
        const uid = await workitems.create(request.principal, documentOf(request.body), textOf(given))
        const url = `${baseUrlOf(request, place)}/workitems/${uid}`
        return reply.code(201).headers({ location: url, 'content-location': url }).send()
      },
    )
    scope.get<All>(
      '/workitems',
      { config: read, schema: { tags, summary: 'Search for workitems; audited' } },
      async (request, reply) => {
        const format = formatOf(request)
        const { keys, offset, limit } = readKeys(query(request.query))
        const found = windowed(workitems.find(request.principal, keys), offset, limit)
        const first = await found.next()
        if (first.done) return reply.code(204).send()
        return sendDataSets(
          reply,
          format,
          (async function* () {
            yield first.value
            yield* found
          })(),
        )
      },
    )
    scope.get<One>(
      '/workitems/:uid',
      { config: read, schema: { tags, summary: 'Retrieve a workitem; audited', params } },
      async (request, reply) => {
        const format = formatOf(request)
        return await sendDataSetPage(reply, format, [await workitems.get(request.principal, request.params.uid)])
      },
    )
    scope.post<One & { Body: DicomJson[] }>(
      '/workitems/:uid',
      { config: write, schema: { tags, summary: 'Change attributes of a workitem; audited', params } },
      async (request, reply) => {
        const [key, value] = Object.entries(request.query)[0] ?? []
        const transaction = textOf(value === '' ? key : value)
        await workitems.update(request.principal, request.params.uid, documentOf(request.body), transaction)
        return reply.code(200).send()
      },
    )
    scope.put<One & { Body: DicomJson[] }>(
      '/workitems/:uid/state',
      { config: write, schema: { tags, summary: 'Claim, complete or cancel a workitem; audited', params } },
      async (request, reply) => {
        const document = documentOf(request.body)
        const state = workitemState(jsonText(document, procedureStepState))
        if (!state) throw new GatewayError('BAD_REQUEST', 'expected Procedure Step State')
        const { uid } = request.params
        const result = await workitems.changeState(request.principal, uid, state, transactionOf(document))
        return answer(reply, result, 200)
      },
    )
    scope.post<One>(
      '/workitems/:uid/cancelrequest',
      {
        config: write,
        schema: {
          tags,
          summary: 'Ask for the cancellation of a workitem; audited',
          description: 'What is scheduled is cancelled; 409 for what is in progress: its performer cannot be told.',
          params,
        },
      },
      async (request, reply) =>
        answer(reply, await workitems.requestCancellation(request.principal, request.params.uid), 202),
    )
  })
}

function answer(reply: FastifyReply, result: Transition, status: number): FastifyReply {
  if (result.kind === 'refused') throw new GatewayError('STATE_CONFLICT', result.reason)
  if (result.kind === 'unchanged') reply.header('warning', '299 hanse "The workitem is already in that state"')
  return reply.code(status).send()
}

/** The one data set of a body, its values checked. @throws GatewayError BAD_REQUEST */
function documentOf(body: readonly DicomJson[] | undefined): DicomJson {
  const [document, ...others] = body ?? []
  if (!document || others.length > 0) throw new GatewayError('BAD_REQUEST', 'expected one data set')
  fromJson(document)
  return document
}

function query(raw: Record<string, string | string[]>): QueryString {
  return raw
}

const textOf = (value: string | string[] | undefined): string | undefined =>
  typeof value === 'string' ? value : undefined

async function* windowed(
  pages: AsyncGenerator<readonly DicomJson[], void, void>,
  offset: number,
  limit = Number.POSITIVE_INFINITY,
): AsyncGenerator<readonly DicomJson[], void, void> {
  let skip = offset
  let left = limit
  for await (const page of pages) {
    if (left <= 0) return
    const some = page.slice(skip, skip + left)
    skip = Math.max(0, skip - page.length)
    left -= some.length
    if (some.length > 0) yield some
  }
}
