/** Attachments of resources. */
import { Readable } from 'node:stream'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { GatewayError } from '../../errors.ts'
import type { Attachment, ResourceAttachments } from '../../services/resource-attachments.ts'
import type { SeenRevision } from '../../services/resource-metadata.ts'
import { levelOrder } from '../../store/hierarchy.ts'
import type { Level } from '../../store/query.ts'
import { entityTag, isKnown, seenRevision } from './entity-tag.ts'
import { isAsked } from './lenient-scope.ts'
import { type Names, nameTable } from './names.ts'
import { idParams, pathOfLevel } from './navigation.ts'
import { requestBody } from './request-body.ts'

/** What the routes need. */
export interface AttachmentServices {
  readonly attachments: ResourceAttachments
  /** Names of users' attachments. */
  readonly attachmentNames?: Names | undefined
}

/** Orthanc's own. */
const systemAttachments: Names = { dicom: 1, 'dicom-as-json': 2, 'dicom-until-pixel-data': 3 }

const tags = ['Orthanc']
const params = {
  type: 'object',
  properties: { ...idParams.properties, name: { type: 'string', minLength: 1, maxLength: 64 } },
  required: ['id', 'name'],
} as const

const listQuery = {
  type: 'object',
  properties: { full: { type: 'string', description: 'Numbers by name instead of names' } },
} as const

interface Named {
  readonly Params: { id: string; name: string }
}

/** What can be asked of one attachment, in Orthanc's order. */
const operations = [
  'compress',
  'compressed-data',
  'compressed-md5',
  'compressed-size',
  'data',
  'info',
  'is-compressed',
  'md5',
  'size',
  'uncompress',
  'verify-md5',
  'uuid',
] as const

/** Files up to this many bytes are read for the MD5 of their entity tag. */
const digestsUpTo = 16 * 1024 ** 2

type Fact = (attachment: Attachment) => string | number | object

/** Answered of what is known of an attachment; those with MD5 need the bytes of the instance's own file. */
const facts: Readonly<Record<string, { readonly withDigests: boolean; readonly of: Fact }>> = {
  info: { withDigests: true, of: infoOf },
  md5: { withDigests: true, of: attachment => attachment.contentMd5 ?? '' },
  'compressed-md5': { withDigests: true, of: attachment => attachment.storedMd5 ?? '' },
  size: { withDigests: false, of: attachment => attachment.contentBytes },
  'compressed-size': { withDigests: false, of: attachment => attachment.sizeBytes },
  'is-compressed': { withDigests: false, of: attachment => (attachment.isCompressed ? '1' : '0') },
  uuid: { withDigests: false, of: attachment => attachment.uuid },
}

/** The JSON of `/info`. */
export function infoOf(attachment: Attachment) {
  return {
    CompressedMD5: attachment.storedMd5 ?? '',
    CompressedSize: attachment.sizeBytes,
    ContentType: attachment.name,
    UncompressedMD5: attachment.contentMd5 ?? '',
    UncompressedSize: attachment.contentBytes,
    Uuid: attachment.uuid,
  }
}

/** Registers the routes, in a scope of their own, where bodies of every media type are left as streams. */
export function attachmentRoutes(
  app: FastifyInstance,
  { attachments, attachmentNames = {} }: AttachmentServices,
): void {
  const names = nameTable({ ...systemAttachments, ...attachmentNames })
  app.register(async scope => {
    scope.removeAllContentTypeParsers()
    scope.addContentTypeParser('*', (_request, payload, done) => done(null, payload))
    for (const level of levelOrder) routesOf(scope, level)
  })

  function routesOf(scope: FastifyInstance, level: Level): void {
    const list = `/${pathOfLevel[level]}/:id/attachments`
    const path = `${list}/:name`
    const schema = (summary: string) => ({ schema: { tags, summary, params } })
    const nameOf = (request: FastifyRequest<Named>) =>
      [{ level, orthancId: request.params.id }, names.numberOf(request.params.name)] as const

    scope.get<{ Params: { id: string }; Querystring: { full?: string } }>(
      list,
      { schema: { tags, summary: `Attachments of a ${level}`, params: idParams, querystring: listQuery } },
      async request => {
        const numbers = await attachments.list({ level, orthancId: request.params.id })
        if (!isAsked(request.query.full)) return numbers.map(names.nameOf)
        return Object.fromEntries(numbers.map(number => [names.nameOf(number), number]))
      },
    )
    scope.get<Named>(path, schema('What can be asked of an attachment'), async (request, reply) => {
      const found = await attachments.get(...nameOf(request), { digestsUpTo })
      return answer(request, reply, found, () => reply.send(operations))
    })
    for (const [name, { withDigests, of }] of Object.entries(facts)) {
      scope.get<Named>(`${path}/${name}`, schema(`The ${name} of an attachment`), async (request, reply) => {
        const found = await attachments.get(...nameOf(request), {
          digestsUpTo: withDigests ? Number.POSITIVE_INFINITY : digestsUpTo,
        })
        const value = of(found)
        return answer(request, reply, found, () =>
          typeof value === 'object' ? reply.send(value) : reply.type('text/plain').send(String(value)),
        )
      })
    }
    for (const [name, form] of [
      ['data', 'content'],
      ['compressed-data', 'stored'],
    ] as const) {
      scope.get<Named>(
        `${path}/${name}`,
        schema(`The bytes of an attachment, ${form}; audited`),
        async (request, reply) => {
          const known = await attachments.get(...nameOf(request), { digestsUpTo })
          return answer(request, reply, known, async () => {
            const { bytes, sizeBytes, attachment } = await attachments.open(request.principal, ...nameOf(request), form)
            const body = Readable.from(bytes, { objectMode: false })
            // A client that is gone before the first byte leaves the file open otherwise.
            reply.raw.once('close', () => body.destroy())
            if (form === 'content') reply.header('content-disposition', `filename="${attachment.uuid}"`)
            const isFile = form === 'content' && attachment.name === systemAttachments['dicom']
            return reply
              .type(isFile ? 'application/dicom' : 'application/octet-stream')
              .header('content-length', sizeBytes)
              .send(body)
          })
        },
      )
    }
    scope.put<Named>(
      path,
      { config: { upload: true }, ...schema('Attach bytes, numbers from 1024 on; audited') },
      async (request, reply) => {
        const announced = Number(request.headers['content-length'] ?? 0)
        const made = await attachments.put(request.principal, ...nameOf(request), {
          bytes: chunksOf(request.raw),
          seen: seenRevision(request),
          ...(Number.isSafeInteger(announced) && { expectedBytes: announced }),
        })
        return reply.header('etag', entityTag(seenOf(made))).send({})
      },
    )
    scope.delete<Named>(path, schema('Remove an attachment; audited'), async (request, reply) => {
      await attachments.remove(request.principal, ...nameOf(request), seenRevision(request))
      return reply.type('text/plain').send('')
    })
    for (const [name, isCompressed] of [
      ['compress', true],
      ['uncompress', false],
    ] as const) {
      scope.post<Named>(`${path}/${name}`, schema(`Store an attachment ${name}ed; audited`), async request => {
        await attachments.setCompressed(request.principal, ...nameOf(request), isCompressed)
        return {}
      })
    }
    scope.post<Named>(`${path}/verify-md5`, schema('Are the stored bytes what they were?'), async request => {
      if (!(await attachments.verify(...nameOf(request)))) {
        throw new GatewayError('STORAGE_CORRUPT', 'the stored bytes are not what they were')
      }
      return {}
    })
  }
}

/** Answers 304 to who has it, else what `send` sends. */
function answer(
  request: FastifyRequest<Named>,
  reply: FastifyReply,
  attachment: Attachment,
  send: () => FastifyReply | Promise<FastifyReply>,
): FastifyReply | Promise<FastifyReply> {
  const current = seenOf(attachment)
  reply.header('etag', entityTag(current))
  return isKnown(request, current) ? reply.code(304).send() : send()
}

/** Of a large file of an instance the tag holds a part of its SHA-256: its MD5 would have to be read from all bytes. */
function seenOf({ revision, contentMd5, fileSha256 }: Attachment): SeenRevision {
  return { revision, md5: contentMd5 ?? fileSha256.toString('hex', 0, 16) }
}

async function* chunksOf(body: Readable): AsyncGenerator<Uint8Array> {
  for await (const chunks of requestBody(body)) yield* chunks
}
