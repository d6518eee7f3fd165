/** How long studies are kept, and what must not be deleted. */
import type { FastifyInstance } from 'fastify'
import type { LegalHolds } from '../../services/legal-holds.ts'
import type { Retention } from '../../services/retention.ts'
import {
  answers,
  array,
  date,
  input,
  integer,
  limit,
  nullableDate,
  nullableInteger,
  nullableString,
  object,
  string,
  uuid,
  uuidParams,
} from './schema.ts'

/** What the routes need. */
export interface RetentionServices {
  readonly retention: Retention
  readonly legalHolds: LegalHolds
}

const tags = ['Retention']
const rulesJson = object({
  version: integer,
  rules: array(
    object({
      name: string,
      origin: { ...string, description: 'dimse, rest, peer or cli; absent: any' },
      purpose: { ...string, description: 'Of the transfer that brought it; manual or prefetch; absent: any' },
      days: { ...integer, description: 'Days after the last change of the study' },
      needs: { ...string, description: 'archived (default): an archive has committed to every instance; nothing' },
    }),
  ),
})
const hold = object({
  id: uuid,
  issuer: nullableString,
  patientId: nullableString,
  studyInstanceUid: nullableString,
  reason: string,
  placedBy: string,
  createdAt: date,
  releasedAt: nullableDate,
  releasedBy: nullableString,
})
const words = (maxLength: number) => ({ type: 'string', minLength: 1, maxLength }) as const

/** Registers the routes. */
export function retentionRoutes(app: FastifyInstance, { retention, legalHolds }: RetentionServices): void {
  app.get(
    '/retention',
    { schema: { tags, summary: 'Rules by which studies are deleted', response: answers('The rules', rulesJson) } },
    async request => await retention.load(request.principal),
  )
  app.put<{ Body: { rules: unknown[] } }>(
    '/retention',
    {
      schema: {
        tags,
        summary: 'Replace the rules; the first that fits a study decides, without one it is kept',
        body: input({ rules: { type: 'array', maxItems: 100 } }, ['rules']),
        response: answers('The rules', rulesJson),
      },
    },
    async request => await retention.put(request.principal, request.body.rules),
  )
  app.get(
    '/retention/forecast',
    {
      schema: {
        tags,
        summary: 'What may go when, and how long the disk lasts',
        response: answers(
          'The forecast',
          object({
            freeBytes: integer,
            arrivingBytesPerDay: integer,
            due: array(object({ withinDays: integer, studies: integer, sizeBytes: integer })),
            daysUntilFull: nullableInteger,
          }),
        ),
      },
    },
    async request => await retention.forecast(request.principal),
  )
  app.get<{ Querystring: { limit: number } }>(
    '/legal-holds',
    {
      schema: {
        tags,
        summary: 'List legal holds, newest first; audited',
        querystring: input({ limit }),
        response: answers('Holds', object({ holds: array(hold) })),
      },
    },
    async request => ({ holds: await legalHolds.list(request.principal, request.query.limit) }),
  )
  app.post<{ Body: { issuer?: string; patientId?: string; studyInstanceUid?: string; reason: string } }>(
    '/legal-holds',
    {
      schema: {
        tags,
        summary: 'Forbid to delete a patient, or one study, until the hold is released',
        body: {
          ...input(
            {
              issuer: { type: 'string', maxLength: 64 },
              patientId: words(64),
              studyInstanceUid: words(64),
              reason: words(500),
            },
            ['reason'],
          ),
          oneOf: [{ required: ['patientId'] }, { required: ['studyInstanceUid'] }],
        },
        response: answers('The hold', hold),
      },
    },
    async request => {
      const { issuer = '', patientId, studyInstanceUid = '', reason } = request.body
      const subject = patientId === undefined ? { studyInstanceUid } : { issuer, patientId }
      return await legalHolds.place(request.principal, subject, reason)
    },
  )
  app.post<{ Params: { id: string } }>(
    '/legal-holds/:id/release',
    { schema: { tags, summary: 'Release a legal hold', params: uuidParams, response: answers('The hold', hold) } },
    async request => await legalHolds.release(request.principal, request.params.id),
  )
}
