/** Other DICOMweb servers, at `/dicom-web/servers` as Orthanc's plugin has them; they are named in the configuration. */
import { Readable } from 'node:stream'
import type { FastifyInstance } from 'fastify'
import { isObject } from '../../decode.ts'
import { type JsonElement, tagOfName } from '../../dicom/json.ts'
import { textOf } from '../../dicom/match-text.ts'
import { keywordOf } from '../../dicom/tag.ts'
import { isVr } from '../../dicom/vr.ts'
import { GatewayError } from '../../errors.ts'
import type { BackgroundJobs } from '../../services/background-jobs.ts'
import type { WebClient, WebResource } from '../../services/web-client.ts'
import { findServer, type WebServerList } from '../../services/web-servers.ts'
import { goneSignal } from '../gone.ts'
import { answerJob, type JobAnswers } from '../orthanc/answer-job.ts'
import { acceptAnyBody, objectBody } from '../orthanc/lenient-body.ts'
import { readResources } from '../orthanc/remote-sends.ts'

/** What the routes need. */
export interface ServerServices {
  readonly servers: WebServerList
  readonly client: WebClient
  readonly jobs: Pick<BackgroundJobs, 'submit'>
  readonly answers: JobAnswers
}

interface Named {
  readonly Params: { name: string }
}

const tags = ['DICOMweb']
const params = {
  type: 'object',
  properties: { name: { type: 'string', minLength: 1, maxLength: 64 } },
  required: ['name'],
} as const
const operations = ['get', 'qido', 'retrieve', 'stow']
const maxResources = 10_000

/** Registers the routes. */
export function serverRoutes(app: FastifyInstance, services: ServerServices): void {
  const { servers, client, jobs, answers } = services
  const read = { config: { action: 'modality.read' } } as const
  app.get<{ Querystring: { expand?: string } }>(
    '/servers',
    { ...read, schema: { tags, summary: 'DICOMweb servers of the configuration' } },
    async request => {
      if (request.query.expand === undefined || request.query.expand === 'false') return Object.keys(servers)
      return Object.fromEntries(
        Object.entries(servers).map(([name, { url, zone }]) => [name, { Url: url, Zone: zone }]),
      )
    },
  )
  app.get<Named>(
    '/servers/:name',
    { ...read, schema: { tags, summary: 'What can be asked of a DICOMweb server', params } },
    async request => {
      findServer(servers, request.params.name)
      return operations
    },
  )
  app.register(async scope => {
    acceptAnyBody(scope)
    scope.post<Named>(
      '/servers/:name/qido',
      {
        config: { action: 'modality.query' },
        schema: { tags, summary: 'Search a DICOMweb server: Uri and Arguments; audited', params },
      },
      async (request, reply) => {
        const path = uriOf(objectBody(request.body))
        const found = await client.search(request.principal, request.params.name, path, goneSignal(reply))
        return found.map(named)
      },
    )
    scope.post<Named>(
      '/servers/:name/get',
      {
        config: { action: 'modality.query' },
        schema: { tags, summary: 'GET of a DICOMweb server, passed on: Uri and Arguments; audited', params },
      },
      async (request, reply) => {
        const body = objectBody(request.body)
        const headers = isObject(body['HttpHeaders']) ? body['HttpHeaders'] : {}
        const accept = typeof headers['Accept'] === 'string' ? headers['Accept'] : '*/*'
        const gone = goneSignal(reply)
        const answer = await client.get(request.principal, request.params.name, uriOf(body), accept, gone)
        const { name, parameters } = answer.type
        const more = [...parameters].map(([key, value]) => `; ${key}="${value.replace(/["\\]/g, '\\$&')}"`)
        // What another server sends is nothing for a browser to run.
        reply
          .code(answer.status)
          .type(name === '' || /html|script|svg/.test(name) ? 'application/octet-stream' : name + more.join(''))
        return reply.send(Readable.from(answer.body))
      },
    )
    scope.post<Named>(
      '/servers/:name/retrieve',
      {
        config: { action: 'modality.retrieve' },
        schema: { tags, summary: 'Fetch studies, series or instances from a DICOMweb server; audited', params },
      },
      async (request, reply) => {
        const { principal } = request
        const { name } = request.params
        const resources = webResources(objectBody(request.body)['Resources'])
        findServer(servers, name)
        return await answerJob(request, reply, answers, async ({ priority, permissive }) => {
          const content = { Server: name, Resources: resources.length }
          const job = { type: 'DicomWebWadoRetrieveClient', description: 'REST API', priority, permissive, content }
          return await jobs.submit(principal, job, async (progress, signal) => {
            const outcomes = await client.retrieve(principal, name, resources, progress, signal)
            const received = outcomes.filter(({ kind }) => kind !== 'failed').length
            if (received < outcomes.length && !permissive) {
              throw new GatewayError('REMOTE_STATUS', `${outcomes.length - received} instances could not be stored`)
            }
            return { content: { ...content, InstancesCount: outcomes.length, ReceivedInstancesCount: received } }
          })
        })
      },
    )
    scope.post<Named>(
      '/servers/:name/stow',
      {
        config: { action: 'study.send' },
        schema: {
          tags,
          summary: 'Store resources at a DICOMweb server inside of the hospital; audited',
          params,
        },
      },
      async (request, reply) => {
        const { principal } = request
        const { name } = request.params
        const resources = readResources(request.body)
        findServer(servers, name)
        return await answerJob(request, reply, answers, async ({ priority, permissive }) => {
          const content = { Server: name, Resources: resources }
          const job = { type: 'DicomWebStowClient', description: 'REST API', priority, permissive, content }
          return await jobs.submit(principal, job, async (progress, signal) => {
            const { instances, failed } = await client.store(principal, name, resources, progress, signal)
            if (failed > 0 && !permissive) {
              throw new GatewayError('REMOTE_STATUS', `${failed} of ${instances} instances were not taken`)
            }
            return { content: { ...content, InstancesCount: instances, FailedInstancesCount: failed } }
          })
        })
      },
    )
  })
}

/** `Uri` with `Arguments` as its query. @throws GatewayError BAD_REQUEST */
function uriOf(body: Readonly<Record<string, unknown>>): string {
  const { Uri: uri, Arguments: given = {} } = body
  if (typeof uri !== 'string' || !/^\/?[A-Za-z0-9./_~%,-]{0,2000}$/.test(uri) || uri.includes('..')) {
    throw new GatewayError('BAD_REQUEST', 'expected Uri, a path below the server')
  }
  if (!isObject(given)) throw new GatewayError('BAD_REQUEST', 'expected Arguments, an object of texts')
  const query = new URLSearchParams()
  for (const [name, value] of Object.entries(given)) query.append(name, String(value))
  const path = uri.startsWith('/') ? uri : `/${uri}`
  return query.size === 0 ? path : `${path}?${query}`
}

const uid = /^[0-9.]{1,64}$/

/** @throws GatewayError BAD_REQUEST */
function webResources(raw: unknown): WebResource[] {
  if (!Array.isArray(raw) || raw.length === 0 || raw.length > maxResources) {
    throw new GatewayError('BAD_REQUEST', 'expected Resources, a list of objects with Study, Series and Instance')
  }
  return raw.map((each: unknown) => {
    const { Study: study, Series: series, Instance: instance } = isObject(each) ? each : {}
    const isGiven = typeof study === 'string' && uid.test(study)
    if (!isGiven || ![series, instance].every(isUidOrAbsent) || (instance !== undefined && series === undefined)) {
      throw new GatewayError('BAD_REQUEST', 'expected UIDs: Study, with Series, with Instance')
    }
    return { study, series: textOrAbsent(series), instance: textOrAbsent(instance) }
  })
}

const isUidOrAbsent = (value: unknown): boolean => value === undefined || (typeof value === 'string' && uid.test(value))
const textOrAbsent = (value: unknown): string | undefined => (typeof value === 'string' ? value : undefined)

/** A data set as Orthanc's plugin shows it: each element with its place, its name and its value as text. */
function named(dataset: object): Record<string, unknown> {
  const shown: Record<string, unknown> = {}
  for (const [name, element] of Object.entries(dataset)) {
    if (!/^[0-9A-Fa-f]{8}$/.test(name) || !isElement(element)) continue
    const tag = tagOfName(name)
    const { vr } = element
    const values = Array.isArray(element.Value) ? element.Value : []
    const text = values.map(value => textOf(vr, value) ?? '').join('\\')
    shown[name.toUpperCase()] = {
      Element: tag & 0xffff,
      Group: tag >>> 16,
      Name: keywordOf(tag) ?? 'Unknown Tag & Data',
      ...(values.length > 0 && { Value: vr === 'SQ' ? values.filter(isObject).map(named) : text }),
      vr,
    }
  }
  return shown
}

function isElement(raw: unknown): raw is JsonElement {
  return isObject(raw) && typeof raw['vr'] === 'string' && isVr(raw['vr'])
}
