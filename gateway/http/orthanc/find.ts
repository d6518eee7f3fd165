/** `/tools/find` and `/tools/count-resources`. */
import type { FastifyInstance } from 'fastify'
import type { Db } from '../../db/db.ts'
import type { ResourceAttachments } from '../../services/resource-attachments.ts'
import type { ResourceFind } from '../../services/resource-find.ts'
import { systemMetadata } from '../../store/metadata.ts'
import { goneSignal } from '../gone.ts'
import { loadContent } from './find-content.ts'
import { readFind } from './find-request.ts'
import { sendPages } from './id-list.ts'
import { lenientScope, objectBody } from './lenient-scope.ts'
import { type Names, nameTable } from './names.ts'

/** What the routes need. */
export interface FindServices {
  readonly db: Db
  readonly find: ResourceFind
  readonly attachments: ResourceAttachments
  readonly metadataNames?: Names | undefined
}

/** Registers the routes. */
export function findRoutes(app: FastifyInstance, { db, find, attachments, metadataNames = {} }: FindServices): void {
  const names = nameTable({ ...systemMetadata, ...metadataNames })
  const tags = ['Orthanc']
  lenientScope(app, scope => {
    scope.post(
      '/tools/find',
      {
        schema: {
          tags,
          summary: 'Find resources; audited',
          description:
            'Level, Query, and optionally Expand, Full, Short, CaseSensitive, Since, Limit, RequestedTags, Labels with ' +
            'LabelsConstraint (All, Any, None), MetadataQuery, ParentPatient, ParentStudy, ParentSeries, OrderBy, ' +
            'ResponseContent.',
        },
      },
      async (request, reply) => {
        const { request: wanted, content } = readFind(objectBody(request.body), names)
        const pages = find.ids(request.principal, wanted, goneSignal(reply))
        if (content === undefined) return await sendPages(reply, pages)
        const load = (ids: readonly string[]) => loadContent({ db, attachments, names }, wanted.level, ids, content)
        return await sendPages(reply, pages, load)
      },
    )
    scope.post(
      '/tools/count-resources',
      { schema: { tags, summary: 'Count resources; audited', description: 'As /tools/find.' } },
      async (request, reply) => {
        const { request: wanted } = readFind(objectBody(request.body), names)
        return { Count: await find.count(request.principal, wanted, goneSignal(reply)) }
      },
    )
  })
}
