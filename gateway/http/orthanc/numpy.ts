/** Frames, instances and series as arrays of numpy: `.npy`, or `.npz` with one array where `compress` is asked for. */
import { crc32 } from 'node:zlib'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import type { Db } from '../../db/db.ts'
import { GatewayError } from '../../errors.ts'
import type { Principal } from '../../principal.ts'
import type { FrameValues, Rendering } from '../../services/rendering.ts'
import { deflated } from '../../zip/zip-content.ts'
import { ZipWriter } from '../../zip/zip-writer.ts'
import { sendChunks } from '../send-chunks.ts'
import { numpyHeader } from './image-texts.ts'
import { isSet } from './query-flag.ts'
import { orderedSlices } from './slices.ts'

/** What the routes need. */
export interface NumpyServices {
  readonly db: Db
  readonly rendering: Rendering
}

interface Route {
  readonly Params: { readonly id: string; readonly frame?: number }
  readonly Querystring: { readonly rescale: string; readonly compress?: string }
}

/** Frames of an instance, in the order of the array. */
interface Part {
  readonly id: string
  /** Undefined: as many as the instance has. */
  readonly frames: number | undefined
}

const tags = ['Orthanc']
const type = 'application/octet-stream'
/** Orthanc's name of the array in an archive. */
const arrayName = 'arr_0'
const id = { type: 'string', maxLength: 64 } as const
const frame = { type: 'integer', minimum: 0, maximum: 0x7fffffff } as const
const params = { type: 'object', properties: { id }, required: ['id'] } as const
const querystring = {
  type: 'object',
  properties: {
    rescale: { type: 'string', default: '1', description: 'Rescaled floats, or stored values' },
    compress: { type: 'string', description: 'As .npz' },
  },
} as const

/** Registers the routes. */
export function numpyRoutes(app: FastifyInstance, { db, rendering }: NumpyServices): void {
  const answer = (summary: string, given: object = params) => ({
    exposeHeadRoute: false,
    schema: { tags, summary: `${summary} for numpy; audited`, params: given, querystring },
  })
  const ofFrame = { type: 'object', properties: { id, frame }, required: ['id', 'frame'] }

  app.get<Route>('/instances/:id/frames/:frame/numpy', answer('One frame', ofFrame), async (request, reply) => {
    const { id, frame = 0 } = request.params
    return await sendChunks(reply, { type }, signal => formOf(request, oneFrame(rendering, request, id, frame, signal)))
  })
  app.get<Route>('/instances/:id/numpy', answer('All frames'), async (request, reply) => {
    const parts = [{ id: request.params.id, frames: undefined }]
    return await sendChunks(reply, { type }, signal => formOf(request, volume(rendering, request, parts, signal)))
  })
  app.get<Route>(
    '/series/:id/numpy',
    answer('All frames of a series, in the order of its slices,'),
    async (request, reply) => {
      const { ordered } = await orderedSlices(db, request.params.id)
      return await sendChunks(reply, { type }, signal => formOf(request, volume(rendering, request, ordered, signal)))
    },
  )
}

/** An array: its header, then its samples in chunks of one frame each. */
interface ArrayChunks {
  readonly header: Uint8Array
  readonly sizeBytes: number
  readonly samples: AsyncIterable<Uint8Array>
}

type Making = AsyncGenerator<ArrayChunks, void, void>

async function* oneFrame(
  rendering: Rendering,
  request: FastifyRequest<Route>,
  id: string,
  frame: number,
  signal: AbortSignal,
): Making {
  const image = await rendering.open(request.principal, id)
  try {
    const values = await image.values(frame, scaleOf(request), signal)
    const header = numpyHeader(values)
    yield { header, sizeBytes: header.length + values.bytes.length, samples: only(values.bytes) }
  } finally {
    await image.close()
  }
}

/** Frames of several instances, one instance open at a time. */
async function* volume(
  rendering: Rendering,
  request: FastifyRequest<Route>,
  parts: readonly Part[],
  signal: AbortSignal,
): Making {
  const all = framesOf(rendering, request.principal, parts, scaleOf(request), signal)
  try {
    const begun = await all.next()
    if (begun.done) throw new GatewayError('PICTURE_UNSUPPORTED', 'there are no frames')
    const { values: first, count } = begun.value
    const header = numpyHeader(first, count)
    const samples = (async function* () {
      yield first.bytes
      for await (const { values } of all) {
        if (!isAlike(values, first)) throw new GatewayError('PICTURE_UNSUPPORTED', 'the frames differ in size or type')
        yield values.bytes
      }
    })()
    yield { header, sizeBytes: header.length + count * first.bytes.length, samples }
  } finally {
    await all.return()
  }
}

async function* framesOf(
  rendering: Rendering,
  principal: Principal,
  parts: readonly Part[],
  scale: 'rescaled' | 'stored',
  signal: AbortSignal,
): AsyncGenerator<{ readonly values: FrameValues; readonly count: number }, void, void> {
  const known = parts.reduce((sum, { frames = 0 }) => sum + frames, 0)
  for (const { id, frames } of parts) {
    const image = await rendering.open(principal, id)
    try {
      const { frameCount } = image
      if (frames !== undefined && frames !== frameCount) {
        throw new GatewayError('PICTURE_UNSUPPORTED', 'an instance has another number of frames than it says')
      }
      for (let frame = 0; frame < frameCount; frame++) {
        yield { values: await image.values(frame, scale, signal), count: known || frameCount }
      }
    } finally {
      await image.close()
    }
  }
}

/** The bytes of the answer. */
async function* formOf({ query }: FastifyRequest<Route>, making: Making): AsyncGenerator<Uint8Array, void, void> {
  for await (const { header, sizeBytes, samples } of making) {
    const plain = (async function* () {
      yield header
      yield* samples
    })()
    if (isSet(query.compress)) yield* archived(plain, sizeBytes)
    else yield* plain
  }
}

async function* archived(chunks: AsyncIterable<Uint8Array>, sizeBytes: number): AsyncGenerator<Uint8Array, void, void> {
  const writer = new ZipWriter(new Date())
  const { header, ending } = writer.deflating(arrayName, sizeBytes)
  let [checksum, compressedBytes] = [0, 0]
  const summed = async function* (): AsyncGenerator<Uint8Array> {
    for await (const chunk of chunks) {
      checksum = crc32(chunk, checksum)
      yield chunk
    }
  }
  // The first frame is drawn before anything is sent: what cannot be drawn is answered with its status.
  const packed = deflated(summed())
  const first = await packed.next()
  yield header
  for (let next = first; !next.done; next = await packed.next()) {
    compressedBytes += next.value.length
    yield next.value
  }
  yield ending(checksum, compressedBytes)
  yield* writer.end()
}

async function* only(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield bytes
}

const isAlike = (one: FrameValues, other: FrameValues): boolean =>
  one.rows === other.rows && one.columns === other.columns && one.channels === other.channels && one.type === other.type

const scaleOf = ({ query }: FastifyRequest<Route>): 'rescaled' | 'stored' =>
  isSet(query.rescale) ? 'rescaled' : 'stored'
