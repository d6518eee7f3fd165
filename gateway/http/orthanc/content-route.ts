/** `/instances/{id}/content/…`: the raw value of one element, reached through sequences by name or tag and index. */
import { Readable } from 'node:stream'
import type { FastifyInstance, FastifyReply } from 'fastify'
import type { ByteSource } from '../../dicom/byte-source.ts'
import { type ByteRange, type Dataset, type Element, findElement, numbersOf } from '../../dicom/dataset.ts'
import { inflateSource } from '../../dicom/inflate-source.ts'
import { readPart10 } from '../../dicom/part10-reader.ts'
import { formatTag, type Tag } from '../../dicom/tag.ts'
import { GatewayError } from '../../errors.ts'
import type { Retrieve } from '../../services/retrieve.ts'
import { readTag } from './details.ts'
import { idParams } from './navigation.ts'

const pixelData: Tag = 0x7fe00010
const numberOfFrames: Tag = 0x00280008
const chunkBytes = 256 * 1024
/** A deflated data set may not inflate beyond this. */
const maxInflatedBytes = 4_294_967_296

/** What a path leads to: names of what is below, or bytes. */
type Found = { readonly names: readonly string[] } | { readonly range: ByteRange }

/** Registers the routes. */
export function contentRoutes(
  app: FastifyInstance,
  { retrieve }: { readonly retrieve: Pick<Retrieve, 'openInstance'> },
): void {
  const schema = { tags: ['Orthanc'], params: idParams }
  app.get<{ Params: { id: string } }>(
    '/instances/:id/content',
    { schema: { ...schema, summary: 'The elements of the data set; audited' } },
    async (request, reply) => await send(reply, request.principal, request.params.id, []),
  )
  app.get<{ Params: { id: string; '*': string } }>(
    '/instances/:id/content/*',
    { schema: { ...schema, summary: 'The raw value of one element; audited' } },
    async (request, reply) =>
      await send(
        reply,
        request.principal,
        request.params.id,
        request.params['*'].split('/').filter(part => part !== ''),
      ),
  )

  async function send(
    reply: FastifyReply,
    principal: Parameters<Retrieve['openInstance']>[0],
    id: string,
    path: readonly string[],
  ): Promise<FastifyReply> {
    await using open = new AsyncDisposableStack()
    const { blob } = await retrieve.openInstance(principal, id)
    open.defer(() => blob.close())
    // Values stay where they are, but for the short ones that say how the rest is to be read.
    const { dataset, isDeflated, datasetOffset } = await readPart10(blob, { maxValueBytes: 256 })
    const found = follow(dataset, path)
    if ('names' in found) return reply.send(found.names)
    const source = isDeflated ? open.use(inflateSource(blob, datasetOffset, maxInflatedBytes)) : blob
    const closing = open.move()
    const body = Readable.from(bytesOf(source, found.range), { objectMode: false })
    body.once('close', () => void closing.disposeAsync())
    return reply.type('application/octet-stream').header('content-length', found.range.length).send(body)
  }
}

function follow(dataset: Dataset, path: readonly string[]): Found {
  const [name, index, ...rest] = path
  if (name === undefined) return { names: dataset.elements.map(element => dashed(element.tag)) }
  const element = findElement(dataset, readTag(name))
  if (!element) throw missing()
  const { items, fragments } = element
  if (items) {
    if (index === undefined) return { names: items.map((_, place) => String(place)) }
    const item = /^\d{1,9}$/.test(index) ? items[Number(index)] : undefined
    if (!item) throw missing()
    return follow(item, rest)
  }
  if (rest.length > 0) throw missing()
  if (fragments) return pick(fragments, index)
  if (element.tag === pixelData) return pick(framesOf(element, dataset), index)
  if (index !== undefined) throw missing()
  return { range: rangeOf(element) }
}

/** The parts of pixel data by place: as names, or one of them. */
function pick(parts: readonly ByteRange[], index: string | undefined): Found {
  if (index === undefined) return { names: parts.map((_, place) => String(place)) }
  const part = /^\d{1,9}$/.test(index) ? parts[Number(index)] : undefined
  if (!part) throw missing()
  return { range: part }
}

/** The frames of native pixel data, which follow each other without gaps (PS3.5 §8.1.1). */
function framesOf(element: Element, dataset: Dataset): ByteRange[] {
  const [declared = 1] = numbersOf(dataset, numberOfFrames)
  const { offset, length } = rangeOf(element)
  const frames = Number.isSafeInteger(declared) && declared > 0 && declared <= length ? declared : 1
  const [rows = 0] = numbersOf(dataset, 0x00280010)
  const [columns = 0] = numbersOf(dataset, 0x00280011)
  const [samples = 1] = numbersOf(dataset, 0x00280002)
  const [bits = 0] = numbersOf(dataset, 0x00280100)
  const size = frames === 1 ? length : Math.ceil((rows * columns * samples * bits) / 8)
  if (size * frames > length) throw new GatewayError('DICOM_UNREADABLE', 'the pixel data are shorter than their frames')
  return Array.from({ length: frames }, (_, place) => ({ offset: offset + place * size, length: size }))
}

const rangeOf = ({ valueOffset, length }: Element): ByteRange => ({ offset: valueOffset, length })
const dashed = (tag: Tag): string =>
  formatTag(tag)
    .toLowerCase()
    .replace(/^(.{4})/, '$1-')
const missing = (): GatewayError => new GatewayError('NOT_FOUND', 'no such element')

async function* bytesOf(source: ByteSource, { offset, length }: ByteRange): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < length; ) {
    const bytes = await source.read(offset + at, Math.min(chunkBytes, length - at))
    if (bytes.length === 0) throw new GatewayError('STORAGE_CORRUPT', 'a blob became shorter while it was read')
    yield Buffer.from(bytes)
    at += bytes.length
  }
}
