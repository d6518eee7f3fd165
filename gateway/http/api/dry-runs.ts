/** Dry runs: what a policy would do with the studies of the last days. Nothing is sent. */
import type { FastifyInstance } from 'fastify'
import type { DryRun, DryRuns } from '../../services/dry-run.ts'
import {
  answers,
  array,
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

const tags = ['Policy']
const outcomes = ['go', 'held', 'denied', 'none'] as const
const outcome = { enum: outcomes }
const run = object({
  id: uuid,
  state: { enum: ['waiting', 'running', 'done', 'cancelled', 'failed'] },
  days: integer,
  baseline: { ...nullableInteger, description: 'The version it is compared with' },
  requestedBy: string,
  studies: integer,
  studiesDone: integer,
  counts: object(
    { go: integer, held: integer, denied: integer, none: integer, gained: integer, lost: integer },
    'Pairs of study and destination',
  ),
  error: nullableString,
  createdAt: date,
  updatedAt: date,
})
const result = object({
  study: integer,
  studyInstanceUid: string,
  origin: { ...string, description: 'local, imported (from peers) or fetched (by the gateway itself)' },
  destination: string,
  outcome,
  rule: nullableString,
  reason: nullableString,
  purpose: nullableString,
  profile: nullableString,
  before: { ...outcome, description: 'What the baseline does' },
  beforeRule: nullableString,
})

const runOf = (found: DryRun) => ({ ...found, baseline: found.baseline ?? null, error: found.error ?? null })

/** Registers the routes. */
export function dryRunRoutes(app: FastifyInstance, { dryRuns }: { dryRuns: DryRuns }): void {
  app.post<{ Body: { document?: Record<string, unknown>; policy?: string; days: number } }>(
    '/dry-runs',
    {
      schema: {
        tags,
        summary: 'Run a policy against the studies of the last days, next to the active version',
        body: input({
          document: { ...open, description: 'A policy document' },
          policy: { ...string, maxLength: 64, description: 'Instead: a version, the id of a draft, or active' },
          days: { type: 'integer', minimum: 1, maximum: 36_500, default: 30 },
        }),
        response: answers('The dry run', run),
      },
    },
    async ({ principal, body }) => {
      const { document, policy = 'active', days } = body
      const what = document === undefined ? { name: policy } : { raw: document }
      return runOf(await dryRuns.start(principal, { what, days }))
    },
  )

  app.get<{ Querystring: { limit: number } }>(
    '/dry-runs',
    {
      schema: {
        tags,
        summary: 'Dry runs, newest first',
        querystring: input({ limit }),
        response: answers('Dry runs', object({ dryRuns: array(run) })),
      },
    },
    async ({ principal, query }) => ({ dryRuns: (await dryRuns.list(principal, query.limit)).map(runOf) }),
  )

  app.get<{ Params: { id: string } }>(
    '/dry-runs/:id',
    { schema: { tags, summary: 'One dry run', params: uuidParams, response: answers('The dry run', run) } },
    async ({ principal, params }) => runOf(await dryRuns.load(principal, params.id)),
  )

  app.get<{
    Params: { id: string }
    Querystring: { outcome?: (typeof outcomes)[number]; change?: 'gained' | 'lost'; cursor?: string; limit: number }
  }>(
    '/dry-runs/:id/results',
    {
      schema: {
        tags,
        summary: 'What would become of each study, by destination',
        params: uuidParams,
        querystring: input({
          outcome,
          change: { enum: ['gained', 'lost'], description: 'Would go and does not now, or the reverse' },
          cursor: { ...string, maxLength: 500, description: '`next` of the page before' },
          limit,
        }),
        response: answers('A page', object({ results: array(result), next: nullableString })),
      },
    },
    async ({ principal, params, query }) => {
      const { results, next } = await dryRuns.results(principal, params.id, query)
      return { results, next: next ?? null }
    },
  )

  app.post<{ Params: { id: string } }>(
    '/dry-runs/:id/cancel',
    { schema: { tags, summary: 'End a dry run', params: uuidParams, response: answers('The dry run', run) } },
    async ({ principal, params }) => runOf(await dryRuns.cancel(principal, params.id)),
  )
}
