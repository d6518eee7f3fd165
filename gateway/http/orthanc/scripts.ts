/**
 * `/tools/execute-script`. Scripts are not executed here: one that is sent to a server by its users is code that acts
 * with the server's rights. Clients of Orthanc send scripts that ask for what is so anyway, though: they take callbacks
 * away before they begin, say that what is received is accepted, or print a constant to see whether the server answers.
 * Those succeed; everything else is refused.
 */
import type { FastifyInstance } from 'fastify'
import { GatewayError } from '../../errors.ts'
import { textBody } from './lenient-scope.ts'

/** Callbacks of Orthanc that here always answer `true`. */
const acceptsAnyway = /^(?:Is\w+TransferSyntaxAccepted|IsUnknownSopClassAccepted|Received\w*InstanceFilter)$/

const blank = String.raw`(?:\s|--[^\n]*(?:\n|$))*`
const definition = new RegExp(
  String.raw`^function\s+(?<name>\w+)\s*\([\w\s,.]*\)${blank}(?:return\s+(?<value>true)\s*;?${blank})?end\b\s*;?`,
)
const printed = /^print\s*\(\s*(?:(?<number>-?\d+(?:\.\d+)?)|'(?<single>[^'\\\n]*)'|"(?<double>[^"\\\n]*)")\s*\)\s*;?/
const gap = new RegExp(`^${blank}`)

/** Longer scripts do something. */
const maxLength = 10_000

/** Registers the route, in a scope whose bodies are text. */
export function scriptRoute(scope: FastifyInstance): void {
  const summary = 'Scripts are not executed: refused, unless the script asks for what is so anyway'
  scope.post('/tools/execute-script', { schema: { tags: ['Orthanc'], summary } }, async (request, reply) =>
    reply.type('text/plain').send(outputOf(textBody(request.body))),
  )
}

/**
 * What a script without any effect prints.
 *
 * @throws GatewayError FORBIDDEN for every other script
 */
export function outputOf(script: string): string {
  let rest = script.length > maxLength ? undefined : script.replace(gap, '')
  let output = ''
  while (rest !== undefined && rest !== '') {
    const print = printed.exec(rest)
    const defined = print ? null : definition.exec(rest)
    const { number, single, double } = print?.groups ?? {}
    const { name = '', value } = defined?.groups ?? {}
    if (print) output += `${number ?? single ?? double ?? ''}\n`
    else if (!defined || (value !== undefined && !acceptsAnyway.test(name))) break
    rest = rest.slice((print ?? defined)?.[0].length).replace(gap, '')
  }
  if (rest === '') return output
  throw new GatewayError('FORBIDDEN', 'scripts are not executed by this server')
}
