/** STOW-RS: the store transaction, DICOM PS3.18 §10.5. Parts go straight into staging. */
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { isObject } from '../../decode.ts'
import type { DicomJson } from '../../dicom/json.ts'
import { type MediaType, parseMediaType } from '../../dicom/media-type.ts'
import { type ReceivedPart, readMultipart } from '../../dicom/multipart.ts'
import { toXml } from '../../dicom/xml.ts'
import { fromXml } from '../../dicom/xml-read.ts'
import { GatewayError } from '../../errors.ts'
import { type BulkParts, openBulkParts } from '../../services/bulk-parts.ts'
import { gather } from '../../services/gather.ts'
import type { Ingest } from '../../services/ingest.ts'
import { openStoreSession, type StoreSession } from '../../services/store-session.ts'
import { drain } from '../drain.ts'
import { openGate } from '../orthanc/upload-route.ts'
import { baseUrlOf, type ServicePlace } from './base-url.ts'
import { formatOf } from './data-sets.ts'
import { reportDataset, reportStatus } from './store-report.ts'
import { uidParams } from './uids.ts'

/** What the routes need. */
export interface StoreServices {
  readonly ingest: Ingest
  /** Largest instance that is taken, in bytes. */
  readonly limitBytes: number
  /** Requests at the same time; further ones wait with their body unread. */
  readonly concurrency: number
  readonly place: ServicePlace
}

type StoreRequest = FastifyRequest<{ Params: Record<string, string>; Querystring: Record<string, string | string[]> }>

const routes = [
  { url: '/studies', summary: 'Store instances' },
  { url: '/studies/:study', summary: 'Store instances of a study; others are refused' },
] as const
const description =
  'multipart/related of type application/dicom, or of application/dicom+json or application/dicom+xml with bulk data ' +
  'by Content-Location; or one of them alone. The answer tells what became of each instance: 200 all stored, 202 not ' +
  'all or with warnings, 409 none. A SOP Instance UID that is stored with other content fails with 273 (0111H), its ' +
  'bytes are kept as a conflict; the same content in another transfer syntax is a warning. Audited.'
/** What is taken from the connection at once, at most about that. */
const groupBytes = 1024 * 1024
const maxMetadataBytes = 32 * 1024 * 1024
const dicom = 'application/dicom'
const metadataTypes: ReadonlySet<string> = new Set([
  'application/dicom+json',
  'application/dicom+xml',
  'application/json',
])

/** Registers the routes in a scope of its own, where bodies are left as streams. */
export function storeRoutes(app: FastifyInstance, services: StoreServices): void {
  const gate = openGate(services.concurrency)
  app.register(async scope => {
    scope.removeAllContentTypeParsers()
    scope.addContentTypeParser('*', (_request, payload, done) => done(null, payload))
    for (const { url, summary } of routes) {
      scope.post<{ Params: Record<string, string>; Querystring: Record<string, string | string[]> }>(
        url,
        {
          config: { upload: true, action: 'study.store' },
          schema: { tags: ['DICOMweb'], summary, description, ...uidParams(url) },
        },
        async (request, reply) => {
          const format = formatOf(request)
          const type = mediaTypeOf(request)
          using _place = await gate.enter()
          try {
            return await answer(services, request, reply, { type, format })
          } catch (error) {
            await drain(request.raw)
            throw error
          }
        },
      )
    }
  })
}

async function answer(
  services: StoreServices,
  request: StoreRequest,
  reply: FastifyReply,
  { type, format }: { readonly type: MediaType; readonly format: 'json' | 'xml' },
): Promise<FastifyReply> {
  const { ingest, limitBytes, place } = services
  const session = openStoreSession(request.principal, {
    ingest,
    limitBytes,
    studyInstanceUid: request.params['study'],
  })
  try {
    await receive(services, type, bodyOf(request), session)
  } catch (error) {
    // What came before it may be stored all the same.
    await session.finish()
    throw error
  }
  const outcomes = await session.finish()
  if (outcomes.length === 0) throw new GatewayError('BAD_REQUEST', 'expected at least one instance')
  const dataset = reportDataset(outcomes, baseUrlOf(request, place))
  reply.code(reportStatus(outcomes))
  return format === 'json'
    ? reply.type('application/dicom+json').send(Buffer.from(JSON.stringify(dataset)))
    : reply.type('application/dicom+xml').send(Buffer.from(toXml(dataset)))
}

/** @throws GatewayError MEDIA_TYPE for what is no store transaction */
function mediaTypeOf(request: StoreRequest): MediaType {
  const type = parseMediaType(request.headers['content-type'] ?? '')
  const inner = type?.name === 'multipart/related' ? type.parameters.get('type')?.toLowerCase() : type?.name
  const isKnown = inner === undefined ? type !== undefined : inner === dicom || metadataTypes.has(inner)
  if (type && isKnown) return type
  throw new GatewayError('MEDIA_TYPE', 'expected application/dicom, application/dicom+json or application/dicom+xml')
}

async function* bodyOf(request: StoreRequest): AsyncGenerator<Uint8Array> {
  try {
    for await (const group of gather(request.raw, groupBytes))
      yield group.length === 1 ? (group[0] ?? empty) : Buffer.concat(group)
  } catch (cause) {
    throw new GatewayError('BAD_REQUEST', 'the upload broke off', { cause })
  }
}
const empty = new Uint8Array(0)

async function receive(
  services: StoreServices,
  type: MediaType,
  body: AsyncIterable<Uint8Array>,
  session: StoreSession,
): Promise<void> {
  if (type.name === dicom) return await session.file(body)
  const bulk = openBulkParts(services.ingest, services.limitBytes)
  try {
    const datasets: DicomJson[] = []
    if (type.name !== 'multipart/related') datasets.push(...(await readMetadata(type.name, body)))
    else await receiveParts(type, body, session, { bulk, datasets })
    for (const dataset of datasets) await session.dataset(dataset, bulk)
  } finally {
    await bulk.close()
  }
}

/** Instances are stored as they come; metadata wait for the bulk data that come after them. */
async function receiveParts(
  type: MediaType,
  body: AsyncIterable<Uint8Array>,
  session: StoreSession,
  { bulk, datasets }: { readonly bulk: BulkParts; readonly datasets: DicomJson[] },
): Promise<void> {
  const named = type.parameters.get('type')?.toLowerCase() ?? dicom
  let metadataBytes = 0
  for await (const part of readMultipart(body, type.parameters.get('boundary') ?? '')) {
    const own = parseMediaType(part.headers.get('content-type') ?? '') ?? { name: named, parameters: new Map() }
    const uri = uriOf(part)
    if (own.name === dicom) await session.file(part.content)
    else if (metadataTypes.has(own.name)) {
      const { bytes } = await collect(part.content, maxMetadataBytes - metadataBytes)
      metadataBytes += bytes.length
      datasets.push(...parseMetadata(own.name, bytes))
    } else if (uri !== undefined && named !== dicom) {
      await bulk.add(uri, part.content, own.parameters.get('transfer-syntax'))
    } else throw new GatewayError('MEDIA_TYPE', 'expected parts of the media type that the body says')
  }
}

function uriOf({ headers }: ReceivedPart): string | undefined {
  const id = headers.get('content-id')?.replace(/^<(.*)>$/, 'cid:$1')
  return headers.get('content-location') ?? id
}

async function readMetadata(type: string, content: AsyncIterable<Uint8Array>): Promise<DicomJson[]> {
  return parseMetadata(type, (await collect(content, maxMetadataBytes)).bytes)
}

async function collect(content: AsyncIterable<Uint8Array>, limitBytes: number): Promise<{ bytes: Buffer }> {
  const chunks: Uint8Array[] = []
  let left = limitBytes
  for await (const chunk of content) {
    left -= chunk.length
    if (left < 0) throw new GatewayError('TOO_LARGE', `expected at most ${maxMetadataBytes} bytes of metadata`)
    chunks.push(chunk)
  }
  return { bytes: Buffer.concat(chunks) }
}

/** Data sets as they stand; what is in them is checked when they are written. @throws GatewayError BAD_REQUEST */
export function parseMetadata(type: string, bytes: Buffer): DicomJson[] {
  if (type === 'application/dicom+xml') return [fromXml(bytes.toString())].filter(isDataset)
  let parsed: unknown
  try {
    parsed = JSON.parse(bytes.toString())
  } catch (cause) {
    throw new GatewayError('BAD_REQUEST', 'expected DICOM JSON', { cause })
  }
  const list: unknown[] = Array.isArray(parsed) ? parsed : [parsed]
  if (!list.every(isDataset)) throw new GatewayError('BAD_REQUEST', 'expected DICOM JSON')
  return list
}

/** The outer form; `fromJson` checks the values. */
function isDataset(raw: unknown): raw is DicomJson {
  return (
    isObject(raw) && Object.entries(raw).every(([name, element]) => /^[0-9A-F]{8}$/.test(name) && isElement(element))
  )
}

function isElement(raw: unknown): boolean {
  if (!isObject(raw) || typeof raw['vr'] !== 'string') return false
  const { Value: values, BulkDataURI: uri } = raw
  return (values === undefined || Array.isArray(values)) && (uri === undefined || typeof uri === 'string')
}
