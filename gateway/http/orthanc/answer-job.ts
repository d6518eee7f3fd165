/** How Orthanc's routes run something as a job: answered at its end with its content, or at once with its id. */
import type { FastifyReply, FastifyRequest } from 'fastify'
import { isObject } from '../../decode.ts'
import { GatewayError } from '../../errors.ts'
import type { Log } from '../../log.ts'
import { type BackgroundJobs, errorOfJob } from '../../services/background-jobs.ts'
import { sendSlowly } from '../slow-answer.ts'

/** What a body says about its job. */
export interface JobWishes {
  /** Higher first. */
  readonly priority: number
  /** Goes on with the rest when one item fails. */
  readonly permissive: boolean
}

/** What answering takes. */
export interface JobAnswers {
  readonly jobs: Pick<BackgroundJobs, 'ended'>
  readonly log: Log
}

/**
 * Reads `Synchronous`, `Asynchronous`, `Priority` and `Permissive` of the request's body, has the job planned, and
 * answers as Orthanc does: synchronously, which is the default, with the job's content.
 *
 * @param submit  plans the job and gives its id
 * @throws GatewayError BAD_REQUEST for a field of another type; a synchronous job's own error
 */
export async function answerJob(
  request: FastifyRequest,
  reply: FastifyReply,
  { jobs, log }: JobAnswers,
  submit: (wishes: JobWishes) => Promise<string>,
): Promise<FastifyReply> {
  const body = isObject(request.body) ? request.body : {}
  const isSynchronous = flag(body, 'Synchronous') ?? !(flag(body, 'Asynchronous') ?? false)
  const id = await submit({ priority: priorityOf(body), permissive: flag(body, 'Permissive') ?? false })
  if (!isSynchronous) return reply.send({ ID: id, Path: `/jobs/${id}` })
  return await sendSlowly(request, reply, log, async signal => {
    const job = await jobs.ended(id, signal)
    if (job.state !== 'success') throw errorOfJob(job)
    return job.content
  })
}

function flag(body: Record<string, unknown>, name: string): boolean | undefined {
  const value = body[name]
  if (value === undefined || typeof value === 'boolean') return value
  throw new GatewayError('BAD_REQUEST', `${name}: expected true or false`)
}

function priorityOf(body: Record<string, unknown>): number {
  const value = body['Priority'] ?? 0
  if (typeof value === 'number' && Number.isInteger(value) && Math.abs(value) < 2 ** 31) return value
  throw new GatewayError('BAD_REQUEST', 'Priority: expected a whole number')
}
