/** `POST /instances`: a DICOM file, a ZIP archive or a form as the body, streamed to ingest; the answer is Orthanc's. */
import type { FastifyInstance, FastifyRequest } from 'fastify'
import type { Db } from '../../db/db.ts'
import { readMultipart } from '../../dicom/multipart.ts'
import { GatewayError } from '../../errors.ts'
import type { Ingest, IngestResult } from '../../services/ingest.ts'
import { type PieceOf, PiecewiseUploads } from '../../services/piecewise-uploads.ts'
import { storeFile } from '../../services/upload.ts'
import { peek, storeArchive, storeIfDicom } from '../../services/upload-many.ts'
import type { Origin } from '../../store/origin.ts'
import { loadAncestors } from '../../store/query.ts'
import { drain } from '../drain.ts'
import { decodedBody, requestBody } from './request-body.ts'

export interface Upload {
  readonly db: Db
  readonly ingest: Ingest
  readonly limitBytes: number
  /** Uploads at the same time; further ones wait with their body unread. */
  readonly concurrency: number
  /** What is stored already is answered as stored anew, as an Orthanc that overwrites does. */
  readonly overwrites?: boolean
}

/**
 * `Success` and `AlreadyStored` are Orthanc's. `Conflict` is ours: the SOP Instance UID is known with
 * other content; the bytes are held as conflict `HeldConflict` (`/api/v1/conflicts`) and the stored
 * instance is unchanged. `Variant`: likewise, in another transfer syntax.
 */
const statusOf: Record<IngestResult['kind'], string> = {
  stored: 'Success',
  duplicate: 'AlreadyStored',
  conflict: 'Conflict',
  variant: 'Variant',
}

const uploadSchema = {
  tags: ['Orthanc'],
  summary: 'Store one DICOM file, sent as the body; or those of a ZIP archive or a form',
  description:
    'A ZIP archive or a form (multipart/form-data) is answered by a list; files that are no DICOM are passed over. ' +
    'Status is Success or AlreadyStored as in Orthanc. Conflict: the SOP Instance UID is stored with other content; ' +
    'these bytes are held as conflict HeldConflict (/api/v1/conflicts) and the stored instance is unchanged. ' +
    'Variant: the same in another transfer syntax. All four mean that the bytes are durable.',
  consumes: ['application/dicom', 'application/zip', 'multipart/form-data'],
}

/** Registers the route in a scope of its own, where bodies of every media type are left as streams. */
export function uploadRoute(app: FastifyInstance, upload: Upload): void {
  const { db, ingest, limitBytes, overwrites = false } = upload
  const gate = openGate(upload.concurrency)
  const pieces = new PiecewiseUploads()
  app.register(async scope => {
    scope.removeAllContentTypeParsers()
    scope.addContentTypeParser('*', (_request, payload, done) => done(null, payload))
    scope.post('/instances', { config: { upload: true }, schema: uploadSchema }, async request => {
      const { principal } = request
      using _place = await gate.enter()
      const origin: Origin = {
        kind: 'rest',
        principal: principal.id,
        ...(principal.address && { remoteAddress: principal.address }),
      }
      const many = { ingest, origin, limitBytes }
      const store = async (content: AsyncIterable<Uint8Array>): Promise<IngestResult[]> => {
        const { isZip, bytes } = await peek(content)
        if (isZip) return await storeArchive(bytes, many)
        const result = await storeIfDicom(bytes, many)
        return result ? [result] : []
      }
      try {
        const boundary = formBoundary(request.headers['content-type'])
        if (boundary !== undefined) {
          const results: IngestResult[] = []
          const body = closed(chunksOf(requestBody(decodedBody(request.raw))))
          for await (const { content } of readMultipart(body, boundary)) {
            const of = pieceOf(request)
            results.push(...((of ? await pieces.take(of, content, store) : await store(content)) ?? []))
          }
          return await answersOf(db, overwrites, results)
        }
        // Before a byte is waited for.
        const announced = Number(request.headers['content-length'] ?? 0)
        if (announced > limitBytes) throw new GatewayError('TOO_LARGE', `expected at most ${limitBytes} bytes`)
        const { isZip, bytes } = await peek(requestBody(decodedBody(request.raw)))
        if (isZip) {
          const results = await storeArchive(bytes, many)
          return await answersOf(db, overwrites, results)
        }
        const limits = { limitBytes, ...(Number.isSafeInteger(announced) && { expectedBytes: announced }) }
        return await answerOf(db, overwrites, await storeFile(ingest, bytes, origin, limits))
      } catch (error) {
        await drain(request.raw)
        throw error
      }
    })
  })
}

async function answersOf(db: Db, overwrites: boolean, results: readonly IngestResult[]) {
  const answers = []
  for (const result of results) answers.push(await answerOf(db, overwrites, result))
  return answers
}

async function answerOf(db: Db, overwrites: boolean, result: IngestResult) {
  const { orthancId } = result.instance
  const parents = await loadAncestors(db, orthancId)
  return {
    ID: orthancId,
    ParentPatient: parents?.patient,
    ParentSeries: parents?.series,
    ParentStudy: parents?.study,
    Path: `/instances/${orthancId}`,
    Status: overwrites && result.kind === 'duplicate' ? statusOf.stored : statusOf[result.kind],
    ...('held' in result && { HeldConflict: result.held }),
  }
}

/** Widgets that send a file in pieces name it and its whole size. */
function pieceOf({ headers, principal }: FastifyRequest): PieceOf | undefined {
  const [name, size] = [headers['x-file-name'], headers['x-file-size']]
  if (typeof name !== 'string' || typeof size !== 'string') return undefined
  return { principal: principal.id, name, sizeBytes: Number(size) }
}

/** The boundary of a form's body; undefined for other bodies. @throws GatewayError BAD_REQUEST */
function formBoundary(contentType: string | undefined): string | undefined {
  if (!/^multipart\/form-data\b/i.test(contentType ?? '')) return undefined
  const found = /;\s*boundary\s*=\s*(?:"([^"]+)"|([^\s;]+))/i.exec(contentType ?? '')
  const boundary = found?.[1] ?? found?.[2]
  if (boundary === undefined) throw new GatewayError('BAD_REQUEST', 'expected a boundary in the content type')
  return boundary
}

/** Uploads of browsers may leave out the hyphens behind the last boundary; more behind them is passed over. */
async function* closed(body: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  yield* body
  yield Buffer.from('--\r\n')
}

async function* chunksOf(groups: AsyncIterable<readonly Uint8Array[]>): AsyncGenerator<Uint8Array> {
  for await (const group of groups) yield* group
}

/** Lets `places` in at a time, first come first served. */
export function openGate(places: number): { enter(): Promise<Disposable> } {
  let free = places
  const waiting: (() => void)[] = []
  const leave = (): void => {
    const next = waiting.shift()
    if (next) next()
    else free++
  }
  return {
    async enter() {
      if (free > 0) free--
      else await new Promise<void>(resolve => waiting.push(resolve))
      return { [Symbol.dispose]: leave }
    },
  }
}
