/** Answers that are lists of data sets: a JSON array, or native model documents as parts; streamed. */
import { randomBytes } from 'node:crypto'
import { Readable } from 'node:stream'
import type { FastifyReply, FastifyRequest } from 'fastify'
import type { DicomJson } from '../../dicom/json.ts'
import { type MetadataFormat, metadataFormat, parseAccept } from '../../dicom/media-type.ts'
import { toXml } from '../../dicom/xml.ts'
import { GatewayError } from '../../errors.ts'

/** The Accept of a request: the query parameter of PS3.18 §8.3.3.1 goes before the header. */
export function acceptOf(request: FastifyRequest<{ Querystring: { readonly accept?: unknown } }>): string | undefined {
  const { accept } = request.query
  return typeof accept === 'string' ? accept : request.headers.accept
}

/** How the data sets are to be written. @throws GatewayError NOT_ACCEPTABLE, BAD_REQUEST */
export function formatOf(request: FastifyRequest<{ Querystring: { readonly accept?: unknown } }>): MetadataFormat {
  const format = metadataFormat(parseAccept(acceptOf(request)))
  if (format) return format
  throw new GatewayError('NOT_ACCEPTABLE', 'expected application/dicom+json or application/dicom+xml to be accepted')
}

/** Sends a few data sets at once. */
export async function sendDataSetPage(
  reply: FastifyReply,
  format: MetadataFormat,
  page: readonly DicomJson[],
): Promise<FastifyReply> {
  if (format === 'json') return reply.type('application/dicom+json').send(Buffer.from(JSON.stringify(page)))
  return sendDataSets(
    reply,
    format,
    (async function* () {
      yield page
    })(),
  )
}

/** Sends data sets as they come. Nothing is kept; `pages` is closed when the client goes away. */
export function sendDataSets(
  reply: FastifyReply,
  format: MetadataFormat,
  pages: AsyncIterable<readonly DicomJson[]>,
): FastifyReply {
  if (format === 'json') {
    return reply.type('application/dicom+json').send(Readable.from(jsonArray(pages)))
  }
  const boundary = randomBytes(16).toString('hex')
  return reply
    .type(`multipart/related; type="application/dicom+xml"; boundary=${boundary}`)
    .send(Readable.from(xmlParts(pages, boundary)))
}

async function* jsonArray(pages: AsyncIterable<readonly DicomJson[]>): AsyncGenerator<string> {
  let separator = '['
  for await (const page of pages) {
    if (page.length === 0) continue
    // One call for the page: a call for each costs as much as the text.
    yield separator + JSON.stringify(page).slice(1, -1)
    separator = ','
  }
  yield separator === '[' ? '[]' : ']'
}

async function* xmlParts(pages: AsyncIterable<readonly DicomJson[]>, boundary: string): AsyncGenerator<string> {
  for await (const page of pages) {
    let text = ''
    for (const dataset of page) {
      text += `--${boundary}\r\ncontent-type: application/dicom+xml\r\n\r\n${toXml(dataset)}\r\n`
    }
    if (text !== '') yield text
  }
  yield `--${boundary}--\r\n`
}
