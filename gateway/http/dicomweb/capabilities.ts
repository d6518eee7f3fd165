/** What the service can do: the retrieve capabilities transaction, DICOM PS3.18 §8.9, from the routes themselves. */
import type { FastifyInstance } from 'fastify'
import { includes, parseAccept } from '../../dicom/media-type.ts'
import { GatewayError } from '../../errors.ts'
import { baseUrlOf, type ServicePlace } from './base-url.ts'
import { acceptOf } from './data-sets.ts'

/** A route as the document tells it. */
interface Offered {
  readonly path: string
  readonly method: string
  readonly summary: string
}

const wadl = 'application/vnd.sun.wadl+xml'
const methods: ReadonlySet<string> = new Set(['GET', 'POST', 'PUT', 'DELETE'])

/** Registers OPTIONS of the service; to be called before the routes that it tells of. */
export function capabilitiesRoute(app: FastifyInstance, place: ServicePlace): void {
  const offered: Offered[] = []
  app.addHook('onRoute', ({ url, method, schema }) => {
    const names = typeof method === 'string' ? [method] : method
    for (const name of names) {
      if (!methods.has(name)) continue
      const path = url
        .slice(place.path.length)
        .replace(/:(\w+)/g, '{$1}')
        .replace('/*', '/{path}')
      offered.push({ path, method: name, summary: schema?.summary ?? '' })
    }
  })
  app.options<{ Querystring: { readonly accept?: unknown } }>(
    '/',
    {
      config: { action: 'site.read' },
      schema: { tags: ['DICOMweb'], summary: 'What the service can do, as WADL in XML or JSON (PS3.18 §8.9)' },
    },
    async (request, reply) => {
      const baseUrl = baseUrlOf(request, place)
      for (const { name, quality } of parseAccept(acceptOf(request))) {
        if (quality === 0) continue
        if (includes(name, 'application/json')) return reply.type('application/json').send(jsonOf(offered, baseUrl))
        if (name === wadl || name === 'application/xml') return reply.type(wadl).send(xmlOf(offered, baseUrl))
      }
      throw new GatewayError('NOT_ACCEPTABLE', `expected application/json or ${wadl} to be accepted`)
    },
  )
}

function byPath(offered: readonly Offered[]): Map<string, Offered[]> {
  return Map.groupBy(offered, ({ path }) => path)
}

function jsonOf(offered: readonly Offered[], baseUrl: string): string {
  const resource = [...byPath(offered)].map(([path, list]) => ({
    path,
    method: list.map(({ method, summary }) => ({ name: method, doc: summary })),
  }))
  return JSON.stringify({ application: { resources: { base: baseUrl, resource } } })
}

function xmlOf(offered: readonly Offered[], baseUrl: string): string {
  const resources = [...byPath(offered)].map(([path, list]) => {
    const inner = list.map(({ method, summary }) => `<method name="${method}"><doc>${summary}</doc></method>`)
    return `<resource path="${path}">${inner.join('')}</resource>`
  })
  return (
    '<?xml version="1.0" encoding="utf-8"?>\n<application xmlns="http://wadl.dev.java.net/2009/02">' +
    `<resources base="${baseUrl}">${resources.join('')}</resources></application>`
  )
}
