/** Resumable uploads by the tus protocol 1.0 (core, creation, creation-with-upload, termination, expiration), and what became of them. */
import { randomUUID } from 'node:crypto'
import { FileStore } from '@tus/file-store'
import { Server, Upload } from '@tus/server'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { GatewayError, isGatewayError } from '../../errors.ts'
import type { Principal } from '../../principal.ts'
import { type ResumableUploads, type UploadNote, uploadExpiryMs } from '../../services/resumable-uploads.ts'
import { hijacked } from '../send-file.ts'
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
  string,
  uuid,
  uuidParams,
} from './schema.ts'

/** What the routes need. */
export interface UploadServices {
  readonly resumableUploads: ResumableUploads
}

const tags = ['Store']
const path = '/api/v1/uploads'
const shown = object({
  id: uuid,
  state: { enum: ['receiving', 'storing', 'disc', 'done', 'failed'] },
  sizeBytes: nullableInteger,
  receivedBytes: integer,
  files: { ...integer, description: 'Files that have an outcome' },
  errorCode: nullableString,
  error: nullableString,
  createdAt: date,
  updatedAt: date,
})
const file = object({
  position: integer,
  name: { ...string, description: 'In the archive; empty for a file by itself' },
  outcome: { enum: ['stored', 'duplicate', 'conflict', 'variant', 'not-dicom', 'refused'] },
  instance: { ...nullableString, description: 'Orthanc id' },
  conflict: { ...nullableInteger, description: '/api/v1/conflicts' },
  errorCode: nullableString,
  error: nullableString,
})

/** Registers the routes. */
export function uploadRoutes(app: FastifyInstance, { resumableUploads }: UploadServices): void {
  const callers = new WeakMap<object, Principal>()
  const server = tusServer(resumableUploads, callers)
  const byTus = async (request: FastifyRequest, reply: FastifyReply): Promise<void> => {
    callers.set(request.raw, request.principal)
    await server.handle(request.raw, hijacked(reply))
  }
  const config = { upload: true, action: 'study.store' } as const
  const protocol = { description: 'An answer of the tus protocol', type: 'null' }
  const response = { '2xx': protocol, '4xx': protocol, '5xx': protocol }

  app.register(async scope => {
    scope.removeAllContentTypeParsers()
    scope.addContentTypeParser('*', (_request, payload, done) => done(null, payload))
    scope.post('/uploads', { config, schema: { tags, summary: 'Begin a resumable upload (tus 1.0)', response } }, byTus)
    for (const [method, summary] of [
      ['PATCH', 'Send bytes from an offset (tus 1.0)'],
      ['HEAD', 'How much has arrived (tus 1.0)'],
      ['DELETE', 'Give an upload up (tus 1.0)'],
    ] as const) {
      scope.route({
        method,
        url: '/uploads/:id',
        config,
        schema: { tags, summary, params: uuidParams, response },
        handler: byTus,
      })
    }
  })
  app.get<{ Params: { id: string } }>(
    '/uploads/:id',
    {
      exposeHeadRoute: false,
      config: { action: 'study.store' },
      schema: { tags, summary: 'How far an upload is', params: uuidParams, response: answers('The upload', shown) },
    },
    async request => await resumableUploads.load(request.principal, request.params.id),
  )
  app.get<{ Params: { id: string }; Querystring: { after: number; limit: number } }>(
    '/uploads/:id/files',
    {
      config: { action: 'study.store' },
      schema: {
        tags,
        summary: 'What became of each file, in the order of the archive',
        params: uuidParams,
        querystring: input({ after: { type: 'integer', minimum: -1, default: -1 }, limit }),
        response: answers('Outcomes', object({ files: array(file) })),
      },
    },
    async ({ principal, params, query }) => ({ files: await resumableUploads.files(principal, params.id, query) }),
  )
}

function tusServer(uploads: ResumableUploads, callers: WeakMap<object, Principal>): Server {
  const callerOf = (request: { readonly runtime?: { readonly node?: { readonly req?: unknown } } }): Principal => {
    const raw = request.runtime?.node?.req
    const principal = typeof raw === 'object' && raw !== null ? callers.get(raw) : undefined
    if (!principal) throw new GatewayError('UNAUTHENTICATED', 'a bearer token is needed')
    return principal
  }
  return new Server({
    path,
    relativeLocation: true,
    allowedOrigins: () => false,
    maxSize: uploads.limitBytes,
    disableTerminationForFinishedUploads: true,
    namingFunction: () => randomUUID(),
    datastore: new FileStore({
      directory: uploads.folder,
      expirationPeriodInMilliseconds: uploadExpiryMs,
      configstore: {
        async get(id) {
          const note = await uploads.note(id)
          return note && uploadOf(id, note)
        },
        set: async (id, { size }) => await uploads.noteSize(id, size),
        delete: async id => await uploads.forget(id),
      },
    }),
    onIncomingRequest: async (request, id) => {
      // Who begins one is asked about when it is made.
      if (request.method !== 'POST') await uploads.resume(callerOf(request), id)
    },
    onUploadCreate: async (request, { id, size, metadata = {} }) => {
      await uploads.create(callerOf(request), { id, sizeBytes: size, metadata })
      return {}
    },
    onUploadFinish: async (_request, { id }) => {
      await uploads.complete(id)
      return {}
    },
    onResponseError: (_request, error) => {
      if (isGatewayError(error)) return { status_code: error.meaning.http, body: `${error.message}\n` }
      // The protocol's own refusals say their status; what is unknown says nothing.
      return 'status_code' in error ? undefined : { status_code: 500, body: 'internal error\n' }
    },
  })
}

function uploadOf(id: string, { sizeBytes: size, metadata, createdAt }: UploadNote): Upload {
  return new Upload({
    id,
    offset: 0,
    metadata: { ...metadata },
    creation_date: createdAt.toISOString(),
    ...(size !== undefined && { size }),
  })
}
