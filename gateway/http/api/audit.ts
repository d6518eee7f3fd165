/** The audit log: read, verify, checkpoint. */
import type { FastifyInstance } from 'fastify'
import type { Db } from '../../db/db.ts'
import { GatewayError } from '../../errors.ts'
import type { Log } from '../../log.ts'
import type { Principal } from '../../principal.ts'
import { listAudit } from '../../services/audit-list.ts'
import { sendSlowly } from '../slow-answer.ts'
import {
  answers,
  anything,
  array,
  date,
  input,
  integer,
  limit,
  nullableInteger,
  object,
  rowId,
  string,
} from './schema.ts'

/** A signed tree head. */
interface Checkpoint {
  readonly size: number
  /** 32 bytes. */
  readonly root: Buffer
  /** C2SP signed note. */
  readonly note: string
  readonly createdAt: Date
}

/** What the routes need of the audit log. */
export interface AuditService {
  checkpoint(): Promise<Checkpoint>
  latest(): Promise<Checkpoint | undefined>
  /** Reads the whole log; that is an event too. */
  verify(principal: Principal): Promise<{ readonly ok: boolean }>
}

const tags = ['Audit']
const checkpointSchema = object({ size: integer, root: string, note: string, createdAt: date })
const checkpointOf = (found: Checkpoint) => ({ ...found, root: found.root.toString('hex') })

/** Registers the routes. */
export function auditRoutes(app: FastifyInstance, services: { db: Db; audit: AuditService; log: Log }): void {
  const { db, audit, log } = services
  app.get<{ Querystring: { before?: number; limit: number } }>(
    '/audit/events',
    {
      schema: {
        tags,
        summary: 'Read audit events, newest first; reading is an event too',
        querystring: input({
          before: { ...rowId, description: 'Only those with a smaller id: the last one of the page before' },
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
        description:
          'Answers {ok, problems: [{kind, message, event, leaf}], size, signedSize, erased, pending, checkpoints}; ' +
          'problems name the rows. May take minutes, and the answer begins with spaces meanwhile.',
      },
    },
    async (request, reply) => await sendSlowly(request, reply, log, () => audit.verify(request.principal)),
  )

  app.get(
    '/audit/checkpoint',
    {
      schema: { tags, summary: 'The latest signed checkpoint', response: answers('The checkpoint', checkpointSchema) },
    },
    async () => {
      const found = await audit.latest()
      if (!found) throw new GatewayError('NOT_FOUND', 'no checkpoint was made yet')
      return checkpointOf(found)
    },
  )

  app.post(
    '/audit/checkpoint',
    { schema: { tags, summary: 'Sign a checkpoint now', response: answers('The checkpoint', checkpointSchema) } },
    async () => checkpointOf(await audit.checkpoint()),
  )
}
