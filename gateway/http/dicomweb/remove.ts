/** DELETE of studies, series and instances: PS3.18 has no such transaction, other DICOMweb servers do. */
import type { FastifyInstance } from 'fastify'
import { matchKeys } from '../../dicom/matching.ts'
import { formatTag } from '../../dicom/tag.ts'
import { GatewayError } from '../../errors.ts'
import type { Query } from '../../services/query.ts'
import type { Removal } from '../../services/removal.ts'
import { pathUids, uidParams } from './uids.ts'

/** What the routes need. */
export interface RemoveServices {
  readonly query: Query
  readonly removal: Removal
}

const routes = [
  { url: '/studies/:study', level: 'study' },
  { url: '/studies/:study/series/:series', level: 'series' },
  { url: '/studies/:study/series/:series/instances/:instance', level: 'instance' },
] as const

/** Registers the routes. */
export function removeRoutes(app: FastifyInstance, { query, removal }: RemoveServices): void {
  for (const { url, level } of routes) {
    app.delete<{ Params: Record<string, string> }>(
      url,
      {
        config: { action: 'study.delete' },
        schema: {
          tags: ['DICOMweb'],
          summary: `Delete ${level === 'series' || level === 'study' ? `a ${level}` : 'an instance'}; audited`,
          description: '204 when it is gone; 409 while a transfer still has to send it.',
          ...uidParams(url),
        },
      },
      async (request, reply) => {
        const uids = [...pathUids(request.params)]
        const identifier = Object.fromEntries(
          uids.map(([tag, uid]) => [formatTag(tag), { vr: 'UI' as const, Value: [uid] }]),
        )
        const spec = { level, keys: matchKeys(identifier) }
        const ids: string[] = []
        for await (const matches of query.find(request.principal, spec, { returned: new Set() })) {
          ids.push(...matches.map(({ orthancId }) => orthancId))
        }
        const { resources } = await removal.remove(request.principal, level, ids)
        if (resources.length === 0) throw new GatewayError('NOT_FOUND', `no such ${level}`)
        return reply.code(204).send()
      },
    )
  }
}
