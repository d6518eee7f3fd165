/** Trials: protocols, subjects, the delegation log, and the export log. Subjects are known by the sponsor's numbers only. */
import type { FastifyInstance } from 'fastify'
import type { Db } from '../../db/db.ts'
import type { PatientName } from '../../services/consents.ts'
import { loadPatientOf } from '../../services/study-name.ts'
import type { LogReader, TrialLog } from '../../services/trial-log.ts'
import type { Trial } from '../../services/trial-rows.ts'
import type { TrialUploads } from '../../services/trial-uploads.ts'
import { listOpenWork } from '../../services/trial-work.ts'
import type { Delegation, Trials } from '../../services/trials.ts'
import {
  answers,
  array,
  date,
  input,
  integer,
  nullableDate,
  nullableString,
  object,
  open,
  string,
  uuid,
  why,
} from './schema.ts'
import { trialUploadRoutes } from './trial-uploads.ts'

/** What the routes need. */
export interface TrialServices {
  readonly db: Db
  readonly trials: Trials
  readonly trialUploads: TrialUploads
  readonly trialLog: TrialLog
}

const tags = ['Trials']
const name = { ...string, minLength: 1, maxLength: 64 }
const code = { ...name, description: "The sponsor's number of the subject" }
const day = { ...string, pattern: '^\\d{4}-\\d{2}-\\d{2}$', format: 'date' }
const params = input({ name }, ['name'])
const subjectParams = input({ name, code }, ['name', 'code'])
const trial = object({ name, state: { enum: ['open', 'closed'] }, document: open, createdAt: date, updatedAt: date })
const subject = object({
  code,
  state: { enum: ['declared', 'enrolled', 'withdrawn'] },
  dayZero: nullableString,
  updatedAt: date,
})
const task = { enum: ['upload', 'approve', 'answer'] }
const person = {
  ...string,
  minLength: 1,
  maxLength: 128,
  description: 'As the audit log names people: token:NAME, local',
}
const delegation = object({
  ...{ id: uuid, person, task, from: string, until: nullableString, createdBy: string, createdAt: date },
  ...{ revokedBy: nullableString, revokedAt: nullableDate },
})
const patientBody = {
  ...input({ id: { ...string, minLength: 1, maxLength: 64 }, issuer: { ...string, maxLength: 128, default: '' } }, [
    'id',
  ]),
  description: 'Instead of `study`',
}

interface Named {
  readonly Params: { name: string }
}
interface OfSubject {
  readonly Params: { name: string; code: string }
}

/** Registers the routes. */
export function trialRoutes(app: FastifyInstance, services: TrialServices): void {
  const { db, trials, trialLog } = services
  trialUploadRoutes(app, services)

  app.get(
    '/trials',
    { schema: { tags, summary: 'Trials', response: answers('Trials', object({ trials: array(trial) })) } },
    async ({ principal }) => ({ trials: await trials.list(principal) }),
  )
  app.get<Named>(
    '/trials/:name',
    { schema: { tags, summary: 'A trial with its protocol', params, response: answers('The trial', trial) } },
    async ({ principal, params }) => await trials.load(principal, params.name),
  )
  app.put<Named & { Body: object }>(
    '/trials/:name',
    {
      schema: {
        tags,
        summary: 'Add a trial, or change its protocol',
        params,
        body: { ...open, description: 'sponsor, protocol, site, endpoint, profile, visits, …: see deploy/TRIALS.md' },
        response: answers('The trial', trial),
      },
    },
    async ({ principal, params, body }) => await trials.put(principal, params.name, body),
  )
  app.post<Named & { Body: { state: Trial['state'] } }>(
    '/trials/:name/state',
    {
      schema: {
        tags,
        summary: 'Close a trial, or open it again',
        params,
        body: input({ state: { enum: ['open', 'closed'] } }, ['state']),
        response: answers('The trial', trial),
      },
    },
    async ({ principal, params, body }) => {
      await trials.setState(principal, params.name, body.state)
      return await trials.load(principal, params.name)
    },
  )
  app.get<Named>(
    '/trials/:name/subjects',
    {
      schema: {
        tags,
        summary: 'Subjects',
        params,
        response: answers('Subjects', object({ subjects: array(subject) })),
      },
    },
    async ({ principal, params }) => ({ subjects: await trials.subjects(principal, params.name) }),
  )
  app.post<Named & { Body: { codes: string[] } }>(
    '/trials/:name/subjects',
    {
      schema: {
        tags,
        summary: 'Declare subjects by their numbers, before they are linked with patients',
        params,
        body: input({ codes: { ...array(code), minItems: 1, maxItems: 1000 } }, ['codes']),
        response: answers('How many are new', object({ added: integer })),
      },
    },
    async ({ principal, params, body }) => await trials.declare(principal, params.name, body.codes),
  )
  app.post<OfSubject & { Body: { patient?: { id: string; issuer: string }; study?: string; dayZero?: string } }>(
    '/trials/:name/subjects/:code/enrol',
    {
      schema: {
        tags,
        summary: 'Link a subject with a patient, for good',
        params: subjectParams,
        body: input({
          patient: patientBody,
          study: { ...string, maxLength: 64, description: 'The patient of this study (UID or Orthanc id)' },
          dayZero: { ...day, description: 'Visits are counted from it' },
        }),
        response: answers('The subject', subject),
      },
    },
    async ({ principal, params, body: { patient, study, dayZero } }) => {
      const named = patient && { issuer: patient.issuer, patientId: patient.id }
      const found: PatientName = await loadPatientOf(db, { patient: named, study })
      return await trials.enrol(principal, params.name, { code: params.code, patient: found, dayZero })
    },
  )
  app.post<OfSubject & { Body: { why: string } }>(
    '/trials/:name/subjects/:code/withdraw',
    {
      schema: {
        tags,
        summary: 'A subject withdraws: nothing more is sent, what is on its way is stopped',
        params: subjectParams,
        body: input({ why }, ['why']),
        response: answers(
          'What it has done',
          object({
            cancelled: { ...array(uuid), description: 'Transfers that will not arrive' },
            delivered: { ...array(uuid), description: 'Uploads that the sponsor has already' },
          }),
        ),
      },
    },
    async ({ principal, params, body }) => await trials.withdraw(principal, params.name, params.code, body.why),
  )
  app.get<Named>(
    '/trials/:name/delegations',
    {
      schema: {
        tags,
        summary: 'The delegation log',
        params,
        response: answers('Its lines', object({ delegations: array(delegation) })),
      },
    },
    async ({ principal, params }) => ({ delegations: await trials.delegations(principal, params.name) }),
  )
  app.post<Named & { Body: Pick<Delegation, 'person' | 'task' | 'from'> & { until?: string } }>(
    '/trials/:name/delegations',
    {
      schema: {
        tags,
        summary: 'Give a task to a person for a time',
        params,
        body: input({ person, task, from: day, until: day }, ['person', 'task', 'from']),
        response: answers('The line', delegation),
      },
    },
    async ({ principal, params, body: { until = null, ...line } }) =>
      await trials.delegate(principal, params.name, { ...line, until }),
  )
  app.delete<{ Params: { name: string; id: string } }>(
    '/trials/:name/delegations/:id',
    { schema: { tags, summary: 'Revoke a line of the log', params: input({ name, id: uuid }, ['name', 'id']) } },
    async ({ principal, params }, reply) => {
      await trials.revoke(principal, params.name, params.id)
      return await reply.code(204).send()
    },
  )
  app.get<Named>(
    '/trials/:name/work',
    {
      schema: {
        tags,
        summary: 'Open work, by task',
        params,
        response: answers(
          'What waits',
          object({
            work: array(
              object({
                task,
                what: { enum: ['choose', 'correct', 'approve', 'send', 'answer', 'attend'] },
                ...{ subject: code, visit: name, upload: nullableString },
                due: { ...nullableString, description: "Last day of the visit's window" },
                people: { ...array(string), description: 'Who has the task today' },
              }),
            ),
          }),
        ),
      },
    },
    async ({ principal, params }) => ({ work: await listOpenWork(db, principal, params.name) }),
  )
  app.get<Named & { Querystring: { reader: LogReader } }>(
    '/trials/:name/log.csv',
    {
      schema: {
        tags,
        summary: 'The export log as a table: for the sponsor, or for the site’s file, which names patients',
        params,
        querystring: input({ reader: { enum: ['sponsor', 'site'], default: 'sponsor' } }),
        response: { 200: { description: 'CSV', content: { 'text/csv': { schema: string } } } },
      },
    },
    async ({ principal, params, query }, reply) => {
      const table = await trialLog.table(principal, params.name, query.reader)
      return await reply
        .header('content-disposition', `attachment; filename="${params.name}-${query.reader}.csv"`)
        .type('text/csv; charset=utf-8')
        .send(table)
    },
  )
  app.get<OfSubject>(
    '/trials/:name/subjects/:code/log.html',
    {
      schema: {
        tags,
        summary: 'The export log of one subject for the site’s file, to be printed',
        params: subjectParams,
        response: { 200: { description: 'A page', content: { 'text/html': { schema: string } } } },
      },
    },
    async ({ principal, params }, reply) =>
      await reply
        .header('content-security-policy', "default-src 'none'; style-src 'unsafe-inline'")
        .type('text/html; charset=utf-8')
        .send(await trialLog.page(principal, params.name, params.code)),
  )
}
