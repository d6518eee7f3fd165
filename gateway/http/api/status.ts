/** `GET /api/v1/status`: counts, disk, peers, queue, problems. */
import type { FastifyInstance } from 'fastify'
import type { GatewayStatus } from '../../services/status.ts'
import { answers, array, boolean, date, integer, nullableInteger, object, string } from './schema.ts'

const nullable = (schema: ReturnType<typeof object>) => ({ ...schema, type: ['object', 'null'] })

const status = object({
  site: object({ name: string, siteId: string, aeTitle: string }),
  version: string,
  startedAt: date,
  ready: boolean,
  listeners: object({ http: string, dicom: string, federation: string }),
  counts: nullable(
    object({ patients: integer, studies: integer, series: integer, instances: integer, sizeBytes: integer }),
  ),
  storage: nullable(
    object({ freeBytes: integer, lowWatermarkBytes: integer, resumeBytes: integer, refusing: boolean }),
  ),
  queue: object({ connected: boolean, running: integer }),
  peers: nullable(object({ pending: integer, active: integer, revoked: integer })),
  transfers: array(object({ direction: string, state: string, count: integer })),
  policy: object({ version: nullableInteger, twoPersons: boolean }),
  held: nullable(object({ conflicts: integer, quarantine: integer, identityChanged: integer })),
  archive: nullable(object({ inGatewayOnly: integer })),
  audit: nullable(object({ events: integer, unsequenced: integer })),
  problems: array(object({ code: string, message: string })),
})

/** Registers the route. */
export function statusRoute(app: FastifyInstance, load: () => Promise<GatewayStatus>): void {
  app.get(
    '/status',
    {
      schema: {
        tags: ['Status'],
        summary: 'How the gateway is; `problems` is empty when all is well',
        response: answers('The status', status),
      },
    },
    async () => await load(),
  )
}
