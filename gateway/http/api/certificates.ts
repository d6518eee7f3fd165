/** De-identification certificates of transfers. */
import type { FastifyInstance } from 'fastify'
import type { Db } from '../../db/db.ts'
import { loadCertificate } from '../../services/certificates.ts'
import { answers, anything, date, object, sha256, string, uuidParams } from './schema.ts'

/** Registers the routes. */
export function certificateRoutes(app: FastifyInstance, db: Db): void {
  app.get<{ Params: { id: string } }>(
    '/transfers/:id/certificate',
    {
      schema: {
        tags: ['Transfers'],
        summary: 'The signed de-identification certificate of a transfer, sent or received',
        params: uuidParams,
        response: answers(
          'The certificate',
          object({
            direction: { enum: ['issued', 'received'] },
            sha256,
            createdAt: date,
            envelope: { ...string, description: 'What was signed, exactly' },
            statement: anything,
          }),
        ),
      },
    },
    async request => await loadCertificate(db.kysely, request.params.id),
  )
}
