/** Named bearer tokens for callers on other machines. */
import type { FastifyInstance } from 'fastify'
import { roles } from '../../../policy/actions.ts'
import type { Tokens } from '../../services/tokens.ts'
import { answers, array, date, input, nullableDate, object, string } from './schema.ts'

const tags = ['Tokens']
const role = { enum: [...roles], description: 'What its holder may do' }
const name = { type: 'string', pattern: '^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$' } as const

/** Registers the routes. */
export function tokenRoutes(app: FastifyInstance, tokens: Tokens): void {
  app.get(
    '/tokens',
    {
      schema: {
        tags,
        summary: 'List tokens, revoked ones too',
        response: answers(
          'Tokens',
          object({
            tokens: array(
              object({
                name: string,
                role: string,
                expiresAt: nullableDate,
                createdAt: date,
                createdBy: string,
                revokedAt: nullableDate,
              }),
            ),
          }),
        ),
      },
    },
    async request => ({ tokens: await tokens.list(request.principal) }),
  )

  app.post<{ Body: { name: string; role: string; expiresAt?: string } }>(
    '/tokens',
    {
      schema: {
        tags,
        summary: 'Create a token; its text is in this answer only',
        body: input(
          {
            name,
            role,

            expiresAt: { ...date, description: 'Not accepted from then on; absent: until revoked' },
          },
          ['name', 'role'],
        ),
        response: answers('The token', object({ name: string, role: string, token: string })),
      },
    },
    async request => {
      const { expiresAt, ...rest } = request.body
      const fresh = { ...rest, ...(expiresAt !== undefined && { expiresAt: new Date(expiresAt) }) }
      return { name: fresh.name, role: fresh.role, token: await tokens.create(request.principal, fresh) }
    },
  )

  app.delete<{ Params: { name: string } }>(
    '/tokens/:name',
    { schema: { tags, summary: 'Revoke a token', params: input({ name }, ['name']) } },
    async (request, reply) => {
      await tokens.revoke(request.principal, request.params.name)
      return reply.code(204).send()
    },
  )
}
