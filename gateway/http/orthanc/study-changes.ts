/** Orthanc's `/studies/{id}/merge` and `/studies/{id}/split`. */
import type { FastifyInstance } from 'fastify'
import type { StudyChanges } from '../../services/modify-studies.ts'
import { answerJob, type JobAnswers } from './answer-job.ts'
import { readAnyBodyAsJson } from './json-body.ts'
import { idParams } from './navigation.ts'

/** What the routes need. */
export interface StudyChangeServices extends JobAnswers {
  readonly studyChanges: StudyChanges
}

const tags = ['Orthanc']
const summaries = {
  merge: 'Move resources into a study, as a job; audited. The sources go unless KeepSource is true',
  split:
    'Move series and instances of a study into a new one, as a job; audited. They go from it unless KeepSource is true',
}

/** Registers the routes. */
export function studyChangeRoutes(app: FastifyInstance, services: StudyChangeServices): void {
  const { studyChanges } = services
  app.register(async scope => {
    readAnyBodyAsJson(scope)
    for (const verb of ['merge', 'split'] as const) {
      scope.post<{ Params: { id: string } }>(
        `/studies/:id/${verb}`,
        { schema: { tags, summary: summaries[verb], params: idParams } },
        (request, reply) =>
          answerJob(request, reply, services, wishes =>
            studyChanges[verb](request.principal, request.params.id, request.body, wishes),
          ),
      )
    }
  })
}
