/** What arrives at endpoints: file by file, with what became of each. */
import type { FastifyInstance } from 'fastify'
import type { ArrivalFile } from '../../services/arrival-rows.ts'
import type { Arrivals } from '../../services/arrivals.ts'
import { answers, array, date, input, integer, limit, nullableString, object, string } from './schema.ts'

const tags = ['Endpoints']
const described = object({
  id: integer,
  path: { ...string, description: "Below the endpoint's root" },
  size: integer,
  modified: { ...string, description: 'As the endpoint tells; empty where it does not' },
  state: {
    enum: ['seen', 'fetching', 'fetched', 'taken', 'known', 'failed', 'refused'],
    description: '`known`: the same bytes were taken before; `fetched`: here, and held or about to be decided',
  },
  arrival: { ...nullableString, description: 'Files that were taken together; its id in the quarantine' },
  sha256: nullableString,
  instances: integer,
  errorCode: nullableString,
  error: nullableString,
  seenAt: date,
  updatedAt: date,
})
const name = { ...string, minLength: 1, maxLength: 64 }
const position = { type: 'integer', minimum: 1, maximum: Number.MAX_SAFE_INTEGER }

interface Named {
  readonly Params: { name: string }
}

/** What the routes need. */
export interface ArrivalRouteServices {
  readonly arrivals: Arrivals
}

/** Registers the routes. */
export function arrivalRoutes(app: FastifyInstance, { arrivals }: ArrivalRouteServices): void {
  app.get<Named & { Querystring: { limit: number; before?: number } }>(
    '/endpoints/:name/arrivals',
    {
      schema: {
        tags,
        summary: 'Files that were found at an endpoint, the latest first',
        params: input({ name }, ['name']),
        querystring: input({ limit, before: { ...position, description: 'Only files with a smaller id' } }),
        response: answers('Files', object({ files: array(described) })),
      },
    },
    async request => ({
      files: (await arrivals.list(request.principal, request.params.name, request.query)).map(toJson),
    }),
  )
  app.post<Named>(
    '/endpoints/:name/poll',
    {
      schema: {
        tags,
        summary: 'Look now what has arrived at an endpoint',
        params: input({ name }, ['name']),
        response: answers('It is looked at', object({ name: string })),
      },
    },
    async request => {
      await arrivals.poll(request.principal, request.params.name)
      return { name: request.params.name }
    },
  )
  app.post<{ Params: { name: string; file: number } }>(
    '/endpoints/:name/arrivals/:file/retry',
    {
      schema: {
        tags,
        summary: 'Take a file up again that failed or was refused',
        params: input({ name, file: position }, ['name', 'file']),
        response: answers('It is taken up again', object({ id: integer })),
      },
    },
    async request => {
      const { name: endpoint, file } = request.params
      await arrivals.retry(request.principal, endpoint, file)
      return { id: file }
    },
  )
}

const toJson = ({ sha256, ...file }: ArrivalFile) => ({ ...file, sha256: sha256?.toString('hex') ?? null })
