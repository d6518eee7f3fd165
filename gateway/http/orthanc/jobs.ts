/** Orthanc's `/jobs`: the gateway's own long work, and beside it the work with registered modalities. */

import type { FastifyInstance } from 'fastify'
import { GatewayError } from '../../errors.ts'
import type { Principal } from '../../principal.ts'
import type { BackgroundJobs } from '../../services/background-jobs.ts'
import type { ModalityJobs } from '../../services/modality-jobs.ts'
import { sendFile } from '../send-file.ts'
import { type JobView, modalityJobView, ownJobView } from './job-view.ts'
import { lenientScope } from './lenient-scope.ts'

/** What the routes need. */
export interface OrthancJobServices {
  readonly jobs: BackgroundJobs
  /** Where there is none, `/jobs` shows the gateway's own work only. */
  readonly modalityJobs?: Pick<ModalityJobs, 'list' | 'load' | 'cancel'>
}

const tags = ['Orthanc']
const id = { type: 'string', minLength: 1, maxLength: 64 } as const
const params = { type: 'object', properties: { id }, required: ['id'] } as const
const outputParams = { type: 'object', properties: { id, key: id }, required: ['id', 'key'] } as const
const listQuery = {
  type: 'object',
  properties: { expand: { type: 'string', description: 'Give details instead of ids' } },
} as const
const mostModalityJobs = 1_000
const uuid = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/

interface OfJob {
  readonly Params: { id: string }
}

/** Registers the routes. */
export function orthancJobRoutes(app: FastifyInstance, { jobs, modalityJobs }: OrthancJobServices): void {
  const findModalityJob = async (id: string) =>
    uuid.test(id)
      ? await modalityJobs?.load(id).catch((error: unknown) => {
          if (error instanceof GatewayError && error.code === 'NOT_FOUND') return undefined
          throw error
        })
      : undefined

  app.get<{ Querystring: { expand?: string } }>(
    '/jobs',
    { schema: { tags, summary: 'List jobs', querystring: listQuery } },
    async request => {
      const now = new Date()
      const views: JobView[] = [
        ...(await jobs.list()).map(job => ownJobView(job, now)),
        ...((await modalityJobs?.list(mostModalityJobs)) ?? []).map(job => modalityJobView(job, now)),
      ].toSorted((one, other) => (one.ID < other.ID ? -1 : 1))
      const { expand } = request.query
      return expand === undefined || expand === 'false' || expand === '0' ? views.map(view => view.ID) : views
    },
  )

  app.get<OfJob>('/jobs/:id', { schema: { tags, summary: 'One job', params } }, async request => {
    const own = await jobs.load(request.params.id)
    if (own) return ownJobView(own, new Date())
    const other = await findModalityJob(request.params.id)
    if (other) return modalityJobView(other, new Date())
    throw new GatewayError('NOT_FOUND', 'no such job')
  })

  const verbs = {
    pause: (principal: Principal, job: string) => jobs.pause(principal, job),
    resume: (principal: Principal, job: string) => jobs.resume(principal, job),
    resubmit: (principal: Principal, job: string) => jobs.resubmit(principal, job),
    cancel: async (principal: Principal, job: string) => {
      if (await jobs.cancel(principal, job)) return true
      const other = await findModalityJob(job)
      if (!other) return false
      if (other.state === 'waiting' || other.state === 'running') await modalityJobs?.cancel(principal, job)
      return true
    },
  }
  const summaries = {
    pause: 'Pause a job',
    resume: 'Let a paused job go on',
    resubmit: 'Begin a failed job again',
    cancel: 'Cancel a job',
  }
  lenientScope(app, scope => {
    for (const verb of ['pause', 'resume', 'resubmit', 'cancel'] as const) {
      const schema = { tags, summary: summaries[verb], params }
      scope.post<OfJob>(`/jobs/:id/${verb}`, { schema }, async request => {
        const isDone = await verbs[verb](request.principal, request.params.id)
        if (!isDone) throw new GatewayError('BAD_REQUEST', `there is no such job, or it is not in a state to ${verb}`)
        return {}
      })
    }
  })

  app.get<{ Params: { id: string; key: string } }>(
    '/jobs/:id/:key',
    { schema: { tags, summary: 'A file that a job has made', params: outputParams } },
    async (request, reply) => {
      const { id, key } = request.params
      const { file, output, tag } = await jobs.openOutput(request.principal, id, key)
      return await sendFile(request, reply, file, { sha256: tag, ...output })
    },
  )

  app.delete<{ Params: { id: string; key: string } }>(
    '/jobs/:id/:key',
    { schema: { tags, summary: 'Remove a file that a job has made', params: outputParams } },
    async (request, reply) => {
      await jobs.removeOutput(request.principal, request.params.id, request.params.key)
      return reply.type('text/plain').send('')
    },
  )
}
