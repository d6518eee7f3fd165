/** Orthanc's `/peers`: servers that are called by their REST API. The gateways of other sites are `/api/v1/peers`. */
import type { FastifyInstance } from 'fastify'
import { isObject } from '../../decode.ts'
import { GatewayError } from '../../errors.ts'
import type { BackgroundJobs } from '../../services/background-jobs.ts'
import type { ExportLog } from '../../services/export-log.ts'
import type { Ingest } from '../../services/ingest.ts'
import { readLossyQuality } from '../../services/modify-request.ts'
import { readRestPeer, writeRestPeer } from '../../services/rest-peer.ts'
import type { RestPeers } from '../../services/rest-peers.ts'
import type { RestStore } from '../../services/rest-store.ts'
import { stageLoose } from '../../services/upload.ts'
import { goneSignal } from '../gone.ts'
import { answerJob, type JobAnswers } from './answer-job.ts'
import { acceptAnyBody } from './lenient-body.ts'
import { readResources } from './remote-sends.ts'
import { requestBody } from './request-body.ts'

/** What the routes need. */
export interface RestPeerServices {
  readonly restPeers: RestPeers
  readonly restStore: RestStore
  readonly exportLog: Pick<ExportLog, 'note'>
  readonly ingest: Pick<Ingest, 'stage'>
  readonly jobs: Pick<BackgroundJobs, 'submit'>
  readonly answers: JobAnswers
  /** The largest instance, bytes. */
  readonly limitBytes: number
}

const tags = ['Orthanc']
const params = {
  type: 'object',
  properties: { id: { type: 'string', minLength: 1, maxLength: 64 } },
  required: ['id'],
} as const
const listQuery = {
  type: 'object',
  properties: { expand: { type: 'string', description: 'Give configurations instead of names' } },
} as const

interface Named {
  readonly Params: { id: string }
}

/** Registers the routes. */
export async function restPeerRoutes(app: FastifyInstance, services: RestPeerServices): Promise<void> {
  const { restPeers, restStore, exportLog, ingest, jobs, answers, limitBytes } = services
  const named = (name: string) => {
    const found = restPeers.find(name)
    if (!found) throw new GatewayError('NOT_FOUND', 'no peer has this name')
    return found
  }

  await app.register(async scope => {
    acceptAnyBody(scope)

    scope.get<{ Querystring: { expand?: string } }>(
      '/peers',
      { schema: { tags, summary: 'List servers that are called by REST', querystring: listQuery } },
      async request => {
        const { expand } = request.query
        const all = restPeers.list()
        if (expand === undefined || expand === 'false' || expand === '0') return all.map(({ name }) => name)
        return Object.fromEntries(all.map(peer => [peer.name, writeRestPeer(peer)]))
      },
    )
    scope.get<Named>('/peers/:id', { schema: { tags, summary: 'What can be done with it', params } }, async request => {
      named(request.params.id)
      return ['configuration', 'store', 'store-straight', 'system']
    })
    scope.get<Named>(
      '/peers/:id/configuration',
      { schema: { tags, summary: 'Its registration, without secrets', params } },
      async request => writeRestPeer(named(request.params.id)),
    )
    scope.get<Named>(
      '/peers/:id/system',
      { schema: { tags, summary: 'What it says of itself: does it answer?', params } },
      async (request, reply) =>
        await restStore.system(request.principal, named(request.params.id).name, goneSignal(reply)),
    )
    scope.put<Named>(
      '/peers/:id',
      {
        schema: {
          tags,
          summary: 'Register a server, or change it',
          description: 'As in Orthanc; `Zone` (`inside` or `outside`, the default) says whose network it is in.',
          params,
        },
      },
      async (request, reply) => {
        await restPeers.put(request.principal, request.params.id, readRestPeer(request.body))
        return reply.type('text/plain').send('')
      },
    )
    scope.delete<Named>(
      '/peers/:id',
      { schema: { tags, summary: 'Remove a server', params } },
      async (request, reply) => {
        await restPeers.remove(request.principal, request.params.id)
        return reply.type('text/plain').send('')
      },
    )

    scope.post<Named>(
      '/peers/:id/store',
      {
        schema: {
          tags,
          summary: 'Send stored resources to a server',
          description:
            'To one outside of the hospital they go by transfers, to a destination `peer:NAME` of the policy.',
          params,
        },
      },
      async (request, reply) => {
        const { principal, body } = request
        const { name } = named(request.params.id)
        const resources = readResources(body)
        const compress = isObject(body) && body['Compress'] === true
        const transcodeTo = isObject(body) && body['Transcode'] !== '' ? body['Transcode'] : undefined
        if (transcodeTo !== undefined && typeof transcodeTo !== 'string')
          throw new GatewayError('BAD_REQUEST', 'Transcode: expected a transfer syntax')
        const lossyQuality = isObject(body) ? readLossyQuality(body) : undefined
        return await answerJob(request, reply, answers, async ({ priority, permissive }) => {
          const wanted = { resources, compress, permissive, transcodeTo, lossyQuality }
          const plan = await restStore.plan(principal, name, wanted)
          await exportLog.note(name, resources)
          const content = (failed: number, sizeBytes: number) => ({
            Compress: compress,
            Description: 'REST API',
            FailedInstancesCount: failed,
            InstancesCount: plan.instanceCount,
            ...(resources.length > 0 && { ParentResources: resources }),
            Peer: [plan.url, plan.username, ''],
            Size: String(sizeBytes),
            SizeMB: Math.floor(sizeBytes / 1024 ** 2),
            ...(transcodeTo !== undefined && { Transcode: transcodeTo }),
          })
          const job = {
            type: 'OrthancPeerStore',
            description: 'REST API',
            priority,
            permissive,
            content: content(0, plan.sizeBytes),
          }
          return await jobs.submit(principal, job, async (progress, signal) => {
            const { failed, sentBytes } = await plan.run(progress, signal)
            return { content: content(failed, sentBytes) }
          })
        })
      },
    )
  })

  await app.register(async scope => {
    scope.removeAllContentTypeParsers()
    scope.addContentTypeParser('*', (_request, payload, done) => done(null, payload))
    scope.post<Named>(
      '/peers/:id/store-straight',
      {
        config: { upload: true },
        schema: { tags, summary: 'Send the DICOM file in the body to a server, without storing it', params },
      },
      async (request, reply) => {
        const { name } = named(request.params.id)
        const { instance, staged } = await stageLoose(ingest, requestBody(request.raw), limitBytes)
        try {
          return await restStore.send(request.principal, name, instance, goneSignal(reply))
        } finally {
          await staged.discard()
        }
      },
    )
  })
}
