/** Health for load balancers and supervisors: answered to everybody, says yes or no and nothing else. */
import type { FastifyInstance } from 'fastify'

export interface Health {
  /** All parts run and the database answers. */
  isReady(): Promise<boolean>
}

const answer = (values: readonly string[]) => ({ type: 'object', properties: { status: { enum: values } } })

/** Registers the routes. */
export function healthRoutes(app: FastifyInstance, health: Health): void {
  app.get(
    '/health/live',
    {
      config: { open: true },
      schema: { tags: ['Health'], summary: 'The process runs', response: { 200: answer(['live']) } },
    },
    async () => ({ status: 'live' }),
  )
  app.get(
    '/health/ready',
    {
      config: { open: true },
      schema: {
        tags: ['Health'],
        summary: 'All parts run and the database answers',
        response: { 200: answer(['ready']), 503: answer(['not ready']) },
      },
    },
    async (_request, reply) =>
      (await health.isReady()) ? { status: 'ready' } : reply.code(503).send({ status: 'not ready' }),
  )
}
