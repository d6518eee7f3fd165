/** Transfers in both directions: what moves, what happened, and what a person can do about it. */

import type { FastifyInstance } from 'fastify'
import { givenFields } from '../../../endpoints/pack/names.ts'
import type { ArchiveTerms } from '../../../policy/document.ts'
import type { Db } from '../../db/db.ts'
import type { Queue } from '../../jobs/queue.ts'
import type { Principal } from '../../principal.ts'
import type { DeliveryNames } from '../../services/endpoint-transfer-rows.ts'
import type { InboundDecisions } from '../../services/inbound-decisions.ts'
import type { Routing } from '../../services/routing.ts'
import { loadStudyNamed } from '../../services/study-name.ts'
import { type Direction, listTransfers, loadReceipt, loadTransfer } from '../../services/transfer-list.ts'
import { cancelTransfer, retryTransfer } from '../../services/transfers.ts'
import {
  answers,
  anything,
  array,
  boolean,
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

/** What the routes need of the transfer services. */
export interface TransferServices {
  readonly db: Db
  readonly queue: Queue
  readonly routing: Pick<Routing, 'send'>
  readonly inbound: Pick<InboundDecisions, 'release' | 'reject'>
}

const tags = ['Transfers']
const summary = {
  id: uuid,
  direction: { enum: ['outbound', 'inbound'] },
  state: {
    ...string,
    description:
      'outbound: planned, prepared, signed, sent, receipted, held, refused, cancelled, expired, and to a modality ' +
      'delivered or archived at the end; ' +
      'inbound: receiving, committing, imported, held, refused, cancelled, expired',
  },
  peer: { type: ['object', 'null'], properties: { id: uuid, name: string } },
  destination: nullableString,
  modality: { ...nullableString, description: 'On to an archive: the name of the modality' },
  endpoint: { ...nullableString, description: 'To a third party: delivered is not acknowledged yet, receipted is' },
  safeIn: {
    ...nullableString,
    description: 'archive once the archive has committed to every instance, until then gateway',
  },
  studyInstanceUid: nullableString,
  purpose: string,
  priority: nullableString,
  rule: nullableString,
  policyVersion: nullableInteger,
  profile: nullableString,
  trigger: nullableString,
  requestedBy: nullableString,
  manifestId: nullableString,
  objectCount: integer,
  bytesTotal: integer,
  bytesDone: { ...integer, description: 'Acknowledged by the receiver, or received' },
  bytesSent: nullableInteger,
  attempts: nullableInteger,
  errorCode: nullableString,
  error: nullableString,
  nextAttemptAt: nullableDate,
  expiresAt: date,
  createdAt: date,
  updatedAt: date,
}
const detail = object({
  ...summary,
  refusals: anything,
  problems: array(object({ sopInstanceUid: string, problem: string }, 'Instances that the archive did not take')),
  steps: array(object({ at: date, step: string, detail: anything })),
  receipts: array(
    object({
      direction: { enum: ['issued', 'received'] },
      kind: string,
      sha256: string,
      createdAt: date,
      statement: anything,
    }),
  ),
})

const text = (maxLength: number) => ({ ...string, minLength: 1, maxLength, pattern: '^[ -\\[\\]-~]+$' })
/** As `send.archive` of a policy rule. */
const archiveBody = {
  ...input({
    commitment: { ...boolean, default: false, description: 'Ask for storage commitment' },
    count: { ...boolean, default: false, description: 'Compare with the count of the archive' },
    identifiers: input({ linked: { ...boolean, default: false }, prefix: text(32), issuer: text(64) }),
  }),
  description: 'Only where the destination is a modality',
}

interface ListQuery {
  readonly direction?: Direction
  readonly state?: string[]
  readonly peer?: string
  readonly study?: string
  readonly cursor?: string
  readonly limit: number
}

/** Registers the routes. */
export function transferRoutes(app: FastifyInstance, services: TransferServices): void {
  const { db, routing, inbound } = services
  app.get<{ Querystring: ListQuery }>(
    '/transfers',
    {
      schema: {
        tags,
        summary: 'List transfers of both directions, newest first',
        querystring: input({
          direction: { enum: ['outbound', 'inbound'] },
          state: { type: 'array', maxItems: 20, items: { type: 'string', maxLength: 20 } },
          peer: uuid,
          study: { ...string, maxLength: 64, description: 'Study Instance UID; outbound transfers only' },
          cursor: { ...string, maxLength: 100, description: '`next` of the page before' },
          limit,
        }),
        response: answers('A page', object({ transfers: array(object(summary)), next: string })),
      },
    },
    async request => {
      const { direction, state, peer, study, cursor, limit } = request.query
      const filter = {
        ...(direction && { direction }),
        ...(state && { states: state }),
        ...(peer !== undefined && { peer }),
        ...(study !== undefined && { studyInstanceUid: study }),
      }
      return await listTransfers(db, filter, { limit, ...(cursor !== undefined && { cursor }) })
    },
  )

  app.post<{
    Body: {
      study: string
      destination: string
      purpose: string
      priority: string
      profile?: string
      endpoint?: boolean
      names?: DeliveryNames
      archive?: ArchiveTerms
    }
  }>(
    '/transfers',
    {
      schema: {
        tags,
        summary: 'Send a study to a destination',
        body: input(
          {
            study: { ...string, maxLength: 64, description: 'Study Instance UID or Orthanc id' },
            destination: {
              ...string,
              minLength: 1,
              maxLength: 128,
              description: 'A destination of the active policy, or a peer',
            },
            purpose: { ...string, pattern: '^[a-z][a-z0-9-]{0,63}$', default: 'treatment' },
            priority: { enum: ['urgent', 'normal', 'bulk'], default: 'normal' },
            profile: {
              ...string,
              minLength: 1,
              maxLength: 64,
              description:
                'De-identification profile of the active policy, or one that comes along; default as-is, for endpoints theirs',
            },
            endpoint: { ...boolean, description: 'The destination is the name of an endpoint' },
            names: {
              ...input(Object.fromEntries(givenFields.map(field => [field, { ...string, maxLength: 128 }]))),
              description: "Fields of the endpoint's path template; nothing that says who the patient is",
            },
            archive: archiveBody,
          },
          ['study', 'destination'],
        ),
        response: answers('The planned transfer', detail),
      },
    },
    async request => {
      const { study, endpoint, ...rest } = request.body
      const wish = { ...rest, ...(endpoint && { isEndpoint: true as const }) }
      const { id } = await loadStudyNamed(db, study)
      return await loadTransfer(db, await routing.send({ ...wish, study: id, principal: request.principal }))
    },
  )

  app.get<{ Params: { id: string } }>(
    '/transfers/:id',
    {
      schema: {
        tags,
        summary: 'One transfer with its time line and receipts',
        params: uuidParams,
        response: answers('The transfer', detail),
      },
    },
    async request => await loadTransfer(db, request.params.id),
  )

  app.get<{ Params: { id: string; kind: string } }>(
    '/transfers/:id/receipts/:kind',
    {
      schema: {
        tags,
        summary: 'The exact signed envelope of a receipt',
        params: input({ id: uuid, kind: { ...string, maxLength: 32 } }, ['id', 'kind']),
      },
    },
    async (request, reply) =>
      reply.type('application/json').send(await loadReceipt(db, request.params.id, request.params.kind)),
  )

  const action = (
    name: 'cancel' | 'retry' | 'release' | 'reject',
    summary: string,
    run: (id: string, principal: Principal) => Promise<void>,
  ) =>
    app.post<{ Params: { id: string } }>(
      `/transfers/:id/${name}`,
      { schema: { tags, summary, params: uuidParams, response: answers('The transfer after it', detail) } },
      async request => {
        await run(request.params.id, request.principal)
        return await loadTransfer(db, request.params.id)
      },
    )
  action('cancel', 'Stop an outbound transfer', (id, principal) => cancelTransfer(services, id, principal))
  action('retry', 'Try an outbound transfer again, now', (id, principal) => retryTransfer(services, id, principal))
  action('release', 'Let a held inbound transfer in', (id, principal) => inbound.release(id, principal))
  action('reject', 'Refuse a held inbound transfer for good', (id, principal) => inbound.reject(id, principal))
}
