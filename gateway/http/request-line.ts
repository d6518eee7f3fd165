/**
 * What Orthanc's clients write into the request line beyond what a router expects: slashes twice or at the end of a path,
 * and another method than the one that is sent (`X-HTTP-Method-Override` of POST, `_method` in the query of GET). It is
 * undone before anything looks at the request, so that every check is of what will be done.
 */
import type { IncomingMessage } from 'node:http'

const overriding: ReadonlySet<string> = new Set(['PUT', 'DELETE'])

/** The URL to route by; the request's method becomes the one that is meant. */
export function requestLine(request: Pick<IncomingMessage, 'url' | 'method' | 'headers'>): string {
  const [path = '/', ...query] = (request.url ?? '/').split('?')
  const search = query.join('?')
  const asked =
    request.method === 'POST'
      ? String(request.headers['x-http-method-override'] ?? '').toUpperCase()
      : request.method === 'GET' && !isBrowser(request)
        ? (/(?:^|&)_method=(PUT|DELETE)(?:&|$)/.exec(search)?.[1] ?? '')
        : ''
  if (overriding.has(asked)) request.method = asked
  const plain = path.replace(/\/{2,}/g, '/')
  const routed = orthancPath.test(plain) ? plain.replace(/(?<=.)\/$/, '') : plain
  return query.length === 0 ? routed : `${routed}?${search}`
}

/** A picture in a foreign page is a GET: browsers that say nothing of the page that asks must not change anything by it. */
const isBrowser = ({ headers }: Pick<IncomingMessage, 'headers'>): boolean =>
  headers['sec-fetch-site'] === undefined && /^Mozilla\//.test(headers['user-agent'] ?? '')

/** Paths below which Orthanc serves its REST API. */
export const orthancPath =
  /^\/(?:changes|exports|instances|jobs|modalities|patients|peers|plugins|queries|series|statistics|storage-commitment|studies|system|tools|worklists)(?:[/?]|$)/
