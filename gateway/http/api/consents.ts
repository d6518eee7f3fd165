/** What patients have consented to and object to. A patient is never part of a URL: URLs are logged. */
import type { FastifyInstance } from 'fastify'
import type { Db } from '../../db/db.ts'
import type { Consent, Consents, NewConsent, PatientName } from '../../services/consents.ts'
import { loadPatientOf } from '../../services/study-name.ts'
import {
  answers,
  array,
  boolean,
  date,
  input,
  limit,
  nullableDate,
  nullableString,
  object,
  string,
  uuid,
  uuidParams,
} from './schema.ts'

const tags = ['Consents']
const kind = { enum: ['consent', 'objection'], default: 'consent' } as const
const patientBody = {
  ...input(
    {
      id: { ...string, minLength: 1, maxLength: 64, description: 'Patient ID (0010,0020)' },
      issuer: { ...string, maxLength: 128, default: '', description: "Empty for the site's own" },
    },
    ['id'],
  ),
  description: 'Instead of `study`',
}
const study = { ...string, maxLength: 64, description: 'The patient of this study (Study Instance UID or Orthanc id)' }
const purpose = { ...string, pattern: '^(\\*|[a-z][a-z0-9-]{0,63})$', description: '* for every purpose' }
const consent = object({
  id: uuid,
  kind,
  patient: object({ id: string, issuer: string }),
  purpose: string,
  recipient: { ...string, description: "A site's id, a modality's name, or *" },
  from: date,
  until: nullableDate,
  source: string,
  recordedBy: string,
  createdAt: date,
  withdrawnAt: nullableDate,
  withdrawnBy: nullableString,
  isInForce: boolean,
})
const ids = array(uuid)
const settled = object({ held: ids, stopped: ids, released: ids }, 'What it has done to transfers')
const sent = array(
  object(
    { id: uuid, studyInstanceUid: string, state: string, purpose: string, isTrial: boolean },
    'What was sent under it already; whether it is asked back, a person decides',
  ),
)

interface PatientBody {
  readonly patient?: { readonly id: string; readonly issuer: string }
  readonly study?: string
}
type RecordBody = PatientBody &
  Pick<NewConsent, 'kind' | 'purpose' | 'recipient' | 'source'> & { readonly from?: string; readonly until?: string }

const consentOf = ({ patient, ...rest }: Consent) => ({
  ...rest,
  patient: { id: patient.patientId, issuer: patient.issuer },
  until: rest.until ?? null,
  withdrawnAt: rest.withdrawnAt ?? null,
  withdrawnBy: rest.withdrawnBy ?? null,
})

/** Registers the routes. */
export function consentRoutes(app: FastifyInstance, { db, consents }: { db: Db; consents: Consents }): void {
  /** @throws GatewayError BAD_REQUEST unless exactly one of both names the patient, NOT_FOUND */
  const patientOf = ({ patient, study }: PatientBody): Promise<PatientName> =>
    loadPatientOf(db, { patient: patient && { issuer: patient.issuer, patientId: patient.id }, study })

  app.post<{ Body: RecordBody }>(
    '/consents',
    {
      schema: {
        tags,
        summary: 'Record a consent or an objection of a patient',
        description:
          'Transfers that were held for want of a consent go on; an objection holds or cancels what is unfinished.',
        body: input(
          {
            kind,
            patient: patientBody,
            study,
            purpose,
            recipient: { ...string, minLength: 1, maxLength: 128, description: 'A destination, a site, or *' },
            from: date,
            until: date,
            source: { ...string, minLength: 1, maxLength: 1000, description: 'Where it is written' },
          },
          ['purpose', 'recipient', 'source'],
        ),
        response: answers('What was recorded', object({ consent, settled })),
      },
    },
    async ({ principal, body }) => {
      const { from, until, patient: _, study: __, ...rest } = body
      const recorded = await consents.record(principal, {
        ...rest,
        patient: await patientOf(body),
        ...(from !== undefined && { from: new Date(from) }),
        ...(until !== undefined && { until: new Date(until) }),
      })
      return { consent: consentOf(recorded.consent), settled: recorded.settled }
    },
  )

  app.get<{ Querystring: { study?: string; before?: string; limit: number } }>(
    '/consents',
    {
      schema: {
        tags,
        summary: 'Consents and objections, newest first',
        querystring: input({
          study,
          before: { ...uuid, description: 'Only what was recorded before this one' },
          limit,
        }),
        response: answers('A page', object({ consents: array(consent) })),
      },
    },
    async ({ principal, query }) => {
      const { study, ...page } = query
      const of = study === undefined ? page : { ...page, patient: await patientOf({ study }) }
      return { consents: (await consents.list(principal, of)).map(consentOf) }
    },
  )

  app.post<{ Body: PatientBody & { limit: number } }>(
    '/consents/search',
    {
      schema: {
        tags,
        summary: 'Consents and objections of one patient, newest first',
        body: input({ patient: patientBody, study, limit }),
        response: answers('What was found', object({ consents: array(consent) })),
      },
    },
    async ({ principal, body }) => {
      const of = { patient: await patientOf(body), limit: body.limit }
      return { consents: (await consents.list(principal, of)).map(consentOf) }
    },
  )

  app.get<{ Params: { id: string } }>(
    '/consents/:id',
    { schema: { tags, summary: 'One of them', params: uuidParams, response: answers('The consent', consent) } },
    async ({ principal, params }) => consentOf(await consents.load(principal, params.id)),
  )

  app.post<{ Params: { id: string } }>(
    '/consents/:id/withdraw',
    {
      schema: {
        tags,
        summary: 'Withdraw a consent, or an objection',
        description: 'What is queued is held and what is on its way is cancelled, at once.',
        params: uuidParams,
        response: answers('What was withdrawn', object({ consent, settled, sent })),
      },
    },
    async ({ principal, params }) => {
      const withdrawn = await consents.withdraw(principal, params.id)
      return { ...withdrawn, consent: consentOf(withdrawn.consent) }
    },
  )
}
