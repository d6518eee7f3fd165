/** Named bearer tokens for callers on other machines. */
import type { FastifyInstance } from 'fastify'
import type { Db } from '../../db/db.ts'
import { createToken, listTokens, revokeToken } from '../../store/tokens.ts'
import { answers, array, date, input, nullableDate, object, string } from './schema.ts'

const tags = ['Tokens']
const name = { type: 'string', pattern: '^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$' } as const

/** Registers the routes. */
export function tokenRoutes(app: FastifyInstance, db: Db): void {
  app.get(
    '/tokens',
    {
      schema: {
        tags,
        summary: 'List tokens, revoked ones too',
        response: answers(
          'Tokens',
          object({
            tokens: array(object({ name: string, createdAt: date, createdBy: string, revokedAt: nullableDate })),
          }),
        ),
      },
    },
    async () => ({ tokens: await listTokens(db) }),
  )

  app.post<{ Body: { name: string } }>(
    '/tokens',
    {
      schema: {
        tags,
        summary: 'Create a token; its text is in this answer only',
        body: input({ name }, ['name']),
        response: answers('The token', object({ name: string, token: string })),
      },
    },
    async request => ({
      name: request.body.name,
      token: await createToken(db, request.principal, request.body.name),
    }),
  )

  app.delete<{ Params: { name: string } }>(
    '/tokens/:name',
    { schema: { tags, summary: 'Revoke a token', params: input({ name }, ['name']) } },
    async (request, reply) => {
      await revokeToken(db, request.principal, request.params.name)
      return reply.code(204).send()
    },
  )
}
