/**
 * `/tools/log-level` and its categories. There is one log here: what is written is what the most talkative of the
 * categories asks for.
 */
import type { FastifyInstance } from 'fastify'
import { GatewayError } from '../../errors.ts'
import type { LogLevel, LogThreshold } from '../../log.ts'
import { textBody } from './lenient-scope.ts'

const categories = ['dicom', 'generic', 'http', 'jobs', 'lua', 'plugins', 'sqlite'] as const
const verbosities = ['default', 'verbose', 'trace'] as const
type Verbosity = (typeof verbosities)[number]

/** The names of the routes below `/tools`. */
export const logLevelTools: readonly string[] = ['log-level', ...categories.map(category => `log-level-${category}`)]

/** Registers the routes, in a scope whose bodies are text. */
export function logLevelRoutes(scope: FastifyInstance, threshold: LogThreshold | undefined): void {
  const initial: LogLevel = threshold?.level() ?? 'info'
  const chosen = new Map<string, Verbosity>(logLevelTools.map(tool => [tool, 'default']))
  for (const tool of logLevelTools) {
    const schema = { tags: ['Orthanc'] }
    scope.get(
      `/tools/${tool}`,
      { schema: { ...schema, summary: 'How much is logged: default, verbose or trace' } },
      async (_request, reply) => reply.type('text/plain').send(chosen.get(tool)),
    )
    scope.put(
      `/tools/${tool}`,
      { schema: { ...schema, summary: 'Change how much is logged, until the next start' } },
      async (request, reply) => {
        const asked = verbosities.find(verbosity => verbosity === textBody(request.body).trim())
        if (!asked) throw new GatewayError('BAD_REQUEST', 'expected default, verbose or trace')
        // The main one stands for all.
        for (const each of tool === 'log-level' ? logLevelTools : [tool]) chosen.set(each, asked)
        const isDefault = [...chosen.values()].every(verbosity => verbosity === 'default')
        threshold?.setLevel(isDefault ? initial : 'debug')
        return reply.type('text/plain').send('')
      },
    )
  }
}
