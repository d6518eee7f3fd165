/** Asking back what peers were sent, and deciding about what they ask back. */
import type { FastifyInstance } from 'fastify'
import { recallOutcomes } from '../../../peers/recall.ts'
import { GatewayError } from '../../errors.ts'
import type { Recalls } from '../../services/recalls.ts'
import {
  answers,
  array,
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

const tags = ['Recalls']
const recall = object({
  id: uuid,
  direction: { enum: ['sent', 'received'], description: 'sent: we ask a peer; received: a peer asks us' },
  transfer: uuid,
  peer: string,
  state: { enum: [...recallOutcomes] },
  reason: string,
  instances: { ...integer, description: 'Instances that are gone at the receiver' },
  requestedBy: string,
  why: nullableString,
  decidedBy: nullableString,
  errorCode: { ...nullableString, description: 'Why the peer could not be asked; it is tried again' },
  createdAt: date,
  updatedAt: date,
})

/** Registers the routes. */
export function recallRoutes(app: FastifyInstance, recalls: Recalls): void {
  app.get<{ Querystring: { before?: string; limit: number } }>(
    '/recalls',
    {
      schema: {
        tags,
        summary: 'Recalls of both directions, newest first',
        querystring: input({ before: { ...uuid, description: 'Only what was asked for before this one' }, limit }),
        response: answers('A page', object({ recalls: array(recall) })),
      },
    },
    async ({ principal, query }) => ({ recalls: await recalls.list(principal, query) }),
  )

  app.post<{ Body: { transfer?: string; consent?: string; why: string } }>(
    '/recalls',
    {
      schema: {
        tags,
        summary: 'Ask peers to give back what they were sent',
        description:
          'A transfer, or everything but data of trials that was sent under a withdrawn consent. The peer decides; its signed answer is kept.',
        body: input(
          {
            transfer: uuid,
            consent: { ...uuid, description: 'Instead of `transfer`: a consent that was withdrawn' },
            why,
          },
          ['why'],
        ),
        response: answers('What was started', object({ recalls: array(uuid) })),
      },
    },
    async ({ principal, body: { transfer, consent, why } }) => {
      if (transfer !== undefined && consent === undefined)
        return { recalls: await recalls.start(principal, { transfer, why }) }
      if (consent !== undefined && transfer === undefined)
        return { recalls: await recalls.start(principal, { consent, why }) }
      throw new GatewayError('BAD_REQUEST', 'expected either transfer or consent')
    },
  )

  for (const [action, outcome, summary] of [
    ['accept', 'recalled', 'Delete what a peer asks back'],
    ['refuse', 'refused', 'Keep what a peer asks back'],
  ] as const) {
    app.post<{ Params: { id: string }; Body: { why: string } }>(
      `/recalls/:id/${action}`,
      {
        schema: {
          tags,
          summary,
          params: uuidParams,
          body: input({ why }, ['why']),
          response: answers('Done', object({ id: uuid })),
        },
      },
      async ({ principal, params: { id }, body }) => {
        await recalls.decide(principal, id, outcome, body.why)
        return { id }
      },
    )
  }
}
