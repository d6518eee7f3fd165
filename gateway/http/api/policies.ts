/** Policies as they are written and published: drafts, lint, differences, versions, the way back. */
import type { FastifyInstance } from 'fastify'
import { findingCodes } from '../../../policy/lint.ts'
import type { PolicyVersion } from '../../../policy/versions.ts'
import type { Draft, Policies } from '../../services/policies.ts'
import {
  answers,
  anything,
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

const tags = ['Policy']
const versionNumber = { type: 'integer', minimum: 1, maximum: 2_147_483_647 } as const
const versionParams = input({ version: versionNumber }, ['version'])
const policyName = {
  ...string,
  pattern: '^(active|[1-9][0-9]{0,8}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})$',
  description: 'active, the number of a version, or the id of a draft',
}
const name = { ...policyName, default: 'active' }
const info = {
  version: integer,
  title: string,
  sha256: string,
  author: string,
  publisher: nullableString,
  twoPersons: { ...boolean, description: 'It took a second person to publish it' },
  rollbackOf: nullableInteger,
  signature: { ...nullableString, description: 'Ed25519 of the site, base64' },
  isActive: boolean,
  createdAt: date,
}
const version = object({ ...info, document: open })
const draftInfo = {
  id: uuid,
  title: string,
  authors: array(string),
  basedOn: nullableInteger,
  state: { enum: ['open', 'published', 'discarded'] },
  version: nullableInteger,
  revision: integer,
  createdAt: date,
  updatedAt: date,
}
const draft = object({ ...draftInfo, document: open })
const finding = object({
  severity: { enum: ['error', 'warning'] },
  code: { enum: findingCodes },
  path: string,
  message: string,
})
const findings = object({ findings: array(finding) })
const change = object({
  path: string,
  kind: { enum: ['added', 'removed', 'changed', 'moved'] },
  before: anything,
  after: anything,
})

const versionOf = ({ document, signature, ...rest }: PolicyVersion, active: number | undefined) => ({
  ...rest,
  title: document.title,
  publisher: rest.publisher ?? null,
  rollbackOf: rest.rollbackOf ?? null,
  signature: signature?.toString('base64') ?? null,
  isActive: rest.version === active,
  document,
})
const draftOf = (found: Draft) => ({ ...found, basedOn: found.basedOn ?? null, version: found.version ?? null })

/** Registers the routes. */
export function policiesRoutes(app: FastifyInstance, { policies }: { policies: Policies }): void {
  app.get<{ Querystring: { before?: number; limit: number } }>(
    '/policies',
    {
      schema: {
        tags,
        summary: 'Published versions, newest first',
        querystring: input({ before: { ...versionNumber, description: 'Only those with a smaller number' }, limit }),
        response: answers('Versions', object({ twoPersons: boolean, versions: array(object(info)) })),
      },
    },
    async ({ principal, query }) => {
      const { active, versions } = await policies.history(principal, query)
      return { twoPersons: policies.twoPersons, versions: versions.map(policy => versionOf(policy, active)) }
    },
  )

  app.get<{ Params: { version: number } }>(
    '/policies/:version',
    {
      schema: {
        tags,
        summary: 'One published version with its document',
        params: versionParams,
        response: answers('The version', version),
      },
    },
    async ({ principal, params }) => {
      const { active, version } = await policies.load(principal, params.version)
      return versionOf(version, active)
    },
  )

  app.post<{ Params: { version: number } }>(
    '/policies/:version/rollback',
    {
      schema: {
        tags,
        summary: 'Make the document of an older version the active one again, under a new number',
        description: 'Not by who wrote it. Running transfers keep the version that decided them.',
        params: versionParams,
        response: answers('The active version', version),
      },
    },
    async ({ principal, params }) => {
      const active = await policies.rollback(principal, params.version)
      return versionOf(active, active.version)
    },
  )

  app.post<{ Body: Record<string, unknown> }>(
    '/policies/lint',
    {
      schema: {
        tags,
        summary: 'What is wrong or odd about a document; changes nothing',
        body: open,
        response: answers('What was found', findings),
      },
    },
    async ({ principal, body }) => ({ findings: await policies.lint(principal, body) }),
  )

  app.get<{ Querystring: { from: string; to: string } }>(
    '/policies/diff',
    {
      schema: {
        tags,
        summary: 'What changed between two documents, by rule, agreement, profile and destination',
        querystring: input({ from: name, to: name }),
        response: answers('The differences', object({ changes: array(change) })),
      },
    },
    async ({ principal, query }) => ({ changes: await policies.diff(principal, query.from, query.to) }),
  )

  draftRoutes(app, policies)
}

function draftRoutes(app: FastifyInstance, policies: Policies): void {
  app.get<{ Querystring: { limit: number } }>(
    '/policies/drafts',
    {
      schema: {
        tags,
        summary: 'Drafts, newest first',
        querystring: input({ limit }),
        response: answers('Drafts', object({ drafts: array(object(draftInfo)) })),
      },
    },
    async ({ principal, query }) => ({
      drafts: (await policies.listDrafts(principal, query.limit)).map(draftOf),
    }),
  )

  app.post<{ Body: Record<string, unknown> }>(
    '/policies/drafts',
    {
      schema: {
        tags,
        summary: 'Keep a document as a draft; whoever writes at it is its author',
        body: open,
        response: answers('The draft', draft),
      },
    },
    async ({ principal, body }) => draftOf(await policies.createDraft(principal, body)),
  )

  app.get<{ Params: { id: string } }>(
    '/policies/drafts/:id',
    { schema: { tags, summary: 'One draft', params: uuidParams, response: answers('The draft', draft) } },
    async ({ principal, params }) => draftOf(await policies.loadDraft(principal, params.id)),
  )

  app.put<{ Params: { id: string }; Querystring: { revision: number }; Body: Record<string, unknown> }>(
    '/policies/drafts/:id',
    {
      schema: {
        tags,
        summary: 'Change a draft',
        params: uuidParams,
        querystring: input({ revision: { ...versionNumber, description: 'The revision that was seen' } }, ['revision']),
        body: open,
        response: answers('The draft', draft),
      },
    },
    async ({ principal, params, query, body }) =>
      draftOf(await policies.changeDraft(principal, params.id, { raw: body, revision: query.revision })),
  )

  app.delete<{ Params: { id: string } }>(
    '/policies/drafts/:id',
    { schema: { tags, summary: 'Discard a draft', params: uuidParams, response: answers('The draft', draft) } },
    async ({ principal, params }) => draftOf(await policies.discardDraft(principal, params.id)),
  )

  app.get<{ Params: { id: string } }>(
    '/policies/drafts/:id/lint',
    {
      schema: {
        tags,
        summary: 'What is wrong or odd about a draft',
        params: uuidParams,
        response: answers('What was found', findings),
      },
    },
    async ({ principal, params }) => ({ findings: await policies.lintDraft(principal, params.id) }),
  )

  app.post<{ Params: { id: string }; Querystring: { revision?: number } }>(
    '/policies/drafts/:id/publish',
    {
      schema: {
        tags,
        summary: 'Publish a draft: it becomes an immutable, signed version and is active at once',
        description: 'Not by one of its authors, unless the site has one person only (`policy.twoPersons`).',
        params: uuidParams,
        querystring: input({ revision: { ...versionNumber, description: 'Only if it is still at this revision' } }),
        response: answers('The active version', version),
      },
    },
    async ({ principal, params, query }) => {
      const active = await policies.publishDraft(principal, params.id, query.revision)
      return versionOf(active, active.version)
    },
  )
}
