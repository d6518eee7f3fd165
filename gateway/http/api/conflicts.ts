/** Conflicts: instances that arrived under a known SOP Instance UID with other bytes. */
import type { FastifyInstance } from 'fastify'
import type { ConflictState, Conflicts, Decision } from '../../services/conflicts.ts'
import { sendFile } from '../send-file.ts'
import {
  answers,
  array,
  date,
  input,
  integer,
  limit,
  nullableDate,
  nullableString,
  object,
  open,
  rowId,
  string,
} from './schema.ts'

const tags = ['Conflicts']
const params = input({ id: rowId }, ['id'])
const conflict = object({
  id: integer,
  kind: { enum: ['conflict', 'variant'], description: 'variant: the same instance in another transfer syntax' },
  state: { enum: ['held', 'kept', 'replaced', 'discarded'] },
  sopInstanceUid: string,
  sopClassUid: string,
  transferSyntaxUid: string,
  fileSha256: { ...string, description: 'Digest of the held file' },
  sizeBytes: integer,
  origin: open,
  instance: { ...nullableString, description: 'Orthanc id of the instance that is stored' },
  storedSha256: { ...nullableString, description: 'Digest of the file that is stored' },
  createdAt: date,
  decidedAt: nullableDate,
  decidedBy: nullableString,
})

/** Registers the routes. */
export function conflictRoutes(app: FastifyInstance, conflicts: Conflicts): void {
  app.get<{ Querystring: { state?: ConflictState; before?: number; limit: number } }>(
    '/conflicts',
    {
      schema: {
        tags,
        summary: 'List conflicts, newest first',
        querystring: input({
          state: { enum: ['held', 'kept', 'replaced', 'discarded'] },
          before: { ...rowId, description: 'Only those with a smaller id: the last one of the page before' },
          limit,
        }),
        response: answers('A page of conflicts', object({ conflicts: array(conflict) })),
      },
    },
    async request => ({ conflicts: await conflicts.list(request.query) }),
  )

  app.get<{ Params: { id: number } }>(
    '/conflicts/:id',
    { schema: { tags, summary: 'One conflict', params, response: answers('The conflict', conflict) } },
    async request => await conflicts.load(request.params.id),
  )

  app.route<{ Params: { id: number } }>({
    method: ['GET', 'HEAD'],
    url: '/conflicts/:id/file',
    schema: { tags, summary: 'The held bytes, as received', params, produces: ['application/dicom'] },
    handler: async (request, reply) => {
      const { conflict: found, blob } = await conflicts.open(request.principal, request.params.id)
      return await sendFile(request, reply, blob, {
        sha256: found.fileSha256,
        type: 'application/dicom',
        filename: `${found.sopInstanceUid}.conflict-${found.id}.dcm`,
      })
    },
  })

  app.post<{ Params: { id: number }; Body: { decision: Decision } }>(
    '/conflicts/:id/decision',
    {
      schema: {
        tags,
        summary: 'Decide a conflict',
        description:
          'keep: the stored instance stays and the held bytes stay retrievable. replace: the held bytes become the ' +
          'instance and the replaced ones are held. discard: the held bytes may be deleted.',
        params,
        body: input({ decision: { enum: ['keep', 'replace', 'discard'] } }, ['decision']),
        response: answers('The decided conflict', conflict),
      },
    },
    async request => await conflicts.decide(request.principal, request.params.id, request.body.decision),
  )
}
