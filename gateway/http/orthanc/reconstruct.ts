/** `/tools/reconstruct` and `/{level}/{id}/reconstruct`. */

import type { FastifyInstance } from 'fastify'
import type { Reconstruction } from '../../services/resource-reconstruct.ts'
import { levelOrder } from '../../store/hierarchy.ts'
import { goneSignal } from '../gone.ts'
import { lenientScope } from './lenient-scope.ts'
import { idParams, pathOfLevel } from './navigation.ts'

const description = 'Answers when it is done. Identifiers do not change.'

/** Registers the routes. */
export function reconstructRoutes(
  app: FastifyInstance,
  { reconstruction }: { readonly reconstruction: Reconstruction },
): void {
  const tags = ['Orthanc']
  lenientScope(app, scope => {
    scope.post(
      '/tools/reconstruct',
      { schema: { tags, summary: 'Read the attributes of all instances anew from their files', description } },
      async (request, reply) => {
        await reconstruction.run(request.principal, 'everything', goneSignal(reply))
        return reply.type('text/plain').send('')
      },
    )
    for (const level of levelOrder) {
      scope.post<{ Params: { id: string } }>(
        `/${pathOfLevel[level]}/:id/reconstruct`,
        {
          schema: {
            tags,
            summary: `Read the attributes of a ${level} anew from its files`,
            description,
            params: idParams,
          },
        },
        async (request, reply) => {
          await reconstruction.run(request.principal, { level, orthancId: request.params.id }, goneSignal(reply))
          return reply.type('text/plain').send('')
        },
      )
    }
  })
}
