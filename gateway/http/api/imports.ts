/** Moving in: what an Orthanc holds is taken over. */
import type { FastifyInstance } from 'fastify'
import type { ImportRequest, OrthancImports } from '../../services/orthanc-import.ts'
import { answers, array, date, input, integer, nullableString, object, string, uuid, uuidParams } from './schema.ts'

/** What the routes need. */
export interface ImportServices {
  readonly orthancImports: OrthancImports
}

const tags = ['Store']
const mostProblems = 1_000
const shown = {
  id: uuid,
  source: { ...string, description: 'URL or folder' },
  state: { enum: ['running', 'done', 'failed'] },
  found: integer,
  imported: integer,
  annotated: { ...integer, description: 'Resources whose metadata, labels and attachments were taken' },
  failed: integer,
  errorCode: nullableString,
  error: nullableString,
  createdAt: date,
  updatedAt: date,
}

/** Registers the routes. */
export function importRoutes(app: FastifyInstance, { orthancImports }: ImportServices): void {
  app.post<{ Body: ImportRequest }>(
    '/imports',
    {
      schema: {
        tags,
        summary: 'Take over what an Orthanc holds and says of it, or go on with it; nothing of it is routed',
        body: input({
          url: { ...string, minLength: 8, maxLength: 2000, description: 'Of a running Orthanc' },
          user: { ...string, maxLength: 256 },
          password: { ...string, maxLength: 1024 },
          storage: {
            ...string,
            minLength: 1,
            maxLength: 4096,
            pattern: '^/',
            description: 'Storage folder of a stopped Orthanc with its index, on this machine',
          },
        }),
        response: answers('The import', object(shown)),
      },
    },
    async request => await orthancImports.begin(request.principal, request.body),
  )
  app.get<{ Params: { id: string } }>(
    '/imports/:id',
    {
      schema: {
        tags,
        summary: 'How far an import is',
        params: uuidParams,
        response: answers('The import', object(shown)),
      },
    },
    async request => await orthancImports.load(request.principal, request.params.id),
  )
  app.get<{ Params: { id: string } }>(
    '/imports/:id/problems',
    {
      schema: {
        tags,
        summary: 'Files and resources that could not be taken over, the first thousand',
        params: uuidParams,
        response: answers('Problems', object({ problems: array(object({ item: string, problem: string })) })),
      },
    },
    async request => ({ problems: await orthancImports.problems(request.principal, request.params.id, mostProblems) }),
  )
}
