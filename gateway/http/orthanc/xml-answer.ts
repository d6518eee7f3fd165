/** JSON answers as XML, for clients of Orthanc that ask for it (`Accept: application/xml`). */
import type { FastifyInstance } from 'fastify'
import { isObject } from '../../decode.ts'
import { orthancPath } from '../request-line.ts'

/** Larger answers stay JSON: XML is made in memory. */
const mostCharacters = 4 * 1024 * 1024

/** Answers in XML where it is asked for and JSON is not. */
export function installXmlAnswers(app: FastifyInstance): void {
  app.addHook('onSend', async (request, reply, payload) => {
    const { accept = '' } = request.headers
    if (!/\b(?:application|text)\/xml\b/.test(accept) || /\bapplication\/json\b/.test(accept)) return payload
    const isJson = String(reply.getHeader('content-type') ?? '').startsWith('application/json')
    if (!isJson || !orthancPath.test(request.url)) return payload
    if (typeof payload !== 'string' || payload.length > mostCharacters) return payload
    reply.type('application/xml').removeHeader('content-length')
    return `<?xml version="1.0" encoding="utf-8"?>\n<root>${contentOf(JSON.parse(payload))}</root>\n`
  })
}

/** Arrays as `item`s; members of objects by their name where it is one of XML. */
function contentOf(value: unknown): string {
  if (Array.isArray(value)) return value.map(item => `<item>${contentOf(item)}</item>`).join('')
  if (isObject(value)) {
    return Object.entries(value)
      .map(([name, member]) => {
        if (/^[A-Za-z_][\w.-]*$/.test(name)) return `<${name}>${contentOf(member)}</${name}>`
        return `<item name="${escaped(name)}">${contentOf(member)}</item>`
      })
      .join('')
  }
  return value === null ? '' : escaped(String(value))
}

const entities: Readonly<Record<string, string>> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' }

/** Characters that XML 1.0 has no form for are left out. */
function escaped(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
  return text.replace(/[\0-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]/g, '').replace(/[&<>"]/g, found => entities[found] ?? '')
}
