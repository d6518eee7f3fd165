/** Orthanc's `/modalities/{id}/move`, `store` and `store-straight`: instances from node to node. */
import type { FastifyInstance } from 'fastify'
import { isObject } from '../../decode.ts'
import { fromJson } from '../../dicom/json.ts'
import { GatewayError } from '../../errors.ts'
import type { BackgroundJobs } from '../../services/background-jobs.ts'
import { findReferences } from '../../services/commitment-resources.ts'
import type { MoveOriginator } from '../../services/dicom-node.ts'
import type { ExportLog } from '../../services/export-log.ts'
import type { Ingest } from '../../services/ingest.ts'
import type { Modalities } from '../../services/modalities.ts'
import type { Remote } from '../../services/remote.ts'
import type { RemoteStore } from '../../services/remote-store.ts'
import { stageLoose } from '../../services/upload.ts'
import { goneSignal } from '../gone.ts'
import { answerJob, type JobAnswers } from './answer-job.ts'
import { acceptAnyBody, objectBody } from './lenient-body.ts'
import { readCall, readKeys, readLevel } from './query-form.ts'
import { requestBody } from './request-body.ts'
import { requestCommitment, type StorageCommitmentServices } from './storage-commitment.ts'

/** What the routes need. */
export interface RemoteSendServices {
  readonly modalities: Pick<Modalities, 'list'>
  readonly remote: Pick<Remote, 'move' | 'send'>
  readonly remoteStore: RemoteStore
  readonly exportLog: Pick<ExportLog, 'note'>
  readonly commitment: Pick<StorageCommitmentServices, 'db' | 'commitments'>
  readonly ingest: Pick<Ingest, 'stage'>
  readonly answers: JobAnswers
  readonly jobs: Pick<BackgroundJobs, 'submit'>
  /** The largest instance, bytes. */
  readonly limitBytes: number
}

const tags = ['Orthanc']
const params = {
  type: 'object',
  properties: { id: { type: 'string', minLength: 1, maxLength: 64 } },
  required: ['id'],
} as const
const mostResources = 10_000

interface Named {
  readonly Params: { id: string }
}

/** Registers the routes. */
export async function remoteSendRoutes(app: FastifyInstance, services: RemoteSendServices): Promise<void> {
  const { modalities, remote, remoteStore, exportLog, commitment, ingest, limitBytes, answers, jobs } = services
  const named = (name: string): string => {
    if (!modalities.list().some(entry => entry.name === name))
      throw new GatewayError('NOT_FOUND', 'no modality has this name')
    return name
  }

  await app.register(async scope => {
    acceptAnyBody(scope)

    scope.post<Named>(
      '/modalities/:id/move',
      { schema: { tags, summary: 'Have a modality send instances to us or to another one (C-MOVE)', params } },
      async (request, reply) => {
        const body = objectBody(request.body)
        const { Level, Resources, TargetAet } = body
        if (!Array.isArray(Resources) || Resources.length > mostResources || typeof Level !== 'string')
          throw new GatewayError('BAD_REQUEST', 'expected a JSON body with Resources and Level')
        if (TargetAet !== undefined && typeof TargetAet !== 'string')
          throw new GatewayError('BAD_REQUEST', 'TargetAet: expected text')
        const wish = {
          level: readLevel(Level),
          resources: Resources.map(each => fromJson(readKeys(each))),
          destination: TargetAet || undefined,
          call: readCall(body),
        }
        await remote.move(request.principal, named(request.params.id), wish, () => undefined, goneSignal(reply))
        return {}
      },
    )

    scope.post<Named>(
      '/modalities/:id/store',
      {
        schema: {
          tags,
          summary: 'Send stored resources to a modality (C-STORE)',
          description: 'To a modality outside of the hospital they go by transfers, to a destination of the policy.',
          params,
        },
      },
      async (request, reply) => {
        const { principal } = request
        const resources = readResources(request.body)
        const commits = isObject(request.body) && request.body['StorageCommitment'] === true
        const { callingAe, timeoutMs } = readCall(request.body)
        const name = named(request.params.id)
        const originator = readOriginator(request.body)
        return await answerJob(request, reply, answers, async ({ priority, permissive }) => {
          const call = { callingAe, timeoutMs }
          const plan = await remoteStore.plan(principal, name, { resources, call, permissive, originator })
          await exportLog.note(name, resources)
          const content = (failed: number) => ({
            Description: 'REST API',
            FailedInstancesCount: failed,
            InstancesCount: plan.instanceCount,
            LocalAet: plan.localAe,
            ...(originator && { MoveOriginatorAET: originator.aeTitle, MoveOriginatorID: originator.messageId }),
            ...(resources.length > 0 && { ParentResources: resources }),
            RemoteAet: plan.remoteAe,
          })
          const job = { type: 'DicomModalityStore', description: 'REST API', priority, permissive, content: content(0) }
          return await jobs.submit(principal, job, async (progress, signal) => {
            const { failedCount } = await plan.run(progress, signal)
            if (!commits) return { content: content(failedCount) }
            const instances = await findReferences(commitment.db, resources)
            const uid = await requestCommitment(commitment, name, instances)
            return { content: { ...content(failedCount), StorageCommitmentTransactionUID: uid } }
          })
        })
      },
    )
  })

  await app.register(async scope => {
    scope.removeAllContentTypeParsers()
    scope.addContentTypeParser('*', (_request, payload, done) => done(null, payload))
    scope.post<Named>(
      '/modalities/:id/store-straight',
      {
        config: { upload: true },
        schema: { tags, summary: 'Send the DICOM file in the body to a modality, without storing it', params },
      },
      async (request, reply) => {
        const name = named(request.params.id)
        const { instance, staged } = await stageLoose(ingest, requestBody(request.raw), limitBytes)
        try {
          await remote.send(request.principal, name, instance, goneSignal(reply))
        } finally {
          await staged.discard()
        }
        return { SOPClassUID: instance.sopClassUid, SOPInstanceUID: instance.sopInstanceUid }
      },
    )
  })
}

const orthancId = /^[0-9a-f]{8}(-[0-9a-f]{8}){4}$/

/**
 * Ids of resources: one as text, a list, or `Resources` of an object.
 *
 * @throws GatewayError BAD_REQUEST
 */
export function readResources(body: unknown): string[] {
  const raw = isObject(body) ? body['Resources'] : typeof body === 'string' ? [body.trim()] : body
  if (!Array.isArray(raw) || raw.length > mostResources)
    throw new GatewayError('BAD_REQUEST', 'expected Resources, a list of ids')
  return raw.map((id: unknown) => {
    if (typeof id !== 'string' || !orthancId.test(id))
      throw new GatewayError('BAD_REQUEST', 'expected the ids of resources of this server')
    return id
  })
}

/** Who is said to have asked by C-MOVE; nobody where no AE title is given. @throws GatewayError BAD_REQUEST */
function readOriginator(body: unknown): MoveOriginator | undefined {
  if (!isObject(body) || body['MoveOriginatorAet'] === undefined) return undefined
  const { MoveOriginatorAet: aeTitle, MoveOriginatorID: messageId = 0 } = body
  if (typeof aeTitle !== 'string' || !/^[\x20-\x5b\x5d-\x7e]{1,16}$/.test(aeTitle))
    throw new GatewayError('BAD_REQUEST', 'MoveOriginatorAet: expected an AE title')
  if (typeof messageId !== 'number' || !Number.isInteger(messageId) || messageId < 0 || messageId > 65_535)
    throw new GatewayError('BAD_REQUEST', 'MoveOriginatorID: expected a number from 0 to 65535')
  return { aeTitle, messageId }
}
