/** The quarantine: transfers of both directions that are held for a person. */
import type { FastifyInstance } from 'fastify'
import type { Quarantine } from '../../services/quarantine.ts'
import {
  answers,
  anything,
  array,
  boolean,
  date,
  input,
  integer,
  limit,
  nullableString,
  object,
  string,
  uuid,
  uuidParams,
  why,
} from './schema.ts'

const tags = ['Quarantine']
const entry = {
  id: { ...uuid, description: 'Id of the transfer' },
  direction: { enum: ['outbound', 'inbound'] },
  peer: nullableString,
  studyInstanceUid: nullableString,
  rule: nullableString,
  profile: nullableString,
  purpose: string,
  objectCount: integer,
  code: nullableString,
  reason: nullableString,
  heldBy: { enum: ['us', 'receiver'], description: 'Who has to decide' },
  heldInstances: integer,
  isAlert: { ...boolean, description: 'The engine failed, or its verification found what must not be there' },
  createdAt: date,
  updatedAt: date,
}
const instance = object({
  sopInstanceUid: nullableString,
  code: string,
  reason: string,
  evidence: { ...anything, description: 'Attributes and rules, never values' },
  isAlert: boolean,
})

/** Registers the routes. */
export function quarantineRoutes(app: FastifyInstance, quarantine: Quarantine): void {
  app.get<{ Querystring: { direction?: 'outbound' | 'inbound'; limit: number } }>(
    '/quarantine',
    {
      schema: {
        tags,
        summary: 'What is held, newest first',
        querystring: input({ direction: { enum: ['outbound', 'inbound'] }, limit }),
        response: answers('Held transfers', object({ held: array(object(entry)) })),
      },
    },
    async request => ({ held: await quarantine.list(request.principal, request.query) }),
  )

  app.get<{ Params: { id: string } }>(
    '/quarantine/:id',
    {
      schema: {
        tags,
        summary: 'One held transfer with its reasons, instance by instance',
        params: uuidParams,
        response: answers('The held transfer', object({ ...entry, instances: array(instance) })),
      },
    },
    async request => await quarantine.load(request.principal, request.params.id),
  )

  for (const [action, summary] of [
    ['release', 'Try it again as it is'],
    ['reject', 'End it for good'],
  ] as const) {
    app.post<{ Params: { id: string }; Body: { why: string } }>(
      `/quarantine/:id/${action}`,
      {
        schema: {
          tags,
          summary,
          params: uuidParams,
          body: input({ why }, ['why']),
          response: answers('Done', object({ id: uuid })),
        },
      },
      async request => {
        const { id } = request.params
        await quarantine[action](request.principal, id, request.body.why)
        return { id }
      },
    )
  }

  app.post<{ Params: { id: string }; Body: { profile: string; why: string } }>(
    '/quarantine/:id/rerun',
    {
      schema: {
        tags,
        summary: 'Send it under another profile of the active policy',
        params: uuidParams,
        body: input({ profile: { ...string, minLength: 1, maxLength: 64 }, why }, ['profile', 'why']),
        response: answers('Done', object({ id: uuid })),
      },
    },
    async request => {
      const { id } = request.params
      const { profile, why } = request.body
      await quarantine.rerun(request.principal, id, profile, why)
      return { id }
    },
  )
}
