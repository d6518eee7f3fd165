/** Orthanc's decoded images: previews, rendered frames, stored values, frames as they are stored, embedded PDF files. */

import { createGzip } from 'node:zlib'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { GatewayError, isGatewayError } from '../../errors.ts'
import type { OpenImage, PictureFormat, Rendering, RenderOptions } from '../../services/rendering.ts'
import { goneSignal } from '../gone.ts'
import { sendBytes, sendFile } from '../send-file.ts'
import { blankPicture, matlabText } from './image-texts.ts'
import { isSet } from './query-flag.ts'

/** What the routes need. */
export interface ImageServices {
  readonly rendering: Rendering
}

const tags = ['Orthanc']
const id = { type: 'string', maxLength: 64 } as const
const frame = { type: 'integer', minimum: 0, maximum: 0x7fffffff } as const
const instanceParams = { type: 'object', properties: { id }, required: ['id'] } as const
const frameParams = { type: 'object', properties: { id, frame }, required: ['id', 'frame'] } as const
const picture = {
  quality: { type: 'integer', minimum: 1, maximum: 100, description: 'Of JPEG; default 90' },
  returnUnsupportedImage: { type: 'string', description: 'A blank image instead of status 415' },
} as const
const side = { type: 'integer', minimum: 0, maximum: 16_384 } as const
const pictureQuery = { type: 'object', properties: picture } as const
const renderedQuery = {
  type: 'object',
  properties: {
    ...picture,
    width: { ...side, description: 'The picture fits into so many columns' },
    height: { ...side, description: 'The picture fits into so many rows' },
    smooth: { type: 'string', description: 'Interpolate' },
    'window-center': { type: 'number' },
    'window-width': { type: 'number', exclusiveMinimum: 0 },
  },
} as const
interface Query {
  readonly quality?: number
  readonly returnUnsupportedImage?: string
  readonly width?: number
  readonly height?: number
  readonly smooth?: string
  readonly 'window-center'?: number
  readonly 'window-width'?: number
}
interface Route {
  readonly Params: { readonly id: string; readonly frame?: number }
  readonly Querystring: Query
}
const modes = {
  preview: 'preview',
  rendered: 'rendered',
  'image-uint8': 'uint8',
  'image-uint16': 'uint16',
  'image-int16': 'int16',
} as const satisfies Record<string, RenderOptions['mode']>

const operations = [...Object.keys(modes), 'matlab', 'numpy', 'raw', 'raw.gz'].sort()

/** Registers the routes. */
export function imageRoutes(app: FastifyInstance, { rendering }: ImageServices): void {
  const withImage = async <T>(
    request: FastifyRequest,
    reply: FastifyReply,
    instance: string,
    work: (image: OpenImage, signal: AbortSignal) => Promise<T>,
  ): Promise<T> => {
    const signal = goneSignal(reply)
    const image = await rendering.open(request.principal, instance)
    try {
      return await work(image, signal)
    } finally {
      await image.close()
    }
  }

  const sendPicture = async (
    request: FastifyRequest<Route>,
    reply: FastifyReply,
    mode: RenderOptions['mode'],
  ): Promise<FastifyReply> => {
    const { params, query, headers } = request
    try {
      const options = { mode, format: acceptedFormat(headers.accept), ...optionsOf(query) }
      const picture = await rendering.render(
        request.principal,
        params.id,
        params.frame ?? 0,
        options,
        goneSignal(reply),
      )
      return reply.type(picture.mediaType).send(bufferOf(picture.bytes))
    } catch (error) {
      if (query.returnUnsupportedImage === undefined || !isGatewayError(error, 'PICTURE_UNSUPPORTED')) throw error
      return reply.type('image/png').send(bufferOf(blankPicture()))
    }
  }

  for (const [path, schema] of [
    ['/instances/:id', { tags, params: instanceParams }],
    ['/instances/:id/frames/:frame', { tags, params: frameParams }],
  ] as const) {
    const what = path.endsWith('frame') ? 'One frame' : 'The first frame'
    const options = (summary: string, querystring?: object) => ({
      exposeHeadRoute: false,
      schema: { ...schema, summary: `${what} ${summary}; audited`, ...(querystring && { querystring }) },
    })
    for (const [name, mode] of Object.entries(modes)) {
      app.get<Route>(
        `${path}/${name}`,
        options(`as a picture (${mode})`, mode === 'rendered' ? renderedQuery : pictureQuery),
        async (request, reply) => await sendPicture(request, reply, mode),
      )
    }
    app.get<Route>(`${path}/matlab`, options('for Matlab and Octave'), async (request, reply) => {
      const { id, frame = 0 } = request.params
      return await withImage(request, reply, id, async (image, signal) =>
        reply.type('text/plain').send(matlabText(await image.values(frame, 'stored', signal))),
      )
    })
  }

  app.get<Route>(
    '/instances/:id/frames',
    { schema: { tags, summary: 'Numbers of the frames; audited', params: instanceParams } },
    async (request, reply) =>
      await withImage(request, reply, request.params.id, async image =>
        Array.from({ length: image.frameCount }, (_, i) => i),
      ),
  )
  app.get(
    '/instances/:id/frames/:frame',
    { schema: { tags, summary: 'What can be done with a frame', params: frameParams } },
    async () => operations,
  )
  for (const name of ['raw', 'raw.gz'] as const) {
    app.get<Route>(
      `/instances/:id/frames/:frame/${name}`,
      { exposeHeadRoute: false, schema: { tags, summary: 'One frame as it is stored; audited', params: frameParams } },
      async (request, reply) => {
        const { id, frame = 0 } = request.params
        return await withImage(request, reply, id, async image => {
          const { bytes, transferSyntaxUid } = await image.stored(frame)
          if (name === 'raw') return await sendBytes(reply, rawType(transferSyntaxUid), bytes)
          const gzip = createGzip({ level: 1 })
          gzip.end(Buffer.from(bytes)) // a copy: it is read when the image is closed
          return reply.type('application/gzip').send(gzip)
        })
      },
    )
  }

  app.get<Route>(
    '/instances/:id/pdf',
    { exposeHeadRoute: false, schema: { tags, summary: 'The embedded PDF; audited', params: instanceParams } },
    async (request, reply) => {
      const { id } = request.params
      const { blob, fileSha256 } = await rendering.openPdf(request.principal, id)
      const sha256 = fileSha256.toString('hex')
      return await sendFile(request, reply, blob, { sha256, type: 'application/pdf', filename: `${id}.pdf` })
    },
  )
}

function optionsOf(query: Query): Omit<RenderOptions, 'mode' | 'format'> {
  const center = query['window-center']
  const width = query['window-width']
  return {
    quality: query.quality,
    // Orthanc takes 0 for no size.
    width: query.width || undefined,
    height: query.height || undefined,
    isSmooth: isSet(query.smooth),
    window: { ...(center !== undefined && { center }), ...(width !== undefined && { width }) },
  }
}

const formats: readonly (readonly [string, PictureFormat])[] = [
  ['image/png', 'png'],
  ['image/jpeg', 'jpeg'],
  ['image/x-portable-arbitrarymap', 'pam'],
]

/** The format that Accept prefers, PNG when there is none (RFC 9110 §12.5.1). @throws GatewayError TRANSCODE_UNSUPPORTED */
function acceptedFormat(accept: string | undefined): PictureFormat {
  if (accept === undefined || accept.trim() === '') return 'png'
  let best: { readonly format: PictureFormat; readonly weight: number } | undefined
  for (const range of accept.split(',')) {
    const [type = '', ...parameters] = range.split(';').map(part => part.trim().toLowerCase())
    const quality = parameters.find(parameter => parameter.startsWith('q='))
    const weight = quality === undefined ? 1 : Number(quality.slice(2))
    const found = formats.find(([name]) => type === name || type === '*/*' || type === 'image/*')
    if (found && weight > 0 && weight > (best?.weight ?? 0)) best = { format: found[1], weight }
  }
  if (best) return best.format
  throw new GatewayError('TRANSCODE_UNSUPPORTED', 'pictures are PNG, JPEG or PAM')
}

/** The media types that Orthanc gives to frames as they are stored: JPEG Baseline and JPEG 2000 have one. */
function rawType(transferSyntaxUid: string): string {
  if (transferSyntaxUid === '1.2.840.10008.1.2.4.50') return 'image/jpeg'
  return /^1\.2\.840\.10008\.1\.2\.4\.9[0-3]$/.test(transferSyntaxUid) ? 'image/jp2' : 'application/octet-stream'
}

const bufferOf = (bytes: Uint8Array): Buffer => Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
