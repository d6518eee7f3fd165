/** Projects and their pseudonyms, and the way back to a patient, which needs two people. */
import type { FastifyInstance } from 'fastify'
import type { Pseudonyms } from '../../services/pseudonyms.ts'
import type { Reidentification, ReidentificationWish } from '../../services/reidentification.ts'
import {
  answers,
  array,
  boolean,
  date,
  input,
  integer,
  limit,
  nullableDate,
  nullableString,
  object,
  rowId,
  string,
  uuid,
  uuidParams,
  why,
} from './schema.ts'

/** What the routes need. */
export interface PseudonymServices {
  readonly pseudonyms: Pick<Pseudonyms, 'projects' | 'create' | 'import'>
  readonly reidentification: Reidentification
}

const tags = ['Pseudonyms']
const project = object({ id: integer, recipient: string, name: string, subjects: integer, createdAt: date })
const request = object({
  id: uuid,
  project: integer,
  pseudonym: { ...nullableString, description: 'Null: the whole table' },
  purpose: string,
  why: string,
  state: { enum: ['requested', 'approved', 'refused'] },
  requestedBy: string,
  requestedAt: date,
  decidedBy: nullableString,
  decidedAt: nullableDate,
  expiresAt: date,
})
const printable = '^[ -\\[\\]-~]+$'
const pseudonym = { ...string, minLength: 1, maxLength: 64, pattern: printable }

interface TableEntry {
  readonly issuer: string
  readonly patientId: string
  readonly pseudonym: string
}

/** Registers the routes. */
export function pseudonymRoutes(app: FastifyInstance, services: PseudonymServices): void {
  const { pseudonyms, reidentification } = services

  app.get(
    '/pseudonyms/projects',
    {
      schema: {
        tags,
        summary: 'Projects: for each recipient and project a key of its own',
        response: answers('All projects', object({ projects: array(project) })),
      },
    },
    async request => ({ projects: await pseudonyms.projects(request.principal) }),
  )

  app.post<{ Body: { recipient: string; name: string } }>(
    '/pseudonyms/projects',
    {
      schema: {
        tags,
        summary: 'Make a project before its first transfer, so that a table can be imported',
        body: input(
          {
            recipient: { ...string, minLength: 1, maxLength: 64, pattern: '^[\\w.-]+$', description: 'Site id' },
            name: {
              ...string,
              minLength: 1,
              maxLength: 64,
              pattern: printable,
              description: 'The protocol id of the profile’s trial, else the name of the profile',
            },
          },
          ['recipient', 'name'],
        ),
        response: answers('The project', object({ id: integer, recipient: string, name: string })),
      },
    },
    async request => await pseudonyms.create(request.principal, request.body.recipient, request.body.name),
  )

  app.post<{ Params: { id: number }; Body: { entries: TableEntry[] } }>(
    '/pseudonyms/projects/:id/table',
    {
      bodyLimit: 16 * 1024 * 1024,
      schema: {
        tags,
        summary: 'Import pseudonyms, all or none; what a subject has already stays',
        params: input({ id: rowId }, ['id']),
        body: input(
          {
            entries: {
              type: 'array',
              minItems: 1,
              maxItems: 50_000,
              items: input(
                {
                  issuer: { ...string, maxLength: 64, description: 'Empty for the site’s own patients' },
                  patientId: { ...string, minLength: 1, maxLength: 64 },
                  pseudonym,
                },
                ['issuer', 'patientId', 'pseudonym'],
              ),
            },
          },
          ['entries'],
        ),
        response: answers('What was added', object({ added: integer })),
      },
    },
    async request =>
      await pseudonyms.import(
        request.principal,
        request.params.id,
        request.body.entries.map(({ issuer, patientId, pseudonym }) => ({
          subject: { issuer, id: patientId },
          pseudonym,
        })),
      ),
  )

  app.get<{ Querystring: { limit: number } }>(
    '/pseudonyms/requests',
    {
      schema: {
        tags,
        summary: 'Requests for re-identification, newest first',
        querystring: input({ limit }),
        response: answers('Requests', object({ requests: array(request) })),
      },
    },
    async request => ({ requests: await reidentification.list(request.principal, request.query) }),
  )

  app.post<{ Body: Omit<ReidentificationWish, 'pseudonym'> & { pseudonym?: string } }>(
    '/pseudonyms/requests',
    {
      schema: {
        tags,
        summary: 'Ask for re-identification; another person must approve it',
        body: input(
          {
            project: rowId,
            pseudonym: { ...pseudonym, description: 'Without it the whole table is asked for' },
            purpose: { ...string, pattern: '^[a-z][a-z0-9-]{0,63}$' },
            why,
          },
          ['project', 'purpose', 'why'],
        ),
        response: answers('The request', request),
      },
    },
    async request => {
      const { pseudonym, ...wish } = request.body
      return await reidentification.request(request.principal, { ...wish, pseudonym })
    },
  )

  app.post<{ Params: { id: string }; Body: { approve: boolean; why: string } }>(
    '/pseudonyms/requests/:id/decision',
    {
      schema: {
        tags,
        summary: 'Approve or refuse the request of somebody else',
        params: uuidParams,
        body: input({ approve: boolean, why }, ['approve', 'why']),
        response: answers('The request', request),
      },
    },
    async request => {
      const { approve, why } = request.body
      return await reidentification.decide(request.principal, request.params.id, { isApproved: approve, why })
    },
  )

  app.post<{ Params: { id: string } }>(
    '/pseudonyms/requests/:id/reveal',
    {
      schema: {
        tags,
        summary: 'The answer, for the one who asked, within a day of the approval',
        params: uuidParams,
        response: answers(
          'Whose pseudonyms they are',
          object({ entries: array(object({ issuer: string, patientId: string, pseudonym: string })) }),
        ),
      },
    },
    async request => {
      const entries = await reidentification.reveal(request.principal, request.params.id)
      return {
        entries: entries.map(({ subject, pseudonym }) => ({
          issuer: subject.issuer,
          patientId: subject.id,
          pseudonym,
        })),
      }
    },
  )
}
