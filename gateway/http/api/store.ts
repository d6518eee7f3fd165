/** The store's own check: rows against blobs. */
import type { FastifyInstance } from 'fastify'
import { eventTypes, securityAlert } from '../../audit/event.ts'
import { appendAudit } from '../../audit/log.ts'
import type { Db } from '../../db/db.ts'
import type { Log } from '../../log.ts'
import type { Principal } from '../../principal.ts'
import type { Blobs } from '../../store/blobs.ts'
import { type FsckReport, fsck } from '../../store/fsck.ts'
import { sendSlowly } from '../slow-answer.ts'
import { input } from './schema.ts'

/** What the route needs. */
export interface StoreServices {
  readonly db: Db
  readonly blobs: Blobs
  readonly log: Log
}

/** Registers the route. */
export function storeRoutes(app: FastifyInstance, { db, blobs, log }: StoreServices): void {
  app.post<{ Body: { repair: boolean; compare: 'bytes' | 'names' } | null }>(
    '/store/check',
    {
      schema: {
        tags: ['Store'],
        summary: 'Compare every row with its blob; may take hours, and the answer begins with spaces meanwhile',
        body: {
          ...input({
            repair: {
              type: 'boolean',
              default: false,
              description: 'Remove old orphans and set counters right; bytes that rows name are never touched',
            },
            compare: { enum: ['bytes', 'names'], default: 'bytes' },
          }),
          type: ['object', 'null'],
        },
      },
    },
    async (request, reply) => {
      const { repair, compare } = request.body ?? { repair: false, compare: 'bytes' as const }
      return await sendSlowly(request, reply, log, async signal => {
        const report = await fsck({ db, blobs, repair: repair ? 'safe' : 'nothing', compare, signal })
        await db.inTransaction(tx => appendAudit(tx, checked(request.principal, report, repair)))
        return report
      })
    },
  )
}

function checked({ id, address }: Principal, { problemCount, repaired }: FsckReport, isRepair: boolean) {
  return securityAlert({
    type: eventTypes.restrictedFunction,
    reason: isRepair ? 'store-repaired' : 'store-checked',
    participants: [{ userId: id, requestor: true, ...(address && { address }) }],
    detail: { problems: problemCount, orphans: repaired.orphans, counters: repaired.counters },
  })
}
