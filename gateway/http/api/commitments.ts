/** Storage commitments of both directions, and the patients of other sites as the archive knows them. */
import type { FastifyInstance } from 'fastify'
import type { Db } from '../../db/db.ts'
import type { CommitmentState } from '../../db/schema.ts'
import { loadCommitmentDetail } from '../../services/commitment-list.ts'
import { type CommitmentRow, listCommitments } from '../../services/commitment-rows.ts'
import type { PatientLinks } from '../../services/patient-links.ts'
import {
  answers,
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

/** What the routes need. */
export interface CommitmentServices {
  readonly db: Db
  readonly patientLinks: PatientLinks
}

const tags = ['Commitments']
const states = [
  ...['verifying', 'reporting', 'reported'],
  ...['asking', 'waiting', 'committed', 'failed', 'unanswered', 'abandoned'],
]
const summary = {
  id: uuid,
  direction: { enum: ['received', 'sent'], description: 'received: asked of us; sent: asked by us' },
  transactionUid: string,
  aeTitle: { ...string, description: 'The requestor, or the archive' },
  transfer: { ...nullableString, description: 'The transfer to the archive that it belongs to' },
  state: {
    ...string,
    description:
      'received: verifying, reporting, reported; sent: asking, waiting, committed, failed, unanswered (asked again); ' +
      'abandoned: given up after its time',
  },
  isDuplicate: { ...boolean, description: 'Its transaction UID was in use for other instances' },
  instanceCount: integer,
  failedCount: integer,
  attempts: integer,
  errorCode: nullableString,
  error: nullableString,
  nextAttemptAt: nullableDate,
  expiresAt: date,
  createdAt: date,
  updatedAt: date,
}
const detail = object({
  ...summary,
  instances: array(
    object({
      sopClassUid: string,
      sopInstanceUid: string,
      outcome: {
        ...nullableInteger,
        description: '0 committed, else the Failure Reason (PS3.3 C.14.1.1); null as long as nobody knows',
      },
    }),
  ),
})
const link = object({
  issuer: string,
  patientId: string,
  archivePatientId: string,
  archiveIssuer: nullableString,
  archiveName: nullableString,
  linkedBy: string,
  createdAt: date,
})
const links = answers('The newest links', object({ links: array(link) }))
const foreignPatient = {
  issuer: { ...string, minLength: 1, maxLength: 64, description: 'Site id of the peer, or another issuer' },
  patientId: { ...string, maxLength: 64 },
}
const nullableText = { ...nullableString, minLength: 1, maxLength: 64, pattern: '^[^\\\\\\x00-\\x1f]+$' }

interface ListQuery {
  readonly direction?: 'received' | 'sent'
  readonly state?: CommitmentState
  readonly transfer?: string
  readonly before?: string
  readonly limit: number
}
interface ForeignPatient {
  readonly issuer: string
  readonly patientId: string
}
interface LinkBody extends ForeignPatient {
  readonly archivePatientId: string
  readonly archiveIssuer: string | null
  readonly archiveName: string | null
}

/** Registers the routes. */
export function commitmentRoutes(app: FastifyInstance, { db, patientLinks }: CommitmentServices): void {
  app.get<{ Querystring: ListQuery }>(
    '/commitments',
    {
      schema: {
        tags,
        summary: 'List storage commitments of both directions, newest first',
        querystring: input({
          direction: { enum: ['received', 'sent'] },
          state: { enum: states },
          transfer: uuid,
          before: { ...date, description: 'Only older ones: `createdAt` of the last one of the page before' },
          limit,
        }),
        response: answers('A page', object({ commitments: array(object(summary)) })),
      },
    },
    async request => {
      const { before, ...filter } = request.query
      const rows = await listCommitments(db.kysely, { ...filter, ...(before && { before: new Date(before) }) })
      return { commitments: rows.map(json) }
    },
  )

  app.get<{ Params: { id: string } }>(
    '/commitments/:id',
    {
      schema: {
        tags,
        summary: 'One storage commitment with its instances',
        params: uuidParams,
        response: answers('The commitment', detail),
      },
    },
    async request => {
      const { instances, ...row } = await loadCommitmentDetail(db, request.params.id)
      return {
        ...json(row),
        instances: instances.map(({ sopClassUid, sopInstanceUid, outcome }) => ({
          sopClassUid,
          sopInstanceUid,
          outcome: outcome ?? null,
        })),
      }
    },
  )

  app.get<{ Querystring: { limit: number } }>(
    '/patient-links',
    {
      schema: {
        tags,
        summary: 'Patients of other sites as the archive knows them',
        querystring: input({ limit }),
        response: links,
      },
    },
    async request => ({ links: await patientLinks.list(request.query.limit) }),
  )

  app.put<{ Body: LinkBody }>(
    '/patient-links',
    {
      schema: {
        tags,
        summary: 'Say which patient of the archive a patient of another site is; transfers that wait for it go on',
        body: input(
          {
            ...foreignPatient,
            archivePatientId: { ...nullableText, type: 'string' },
            archiveIssuer: { ...nullableText, default: null },
            archiveName: { ...nullableText, default: null, description: 'Becomes the Patient Name; null leaves it' },
          },
          ['issuer', 'patientId', 'archivePatientId'],
        ),
        response: links,
      },
    },
    async request => {
      await patientLinks.put(request.principal, request.body)
      return { links: await patientLinks.list(100) }
    },
  )

  app.post<{ Body: ForeignPatient }>(
    '/patient-links/remove',
    {
      schema: {
        tags,
        summary: 'Take a link back; what is in the archive stays as it is there',
        body: input(foreignPatient, ['issuer', 'patientId']),
        response: links,
      },
    },
    async request => {
      await patientLinks.remove(request.principal, request.body)
      return { links: await patientLinks.list(100) }
    },
  )
}

const json = (row: CommitmentRow) => ({
  ...row,
  transfer: row.transfer ?? null,
  errorCode: row.errorCode ?? null,
  error: row.error ?? null,
  nextAttemptAt: row.nextAttemptAt ?? null,
})
