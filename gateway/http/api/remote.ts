/** Work with registered nodes: echo, query, retrieve, store, and how the longer work goes on. */

import type { FastifyInstance } from 'fastify'
import { GatewayError } from '../../errors.ts'
import type { ModalityJob, ModalityJobs } from '../../services/modality-jobs.ts'
import type { Prefetch } from '../../services/prefetch.ts'
import type { Remote } from '../../services/remote.ts'
import type { RetrieveKeys } from '../../services/retrieve-plan.ts'
import { goneSignal } from '../gone.ts'
import {
  answers,
  array,
  boolean,
  date,
  input,
  integer,
  limit,
  nullableInteger,
  nullableString,
  object,
  open,
  string,
  uuid,
  uuidParams,
} from './schema.ts'

/** What the routes need. */
export interface RemoteServices {
  readonly remote: Remote
  readonly modalityJobs: ModalityJobs
  readonly prefetch: Pick<Prefetch, 'load' | 'put'>
}

const tags = ['Modalities']
const params = input({ name: { ...string, minLength: 1, maxLength: 64, description: 'Name or AE title' } }, ['name'])
const level = { enum: ['patient', 'study', 'series', 'instance'] } as const
const uids = { type: 'array', maxItems: 1000, items: { type: 'string', pattern: '^[0-9.]{1,64}$' } } as const
const keys = {
  patientId: { ...string, minLength: 1, maxLength: 64, pattern: '^[^*?\\\\]+$' },
  issuerOfPatientId: { ...string, minLength: 1, maxLength: 64 },
  studies: { ...uids, description: 'Study Instance UIDs' },
  series: { ...uids, description: 'Series Instance UIDs, of one study' },
  instances: { ...uids, description: 'SOP Instance UIDs, of one series' },
}
const job = object({
  id: uuid,
  kind: { enum: ['retrieve', 'store'] },
  modality: string,
  keys: open,
  method: { type: ['string', 'null'], enum: ['get', 'move', null] },
  purpose: { enum: ['manual', 'prefetch'] },
  requestedBy: string,
  state: { enum: ['waiting', 'running', 'done', 'failed', 'cancelled'] },
  completed: integer,
  failed: integer,
  warning: integer,
  remaining: nullableInteger,
  attempts: integer,
  errorCode: nullableString,
  error: nullableString,
  createdAt: date,
  updatedAt: date,
})

const strings = array(string)
const prefetchRules = object({
  version: integer,
  rules: array(
    object({
      name: string,
      modalities: strings,
      bodyParts: strings,
      callingAes: strings,
      from: string,
      method: string,
      atMost: integer,
      notOlderThanDays: integer,
      priorModalities: strings,
    }),
  ),
})

/** Keys as a request names them: the deepest ones given are those that are wanted. */
interface KeysBody {
  readonly patientId?: string
  readonly issuerOfPatientId?: string
  readonly studies?: string[]
  readonly series?: string[]
  readonly instances?: string[]
}

interface Named {
  readonly Params: { name: string }
}

/** Registers the routes. */
export function remoteRoutes(app: FastifyInstance, { remote, modalityJobs, prefetch }: RemoteServices): void {
  app.post<Named>(
    '/modalities/:name/echo',
    {
      schema: {
        tags,
        summary: 'Verify that a modality answers (C-ECHO)',
        params,
        response: answers('Its answer', object({ status: integer, tookMs: integer })),
      },
    },
    async (request, reply) => await remote.echo(request.principal, request.params.name, goneSignal(reply)),
  )

  app.post<Named & { Body: { level: RetrieveKeys['level']; query: Record<string, string>; limit: number } }>(
    '/modalities/:name/find',
    {
      schema: {
        tags,
        summary: 'Query a modality (C-FIND)',
        params,
        body: input({
          level: { ...level, default: 'study' },
          query: {
            type: 'object',
            maxProperties: 100,
            additionalProperties: { type: 'string', maxLength: 16_384 },
            default: {},
            description: 'Matching keys by keyword or GGGGEEEE; an empty value asks for the attribute',
          },
          limit,
        }),
        response: answers(
          'Matches in the DICOM JSON model',
          object({ matches: array(open), truncated: { ...boolean, description: 'There are more than the limit' } }),
        ),
      },
    },
    async (request, reply) => {
      const { level, query, limit } = request.body
      return await remote.find(request.principal, request.params.name, { level, query, limit }, goneSignal(reply))
    },
  )

  const work = (kind: ModalityJob['kind'], summary: string, method: Readonly<Record<string, object>>) =>
    app.post<Named & { Body: KeysBody & { method?: 'get' | 'move' } }>(
      `/modalities/:name/${kind}`,
      { schema: { tags, summary, params, body: input({ ...keys, ...method }), response: answers('The job', job) } },
      async request => {
        const { method, ...named } = request.body
        return await modalityJobs.request(request.principal, {
          kind,
          modality: request.params.name,
          keys: keysOf(named),
          ...(method && { method }),
        })
      },
    )
  work('retrieve', 'Retrieve from a modality into the store, by C-GET or C-MOVE', {
    method: { enum: ['get', 'move'], description: 'C-GET, and C-MOVE where that is not offered, unless given' },
  })
  work('store', 'Send what is stored to a modality (C-STORE)', {})

  app.get<{ Querystring: { limit: number } }>(
    '/modality-jobs',
    {
      schema: {
        tags,
        summary: 'Retrievals from and sends to modalities, newest first',
        querystring: input({ limit }),
        response: answers('Jobs', object({ jobs: array(job) })),
      },
    },
    async request => ({ jobs: await modalityJobs.list(request.query.limit) }),
  )
  app.get<{ Params: { id: string } }>(
    '/modality-jobs/:id',
    { schema: { tags, summary: 'One job', params: uuidParams, response: answers('The job', job) } },
    async request => await modalityJobs.load(request.params.id),
  )
  app.post<{ Params: { id: string } }>(
    '/modality-jobs/:id/cancel',
    {
      schema: {
        tags,
        summary: 'End a job; what has come or gone stays',
        params: uuidParams,
        response: answers('The job after it', job),
      },
    },
    async request => await modalityJobs.cancel(request.principal, request.params.id),
  )

  app.get(
    '/prefetch',
    { schema: { tags, summary: 'Rules by which priors are fetched', response: answers('Rules', prefetchRules) } },
    async () => await prefetch.load(),
  )
  app.put<{ Body: { rules: unknown[] } }>(
    '/prefetch',
    {
      schema: {
        tags,
        summary: 'Replace the rules by which priors are fetched when a study arrives',
        body: input({ rules: { ...array(open), maxItems: 100 } }, ['rules']),
        response: answers('Rules', prefetchRules),
      },
    },
    async request => await prefetch.put(request.principal, request.body.rules),
  )
}

/** @throws GatewayError BAD_REQUEST when the keys of the levels above are not single ones */
function keysOf({ patientId, issuerOfPatientId, studies, series, instances }: KeysBody): RetrieveKeys {
  const level = instances ? 'instance' : series ? 'series' : studies ? 'study' : 'patient'
  const isSingle = (list: readonly string[] | undefined): boolean => list?.length === 1
  const isWhole = {
    patient: patientId !== undefined,
    study: studies !== undefined && studies.length > 0,
    series: isSingle(studies) && series !== undefined && series.length > 0,
    instance: isSingle(studies) && isSingle(series) && instances !== undefined && instances.length > 0,
  }[level]
  if (!isWhole) throw new GatewayError('BAD_REQUEST', `expected one key of each level above ${level}, and some of it`)
  return {
    level,
    ...(patientId !== undefined && { patientId }),
    ...(issuerOfPatientId !== undefined && { issuer: issuerOfPatientId }),
    studyUids: studies,
    seriesUids: series,
    sopInstanceUids: instances,
  }
}
