/** The policy: which version is active, what was published, why a study goes where. */
import type { FastifyInstance } from 'fastify'
import { authorize } from '../../../policy/authorize.ts'
import type { PolicyVersion } from '../../../policy/versions.ts'
import type { Db } from '../../db/db.ts'
import type { Policies } from '../../services/policies.ts'
import type { Routing } from '../../services/routing.ts'
import { loadStudyNamed } from '../../services/study-name.ts'
import {
  answers,
  array,
  boolean,
  date,
  input,
  integer,
  limit,
  nullableInteger,
  object,
  open,
  string,
} from './schema.ts'

const tags = ['Policy']
const versionNumber = { type: 'integer', minimum: 1, maximum: 2_147_483_647 } as const
const info = { version: integer, title: string, sha256: string, author: string, createdAt: date }
const version = object({ ...info, document: open })

const infoOf = ({ document, version, sha256, author, createdAt }: PolicyVersion) => ({
  ...{ version, sha256, author, createdAt },
  title: document.title,
})
const versionOf = (policy: PolicyVersion) => ({ ...infoOf(policy), document: policy.document })

/** Registers the routes. */
export function policyRoutes(
  app: FastifyInstance,
  {
    db,
    routing,
    policies,
  }: { db: Db; routing: Pick<Routing, 'explain'>; policies: Pick<Policies, 'publish' | 'load' | 'history'> },
): void {
  app.get(
    '/policy',
    {
      schema: {
        tags,
        summary: 'The active policy',
        response: answers('The active version', version),
      },
    },
    async ({ principal }) => versionOf((await policies.load(principal, 'active')).version),
  )

  app.put<{ Body: Record<string, unknown> }>(
    '/policy',
    {
      schema: {
        tags,
        summary: 'Write and publish in one step, where one person may (`policy.twoPersons` is off)',
        description: 'It becomes a new, immutable version and is active at once. Elsewhere: `/policies/drafts`.',
        body: open,
        response: answers('The active version', version),
      },
    },
    async request => versionOf(await policies.publish(request.principal, request.body)),
  )

  app.get<{ Querystring: { before?: number; limit: number } }>(
    '/policy/versions',
    {
      schema: {
        tags,
        summary: 'All versions, newest first',
        querystring: input({ before: { ...versionNumber, description: 'Only those with a smaller number' }, limit }),
        response: answers('Versions', object({ versions: array(object(info)) })),
      },
    },
    async ({ principal, query }) => ({ versions: (await policies.history(principal, query)).versions.map(infoOf) }),
  )

  app.get<{ Params: { version: number } }>(
    '/policy/versions/:version',
    {
      schema: {
        tags,
        summary: 'One version with its document',
        params: input({ version: versionNumber }, ['version']),
        response: answers('The version', version),
      },
    },
    async ({ principal, params }) => versionOf((await policies.load(principal, params.version)).version),
  )

  app.get<{ Querystring: { study: string } }>(
    '/policy/explain',
    {
      schema: {
        tags,
        summary: 'Why a study goes where: every rule with its verdict, and what follows. Changes nothing',
        querystring: input({ study: { ...string, maxLength: 64, description: 'Study Instance UID or Orthanc id' } }, [
          'study',
        ]),
        response: answers(
          'The explanation',
          object({
            policyVersion: nullableInteger,
            decisions: array(object({ destination: string, peer: string, rule: string, effect: open })),
            undecided: { ...array(string), description: 'Destinations that no rule decides: nothing is sent there' },
            trace: array(object({ rule: string, matched: boolean, why: string })),
          }),
        ),
      },
    },
    async request => {
      authorize(request.principal, 'policy.read')
      const { id } = await loadStudyNamed(db, request.query.study)
      const { policyVersion, ...decided } = await routing.explain(id)
      return { ...decided, policyVersion: policyVersion ?? null }
    },
  )
}
