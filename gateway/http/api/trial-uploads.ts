/** Uploads of a trial: choose, check, preview, approve, send, follow, and the sponsor's questions. */
import type { FastifyInstance } from 'fastify'
import type { Db } from '../../db/db.ts'
import { loadStudyNamed } from '../../services/study-name.ts'
import type { TrialUploads } from '../../services/trial-uploads.ts'
import { answers, array, boolean, date, input, nullableString, object, string, uuid, why } from './schema.ts'

const tags = ['Trials']
const name = { ...string, minLength: 1, maxLength: 64 }
const uid = { ...string, minLength: 1, maxLength: 64 }
const params = input({ name }, ['name'])
const uploadParams = input({ name, id: uuid }, ['name', 'id'])
const upload = object({
  ...{ id: uuid, subject: name, visit: name },
  progress: {
    enum: [
      'draft',
      'approved',
      'sending',
      'delivered',
      'acknowledged',
      'attention',
      'queried',
      'replaced',
      'cancelled',
    ],
    description: 'delivered: it lies at the sponsor; acknowledged: they confirmed it; attention: see its transfers',
  },
  findings: array(
    object(
      { code: string, severity: { enum: ['stop', 'deviation'] }, message: string },
      'stop: it cannot be sent so; deviation: who approves it says why',
    ),
  ),
  ...{ replaces: nullableString, createdBy: string, approvedBy: nullableString, why: nullableString },
  query: { ...nullableString, description: 'What the sponsor asked last' },
  ...{ createdAt: date, updatedAt: date },
  studies: array(
    object({
      studyInstanceUid: string,
      series: { type: ['array', 'null'], items: string },
      ...{ transfer: nullableString, state: nullableString, error: nullableString },
    }),
  ),
})
const change = object({
  ...{ path: string, keyword: nullableString, vr: string },
  kind: { enum: ['removed', 'emptied', 'replaced', 'added'] },
  ...{ before: nullableString, after: nullableString },
})
const text = { ...string, minLength: 1, maxLength: 2_000 }

interface Named {
  readonly Params: { name: string }
}
interface OfUpload {
  readonly Params: { name: string; id: string }
}
interface ChoiceBody {
  readonly subject: string
  readonly visit: string
  readonly studies: readonly { readonly study: string; readonly series?: readonly string[] }[]
  readonly replaces?: string
}

/** Registers the routes. */
export function trialUploadRoutes(
  app: FastifyInstance,
  { db, trialUploads }: { db: Db; trialUploads: TrialUploads },
): void {
  const one = answers('The upload', upload)

  app.get<Named>(
    '/trials/:name/uploads',
    {
      schema: {
        ...{ tags, summary: 'Uploads, newest first', params },
        response: answers('Uploads', object({ uploads: array(upload) })),
      },
    },
    async ({ principal, params }) => ({ uploads: await trialUploads.list(principal, params.name) }),
  )
  app.get<OfUpload>(
    '/trials/:name/uploads/:id',
    { schema: { tags, summary: 'One upload', params: uploadParams, response: one } },
    async ({ principal, params }) => await trialUploads.load(principal, params.name, params.id),
  )
  app.post<Named & { Body: ChoiceBody }>(
    '/trials/:name/uploads',
    {
      schema: {
        tags,
        summary: 'Choose studies for a visit of a subject; the answer says what the protocol check found',
        params,
        body: input(
          {
            ...{ subject: name, visit: name },
            studies: {
              ...array(
                input(
                  {
                    study: { ...uid, description: 'Study Instance UID or Orthanc id' },
                    series: { ...array(uid), minItems: 1, maxItems: 1000, description: 'Only these series' },
                  },
                  ['study'],
                ),
              ),
              ...{ minItems: 1, maxItems: 20 },
            },
            replaces: { ...uuid, description: 'The upload that this one takes the place of' },
          },
          ['subject', 'visit', 'studies'],
        ),
        response: one,
      },
    },
    async ({ principal, params, body }) => {
      const studies = []
      for (const { study, series } of body.studies)
        studies.push({ study: (await loadStudyNamed(db, study)).id, series })
      return await trialUploads.choose(principal, params.name, { ...body, studies })
    },
  )
  app.post<OfUpload>(
    '/trials/:name/uploads/:id/check',
    { schema: { tags, summary: 'Check it against the protocol again', params: uploadParams, response: one } },
    async ({ principal, params }) => await trialUploads.check(principal, params.name, params.id),
  )
  app.get<OfUpload>(
    '/trials/:name/uploads/:id/preview',
    {
      schema: {
        tags,
        summary: 'What de-identification makes of the first image of each series',
        params: uploadParams,
        response: answers(
          'What would leave',
          object({
            instances: array(
              object({
                ...{ sopInstanceUid: nullableString, outcome: { enum: ['go', 'held'] }, reason: nullableString },
                ...{ changes: array(change), isCut: boolean },
              }),
            ),
          }),
        ),
      },
    },
    async ({ principal, params }) => ({
      instances: await trialUploads.preview(principal, params.name, params.id),
    }),
  )
  app.post<OfUpload & { Body: { why?: string } }>(
    '/trials/:name/uploads/:id/approve',
    {
      schema: {
        tags,
        summary: 'Approve it; where it deviates from the protocol, say why it is sent all the same',
        params: uploadParams,
        body: input({ why }),
        response: one,
      },
    },
    async ({ principal, params, body }) => await trialUploads.approve(principal, params.name, params.id, body.why),
  )
  app.post<OfUpload>(
    '/trials/:name/uploads/:id/send',
    { schema: { tags, summary: 'Send what was approved', params: uploadParams, response: one } },
    async ({ principal, params }) => await trialUploads.send(principal, params.name, params.id),
  )
  app.post<OfUpload>(
    '/trials/:name/uploads/:id/cancel',
    { schema: { tags, summary: 'Do not send it', params: uploadParams, response: one } },
    async ({ principal, params }) => await trialUploads.cancel(principal, params.name, params.id),
  )
  for (const [verb, summary] of [
    ['query', 'The sponsor asks something about it'],
    ['answer', 'The question was answered'],
  ] as const)
    app.post<OfUpload & { Body: { text: string } }>(
      `/trials/:name/uploads/:id/${verb}`,
      { schema: { tags, summary, params: uploadParams, body: input({ text }, ['text']), response: one } },
      async ({ principal, params, body }) => await trialUploads[verb](principal, params.name, params.id, body.text),
    )
}
