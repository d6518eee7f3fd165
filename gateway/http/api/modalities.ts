/** The modalities and archives that may talk DICOM to us. */
import type { FastifyInstance } from 'fastify'
import type { Modalities } from '../../services/modalities.ts'
import { answers, array, input, integer, nullableInteger, nullableString, object, string } from './schema.ts'

const tags = ['Modalities']
const listed = object({
  modalities: array(
    object({ aeTitle: string, host: nullableString, description: nullableString, stableAgeSeconds: nullableInteger }),
  ),
})
const params = input({ aeTitle: { ...string, minLength: 1, maxLength: 16 } }, ['aeTitle'])

/** Registers the routes. */
export function modalityRoutes(app: FastifyInstance, modalities: Modalities): void {
  const all = () => ({
    modalities: modalities.list().map(({ aeTitle, host, description, stableAgeSeconds }) => ({
      aeTitle,
      host: host ?? null,
      description: description ?? null,
      stableAgeSeconds: stableAgeSeconds ?? null,
    })),
  })

  app.get(
    '/modalities',
    { schema: { tags, summary: 'Registered modalities', response: answers('Modalities', listed) } },
    async () => all(),
  )

  app.put<{
    Params: { aeTitle: string }
    Body: { host?: string; description?: string; stableAgeSeconds?: number } | null
  }>(
    '/modalities/:aeTitle',
    {
      schema: {
        tags,
        summary: 'Register a modality, or change it; effective at once',
        params,
        body: {
          ...input({
            host: { ...string, maxLength: 253 },
            description: { ...string, maxLength: 200 },
            stableAgeSeconds: { ...integer, minimum: 1, maximum: 604_800 },
          }),
          type: ['object', 'null'],
        },
        response: answers('Modalities', listed),
      },
    },
    async request => {
      await modalities.put(request.principal, { aeTitle: request.params.aeTitle, ...request.body })
      return all()
    },
  )

  app.delete<{ Params: { aeTitle: string } }>(
    '/modalities/:aeTitle',
    { schema: { tags, summary: 'Remove a modality', params, response: answers('Modalities', listed) } },
    async request => {
      await modalities.remove(request.principal, request.params.aeTitle)
      return all()
    },
  )
}
