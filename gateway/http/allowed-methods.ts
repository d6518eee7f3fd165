/** Which methods a path has, for requests that come with another one (RFC 9110 §15.5.6). */
import type { FastifyInstance } from 'fastify'

/**
 * Watches the routes that are registered from now on.
 *
 * @returns the methods of a path without its query, sorted; none for one that is unknown
 */
export function watchMethods(app: FastifyInstance): (path: string) => readonly string[] {
  const known = new Map<string, { readonly pattern: RegExp; readonly methods: Set<string> }>()
  app.addHook('onRoute', ({ url, method }) => {
    const route = known.get(url) ?? { pattern: patternOf(url), methods: new Set() }
    known.set(url, route)
    for (const one of [method].flat()) route.methods.add(one)
  })
  return path => {
    const found = [...known.values()].filter(({ pattern }) => pattern.test(path))
    return [...new Set(found.flatMap(({ methods }) => [...methods]))].sort()
  }
}

/** Parameters are one segment long, and a star is the rest. */
function patternOf(url: string): RegExp {
  const parts = url.split(/(\*|:\w+(?:\([^)]*\))?)/)
  const text = parts.map((part, index) => {
    if (index % 2 === 0) return part.replace(/[\\^$.*+?()[\]{}|]/g, '\\$&')
    return part === '*' ? '.*' : '[^/]+'
  })
  return new RegExp(`^${text.join('')}$`)
}
