/** Orthanc's `/{level}/{id}/modify` and `/anonymize`, `/tools/bulk-modify` and `/tools/bulk-anonymize`. */

import type { FastifyInstance, FastifyRequest } from 'fastify'
import type { Modifications } from '../../services/modify.ts'
import type { Anonymizations } from '../../services/modify-anonymize.ts'
import type { StagedFile } from '../../store/blobs.ts'
import { goneSignal } from '../gone.ts'
import { sendFile } from '../send-file.ts'
import { answerJob, type JobAnswers } from './answer-job.ts'
import { readAnyBodyAsJson } from './json-body.ts'
import { type PrivateNumbers, withPrivateNumbers } from './private-numbers.ts'

/** What the routes need. */
export interface ModifyServices extends JobAnswers {
  readonly modifications: Modifications
  readonly anonymizations: Anonymizations
  readonly privateNumbers?: PrivateNumbers | undefined
}

const tags = ['Orthanc']
/** Of the routes about one resource. */
export const idParams = {
  type: 'object',
  properties: { id: { type: 'string', minLength: 1, maxLength: 64 } },
  required: ['id'],
} as const
/** The levels whose resources are worked on by jobs, and their paths. */
export const jobLevels = [
  ['patients', 'patient'],
  ['studies', 'study'],
  ['series', 'series'],
] as const

interface OfResource {
  readonly Params: { id: string }
}

/** Registers the routes. */
export function modifyRoutes(app: FastifyInstance, services: ModifyServices): void {
  const { modifications, anonymizations, privateNumbers = new Map() } = services
  const bodyOf = ({ body }: Pick<FastifyRequest, 'body'>): unknown => withPrivateNumbers(body, privateNumbers)
  const verbs = [
    ['modify', modifications, 'Modify', 'modified'],
    ['anonymize', anonymizations, 'Anonymize', 'anonymized'],
  ] as const
  app.register(async scope => {
    readAnyBodyAsJson(scope)
    for (const [verb, service, summary, made] of verbs) {
      scope.post<OfResource>(
        `/instances/:id/${verb}`,
        { schema: { tags, summary: `${summary} an instance, answered as a file; audited`, params: idParams } },
        async (request, reply) => {
          const file = await service.instance(request.principal, request.params.id, bodyOf(request), goneSignal(reply))
          return await sendFile(request, reply, stagedBlob(file), {
            sha256: file.fileSha256.toString('hex'),
            type: 'application/dicom',
            filename: `${made}.dcm`,
          })
        },
      )

      for (const [path, level] of jobLevels) {
        scope.post<OfResource>(
          `/${path}/:id/${verb}`,
          { schema: { tags, summary: `${summary} the instances of a ${level}, as a job; audited`, params: idParams } },
          (request, reply) =>
            answerJob(request, reply, services, wishes =>
              service.resource(request.principal, { level, orthancId: request.params.id }, bodyOf(request), wishes),
            ),
        )
      }

      scope.post(
        `/tools/bulk-${verb}`,
        { schema: { tags, summary: `${summary} the instances of any resources, as a job; audited` } },
        (request, reply) =>
          answerJob(request, reply, services, wishes => service.bulk(request.principal, bodyOf(request), wishes)),
      )
    }
  })
}

/** A staged file as `sendFile` takes it: removed when it was sent. */
export function stagedBlob(file: StagedFile) {
  return {
    sizeBytes: file.sizeBytes,
    read: (offset: number, length: number) => file.read(offset, length),
    close: () => file.discard(),
  }
}
