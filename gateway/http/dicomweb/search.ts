/** QIDO-RS: the search transaction, DICOM PS3.18 §10.6. */

import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import type { DicomJson } from '../../dicom/json.ts'
import type { Tag } from '../../dicom/tag.ts'
import type { Query } from '../../services/query.ts'
import type { Match } from '../../store/search.ts'
import { goneSignal } from '../gone.ts'
import { baseUrlOf, type ServicePlace } from './base-url.ts'
import { formatOf, sendDataSetPage, sendDataSets } from './data-sets.ts'
import { resultTags, resultWriter } from './results.ts'
import { type QueryString, readSearch } from './search-query.ts'
import { pathUids, uidParams } from './uids.ts'

/** What the routes need. */
export interface SearchServices {
  readonly query: Query
  readonly place: ServicePlace
}

type SearchRequest = FastifyRequest<{ Querystring: Record<string, string | string[]>; Params: Record<string, string> }>

const tags = ['DICOMweb']
const routes = [
  { url: '/studies', level: 'study', summary: 'Search for studies' },
  { url: '/series', level: 'series', summary: 'Search for series' },
  { url: '/instances', level: 'instance', summary: 'Search for instances' },
  { url: '/studies/:study/series', level: 'series', summary: 'Search for the series of a study' },
  { url: '/studies/:study/instances', level: 'instance', summary: 'Search for the instances of a study' },
  {
    url: '/studies/:study/series/:series/instances',
    level: 'instance',
    summary: 'Search for the instances of a series',
  },
] as const

type SearchLevel = (typeof routes)[number]['level']

const description =
  'Parameters are attributes by keyword or tag, with paths into sequences, and includefield, fuzzymatching, limit and ' +
  'offset (PS3.18 §8.3.4). The answer is application/dicom+json or multipart application/dicom+xml; 204 when nothing ' +
  'matches. A Warning header tells how many matches follow. Audited.'

/** Registers the routes. */
export function searchRoutes(app: FastifyInstance, services: SearchServices): void {
  for (const { url, level, summary } of routes) {
    app.get<{ Querystring: Record<string, string | string[]>; Params: Record<string, string> }>(
      url,
      { config: { action: 'study.search' }, schema: { tags, summary, description, ...uidParams(url) } },
      (request, reply) => answer(services, level, request, reply),
    )
  }
}

async function answer(
  { query, place }: SearchServices,
  level: SearchLevel,
  request: SearchRequest,
  reply: FastifyReply,
): Promise<FastifyReply> {
  const format = formatOf(request)
  const scope: ReadonlyMap<Tag, string> = pathUids(request.params)
  const { spec, included, offset, limit, unused } = readSearch(level, queryOf(request), scope)
  const returned = resultTags(level, scope, included)
  const options = {
    returned,
    offset,
    signal: goneSignal(reply),
    // Of studies the latest ones come first: a list that is cut shows what has just been made.
    order: level === 'study' ? ('newest-first' as const) : ('oldest-first' as const),
  }
  if (unused.length > 0) warn(reply, `parameters that this search does not match by: ${unused.join(', ')}`)
  let found: AsyncIterable<readonly Match[]>
  if (limit === undefined) found = query.find(request.principal, spec, options)
  else {
    const part = await query.findPart(request.principal, spec, { ...options, limit })
    found = part.matches
    if (part.remaining > 0) {
      const number = part.isCounted ? part.remaining : `at least ${part.remaining}`
      warn(reply, `There are ${number} additional results that can be requested`)
    }
  }
  const matches = found[Symbol.asyncIterator]()
  const first = await firstOf(matches)
  if (!first) return reply.code(204).send()
  const write = resultWriter({ level, tags: returned, included, baseUrl: baseUrlOf(request, place) })
  // A page comes whole, and a stream would cost as much again as the page.
  if (limit !== undefined && first.length === limit) {
    return await sendDataSetPage(
      reply,
      format,
      first.map(({ attributes }) => write(attributes)),
    )
  }
  return sendDataSets(reply, format, results(first, matches, write))
}

/** A query string that is parsed has texts and lists of texts only. */
function queryOf(request: SearchRequest): QueryString {
  return request.query
}

async function firstOf(matches: AsyncIterator<readonly Match[]>): Promise<readonly Match[] | undefined> {
  for (;;) {
    const { done, value } = await matches.next()
    if (done) return undefined
    if (value.length > 0) return value
  }
}

async function* results(
  first: readonly Match[],
  rest: AsyncIterator<readonly Match[]>,
  write: (attributes: DicomJson) => DicomJson,
): AsyncGenerator<DicomJson[]> {
  try {
    let page: readonly Match[] | undefined = first
    while (page) {
      yield page.map(({ attributes }) => write(attributes))
      const next: IteratorResult<readonly Match[]> = await rest.next()
      page = next.done ? undefined : next.value
    }
  } finally {
    await rest.return?.()
  }
}

/** PS3.18 §8.3.4.4.1; several warnings are several fields. */
function warn(reply: FastifyReply, text: string): void {
  const known = reply.getHeader('warning')
  const list = known === undefined ? [] : [String(known)]
  reply.header('warning', [...list, `299 hanse "${text}"`].join(', '))
}
