/** The policy: which version is active, what was published, why a study goes where. */
import type { FastifyInstance } from 'fastify'
import type { Db } from '../../db/db.ts'
import type { Principal } from '../../principal.ts'
import { loadStudyNamed } from '../../services/study-name.ts'
import { answers, anything, array, date, input, integer, nullableString, object, open, string } from './schema.ts'

export interface PolicyVersion {
  readonly version: number
  readonly sha256: string
  readonly author: string
  readonly createdAt: Date
  readonly document: unknown
}

export interface ActivePolicy extends PolicyVersion {
  readonly publishedBy: string
  readonly publishedAt: Date
}

export interface PolicyService {
  active(): Promise<ActivePolicy | undefined>
  /** Newest first. */
  list(): Promise<readonly Omit<PolicyVersion, 'document'>[]>
  /** @throws GatewayError NOT_FOUND */
  load(version: number): Promise<PolicyVersion>
  /** Makes a document the active version. @throws GatewayError POLICY_INVALID with every problem */
  publish(principal: Principal, document: unknown): Promise<ActivePolicy>
  /** Makes an older version active again. @throws GatewayError NOT_FOUND */
  activate(principal: Principal, version: number): Promise<ActivePolicy>
  /** Every rule with its verdict for a study, and the decisions that follow. `study` is the row's id. */
  explain(study: number): Promise<unknown>
}

const tags = ['Policy']
const info = { version: integer, sha256: string, author: string, createdAt: date }
const active = object({ ...info, publishedBy: string, publishedAt: date, document: open })
const noPolicy = { version: 0, sha256: '', author: '', publishedBy: '', document: {} }

/** Registers the routes. */
export function policyRoutes(app: FastifyInstance, db: Db, policy: PolicyService): void {
  app.get(
    '/policy',
    {
      schema: {
        tags,
        summary: 'The active policy; version 0 (nothing leaves) before the first is published',
        response: answers('The active version', active),
      },
    },
    async () => (await policy.active()) ?? { ...noPolicy, createdAt: new Date(0), publishedAt: new Date(0) },
  )

  app.put<{ Body: Record<string, unknown> }>(
    '/policy',
    {
      schema: {
        tags,
        summary: 'Publish a policy document: it becomes a new, immutable version and is active at once',
        body: open,
        response: answers('The active version', active),
      },
    },
    async request => await policy.publish(request.principal, request.body),
  )

  app.get(
    '/policy/versions',
    {
      schema: {
        tags,
        summary: 'All versions, newest first',
        response: answers('Versions', object({ versions: array(object(info)) })),
      },
    },
    async () => ({ versions: await policy.list() }),
  )

  app.get<{ Params: { version: number } }>(
    '/policy/versions/:version',
    {
      schema: {
        tags,
        summary: 'One version with its document',
        params: input({ version: { type: 'integer', minimum: 1 } }, ['version']),
        response: answers('The version', object({ ...info, document: open })),
      },
    },
    async request => await policy.load(request.params.version),
  )

  app.post<{ Params: { version: number } }>(
    '/policy/versions/:version/activate',
    {
      schema: {
        tags,
        summary: 'Make an older version active again',
        params: input({ version: { type: 'integer', minimum: 1 } }, ['version']),
        response: answers('The active version', active),
      },
    },
    async request => await policy.activate(request.principal, request.params.version),
  )

  app.get<{ Querystring: { study: string } }>(
    '/policy/explain',
    {
      schema: {
        tags,
        summary: 'Why a study goes where: every rule with its verdict',
        querystring: input({ study: { ...string, maxLength: 64, description: 'Study Instance UID or Orthanc id' } }, [
          'study',
        ]),
        response: answers(
          'The explanation',
          object({ studyInstanceUid: string, orthancId: nullableString, explanation: anything }),
        ),
      },
    },
    async request => {
      const { id, orthancId, studyInstanceUid } = await loadStudyNamed(db, request.query.study)
      return { studyInstanceUid, orthancId, explanation: await policy.explain(id) }
    },
  )
}
