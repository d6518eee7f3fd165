/** DELETE of resources at every level. */
import type { FastifyInstance } from 'fastify'
import type { Db } from '../../db/db.ts'
import type { Removal } from '../../services/removal.ts'
import { findAncestor, findResource, levelOrder } from '../../store/hierarchy.ts'
import type { Level } from '../../store/query.ts'
import { lenientScope } from './lenient-scope.ts'
import { idParams, pathOfLevel, unknown } from './navigation.ts'
import { levelName } from './resources.ts'

/** Registers the routes. */
export function deletionRoutes(
  app: FastifyInstance,
  { db, removal }: { readonly db: Db; readonly removal: Removal },
): void {
  lenientScope(app, scope => {
    for (const level of levelOrder) {
      scope.delete<{ Params: { id: string } }>(
        `/${pathOfLevel[level]}/:id`,
        {
          schema: {
            tags: ['Orthanc'],
            summary: `Delete a ${level}; audited`,
            description: '409 while a transfer still has to send it, or an archive has not committed to it.',
            params: idParams,
          },
        },
        async request => {
          const { id } = request.params
          const above = await ancestors(db, level, id)
          const { resources } = await removal.remove(request.principal, level, id)
          if (resources.length === 0) throw unknown(level)
          for (const ancestor of above) {
            if (await findResource(db, ancestor.level, ancestor.id)) {
              const { id: ID, level: remaining } = ancestor
              return { RemainingAncestor: { ID, Path: `/${pathOfLevel[remaining]}/${ID}`, Type: levelName[remaining] } }
            }
          }
          return { RemainingAncestor: null }
        },
      )
    }
  })
}

/** What is above a resource, the nearest first. */
async function ancestors(db: Db, level: Level, id: string): Promise<{ level: Level; id: string }[]> {
  const found: { level: Level; id: string }[] = []
  for (const above of levelOrder.slice(0, levelOrder.indexOf(level)).toReversed()) {
    const ancestor = await findAncestor(db, level, id, above)
    if (ancestor !== undefined) found.push({ level: above, id: ancestor })
  }
  return found
}
