/** Discs that the gateway reads: what is on one, and the import of what somebody picked. */
import type { FastifyInstance } from 'fastify'
import { GatewayError } from '../../errors.ts'
import type { Log } from '../../log.ts'
import type { MediumChoice } from '../../services/disc-studies.ts'
import type { DiscPlace, Discs } from '../../services/discs.ts'
import { sendSlowly } from '../slow-answer.ts'
import { answers, array, boolean, input, object, string, uuid } from './schema.ts'

/** What the routes need. */
export interface DiscServices {
  readonly discs: Discs
  readonly log: Log
}

const tags = ['Store']
const config = { action: 'study.store' } as const
const place = {
  path: {
    ...string,
    minLength: 1,
    maxLength: 4096,
    pattern: '^/',
    description: 'A folder or an image on this machine',
  },
  upload: { ...uuid, description: 'A complete upload of an image (ISO 9660)' },
}
const choice = input({
  patientId: { ...string, maxLength: 1024 },
  studyInstanceUid: { ...string, minLength: 1, maxLength: 64 },
})
/** Of each list in an answer; the report of an import has all. */
const mostTold = 10_000

/** Registers the routes. */
export function discRoutes(app: FastifyInstance, { discs, log }: DiscServices): void {
  app.get(
    '/discs',
    {
      config,
      schema: {
        tags,
        summary: 'Folders below which discs may be named',
        response: answers('Folders', object({ folders: array(string) })),
      },
    },
    async ({ principal }) => ({ folders: discs.folders(principal) }),
  )
  app.post<{ Body: DiscPlace }>(
    '/discs/contents',
    {
      config,
      schema: {
        tags,
        summary:
          'Patients and studies of a disc; slow drives take minutes, and the answer begins with spaces meanwhile',
        description: 'Files that cannot be read are named, and those that the DICOMDIR names and the disc lacks.',
        body: input(place),
      },
    },
    async (request, reply) =>
      await sendSlowly(request, reply, log, async signal => {
        const { studies, unreadable, missing, otherFiles } = await discs.look(request.principal, request.body, signal)
        return {
          studies: studies.slice(0, mostTold).map(({ files, modalities, ...study }) => ({
            ...study,
            modalities: [...modalities],
            instances: files.length,
          })),
          unreadable: unreadable.slice(0, mostTold),
          missing: missing.slice(0, mostTold),
          counts: { studies: studies.length, unreadable: unreadable.length, missing: missing.length, otherFiles },
        }
      }),
  )
  app.post<{ Body: DiscPlace & { choices: MediumChoice[]; all: boolean } }>(
    '/discs/import',
    {
      config,
      schema: {
        tags,
        summary: 'Store the studies that were picked, as a job',
        description:
          'GET /jobs/{id} tells its progress and counts, GET /jobs/{id}/report each file on a line of JSON: stored, ' +
          'duplicate, conflict, variant, failed, unreadable or missing.',
        body: input({
          ...place,
          choices: { ...array(choice), maxItems: 1000, default: [] },
          all: { ...boolean, default: false, description: 'In place of choices' },
        }),
        response: answers('The job', object({ job: { ...uuid, description: 'Of /jobs' } })),
      },
    },
    async ({ principal, body }) => {
      const { choices, all, ...disc } = body
      if (all === choices.length > 0) throw new GatewayError('BAD_REQUEST', 'expected choices, or all and no choices')
      return { job: await discs.begin(principal, { ...disc, choices }) }
    },
  )
}
