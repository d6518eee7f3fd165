/** The audit log: read, verify, checkpoint. */
import type { FastifyInstance } from 'fastify'
import type { Db } from '../../db/db.ts'
import { GatewayError } from '../../errors.ts'
import type { Principal } from '../../principal.ts'
import { listAudit } from '../../services/audit-list.ts'
import {
  answers,
  anything,
  array,
  boolean,
  date,
  input,
  integer,
  limit,
  nullableInteger,
  object,
  string,
} from './schema.ts'

/** Outcome of a verification: `problems` name the rows that were changed. */
export interface AuditVerdict {
  readonly ok: boolean
  readonly problems: readonly string[]
  /** Events that the log covers. */
  readonly size: number
}

/** A signed tree head. */
export interface AuditCheckpoint {
  readonly size: number
  /** Hex. */
  readonly root: string
  /** C2SP signed note. */
  readonly note: string
  readonly createdAt: Date
}

export interface AuditService {
  verify(principal: Principal): Promise<AuditVerdict>
  latestCheckpoint(): Promise<AuditCheckpoint | undefined>
  checkpoint(principal: Principal): Promise<AuditCheckpoint>
}

const tags = ['Audit']
const checkpointSchema = object({ size: integer, root: string, note: string, createdAt: date })

/** Registers the routes. */
export function auditRoutes(app: FastifyInstance, db: Db, audit: AuditService): void {
  app.get<{ Querystring: { before?: number; limit: number } }>(
    '/audit/events',
    {
      schema: {
        tags,
        summary: 'Read audit events, newest first; reading is an event too',
        querystring: input({
          before: { type: 'integer', description: 'Only those with a smaller id: the last one of the page before' },
          limit,
        }),
        response: answers(
          'A page of events',
          object({
            events: array(
              object({ id: integer, at: date, leafIndex: nullableInteger, commitment: string, event: anything }),
            ),
          }),
        ),
      },
    },
    async request => ({ events: await listAudit(db, request.principal, request.query) }),
  )

  app.post(
    '/audit/verify',
    {
      schema: {
        tags,
        summary: 'Recompute the whole log and compare it with its signed checkpoints',
        response: answers('The verdict', object({ ok: boolean, problems: array(string), size: integer })),
      },
    },
    async request => await audit.verify(request.principal),
  )

  app.get(
    '/audit/checkpoint',
    {
      schema: { tags, summary: 'The latest signed checkpoint', response: answers('The checkpoint', checkpointSchema) },
    },
    async () => {
      const found = await audit.latestCheckpoint()
      if (!found) throw new GatewayError('NOT_FOUND', 'no checkpoint was made yet')
      return found
    },
  )

  app.post(
    '/audit/checkpoint',
    { schema: { tags, summary: 'Sign a checkpoint now', response: answers('The checkpoint', checkpointSchema) } },
    async request => await audit.checkpoint(request.principal),
  )
}
