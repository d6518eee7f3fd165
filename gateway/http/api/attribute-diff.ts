/** What a profile makes of a study's instance, or of a file, attribute by attribute. Nothing is sent, nothing is kept. */
import type { FastifyInstance } from 'fastify'
import type { Db } from '../../db/db.ts'
import { type AttributeDiff, type AttributeDiffs, maxDiffBytes } from '../../services/attribute-diff.ts'
import { loadStudyNamed } from '../../services/study-name.ts'
import { answers, array, boolean, input, nullableString, object, string } from './schema.ts'

const tags = ['Policy']
const policy = { ...string, maxLength: 64, default: 'active', description: 'active, a version, or the id of a draft' }
const profile = {
  ...string,
  minLength: 1,
  maxLength: 64,
  description: 'A profile of that policy, or one that comes along',
}
const answer = answers(
  'What changes',
  object({
    sopInstanceUid: nullableString,
    outcome: { enum: ['go', 'held'] },
    reason: { ...nullableString, description: 'Why nothing of it would leave' },
    changes: array(
      object({
        path: string,
        keyword: nullableString,
        vr: string,
        kind: { enum: ['removed', 'emptied', 'replaced', 'added'] },
        before: nullableString,
        after: nullableString,
      }),
    ),
    isCut: { ...boolean, description: 'There are more than are told' },
  }),
)

const diffOf = ({ changes, ...rest }: AttributeDiff) => ({
  ...rest,
  sopInstanceUid: rest.sopInstanceUid ?? null,
  reason: rest.reason ?? null,
  changes: changes.map(change => ({
    ...change,
    keyword: change.keyword ?? null,
    before: change.before ?? null,
    after: change.after ?? null,
  })),
})

/** Registers the routes. */
export function attributeDiffRoutes(
  app: FastifyInstance,
  { db, attributeDiffs }: { db: Db; attributeDiffs: AttributeDiffs },
): void {
  app.post<{ Body: { study: string; instance?: string; policy: string; profile: string } }>(
    '/dry-runs/attributes',
    {
      schema: {
        tags,
        summary: 'What a profile makes of one instance of a stored study, attribute by attribute',
        description: 'Replacements are made with a key of this run only.',
        body: input(
          {
            study: { ...string, maxLength: 64, description: 'Study Instance UID or Orthanc id' },
            instance: { ...string, maxLength: 64, description: 'SOP Instance UID; else the first one' },
            policy,
            profile,
          },
          ['study', 'profile'],
        ),
        response: answer,
      },
    },
    async ({ principal, body }) => {
      const { study, instance, ...under } = body
      const { id } = await loadStudyNamed(db, study)
      const which = instance === undefined ? under : { ...under, sopInstanceUid: instance }
      return diffOf(await attributeDiffs.ofStudy(principal, id, which))
    },
  )

  app.register(async scope => {
    scope.addContentTypeParser(
      'application/dicom',
      { parseAs: 'buffer', bodyLimit: maxDiffBytes },
      async (_request: unknown, body: string | Buffer) => body,
    )
    scope.post<{ Body: Buffer; Querystring: { policy: string; profile: string } }>(
      '/dry-runs/attributes/file',
      {
        bodyLimit: maxDiffBytes,
        schema: {
          tags,
          summary: 'The same of a file, sent as application/dicom',
          querystring: input({ policy, profile }, ['profile']),
          response: answer,
        },
      },
      async ({ principal, body, query }) => diffOf(await attributeDiffs.ofFile(principal, body, query)),
    )
  })
}
