/** Orthanc's `/modalities`: the registry under its paths, and the verification of a modality. */

import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { boolean, decode, describe, integer, object, optional } from '../../decode.ts'
import { GatewayError } from '../../errors.ts'
import type { NodeTarget } from '../../services/dicom-node.ts'
import type { Modalities } from '../../services/modalities.ts'
import type { Modality } from '../../services/modality.ts'
import type { Remote } from '../../services/remote.ts'
import { goneSignal } from '../gone.ts'
import { acceptAnyBody } from './lenient-body.ts'
import { readForm, writeForm } from './modality-form.ts'

/** What the routes need. */
export interface OrthancModalityServices {
  readonly modalities: Modalities
  readonly remote: Pick<Remote, 'echo' | 'find'>
  /** Our AE title. */
  readonly aeTitle: string
}

const tags = ['Orthanc']
const params = {
  type: 'object',
  properties: { id: { type: 'string', minLength: 1, maxLength: 64 } },
  required: ['id'],
} as const
const listQuery = {
  type: 'object',
  properties: { expand: { type: 'string', description: 'Give configurations instead of names' } },
} as const
const echoOptions = object(
  { Timeout: optional(integer({ min: 0, max: 3_600 }), 0), CheckFind: optional(boolean, false) },
  { unknown: 'keep' },
)
/** A query that finds nothing: does the modality know us as one who may ask? */
const nobody = { level: 'patient', query: { PatientID: 'CHECKFIND' }, limit: 1 } as const

/** Below a modality. */
const operations = [
  ...['configuration', 'echo', 'find', 'find-instance', 'find-patient', 'find-series', 'find-study', 'find-worklist'],
  ...['move', 'query', 'storage-commitment', 'store', 'store-straight'],
]

interface Named {
  readonly Params: { id: string }
}

/** Registers the routes. */
export async function orthancModalityRoutes(app: FastifyInstance, services: OrthancModalityServices): Promise<void> {
  const { modalities, remote, aeTitle } = services
  const named = (name: string): Modality => {
    const found = modalities.list().find(entry => entry.name === name)
    if (!found) throw new GatewayError('NOT_FOUND', 'no modality has this name')
    return found
  }

  const verify = async (
    { principal, body }: Pick<FastifyRequest, 'principal' | 'body'>,
    reply: FastifyReply,
    to: string | NodeTarget,
  ): Promise<object> => {
    const options = decode(echoOptions, body || {})
    if (!options.ok) throw new GatewayError('BAD_REQUEST', describe(options.problems))
    const timeout = options.value.Timeout
    const late = new AbortController()
    const why = new GatewayError('PEER_UNREACHABLE', `the modality did not answer within ${timeout} s`)
    const timer = timeout > 0 ? setTimeout(() => late.abort(why), timeout * 1000) : undefined
    const signal = AbortSignal.any([late.signal, goneSignal(reply)])
    try {
      const { status } = await remote.echo(principal, to, signal)
      if (status !== 0) throw new GatewayError('PEER_PROTOCOL', `the modality answered status ${status}`)
      if (options.value.CheckFind) await remote.find(principal, to, nobody, signal)
    } finally {
      clearTimeout(timer)
    }
    return {}
  }

  await app.register(async scope => {
    acceptAnyBody(scope)

    scope.get<{ Querystring: { expand?: string } }>(
      '/modalities',
      { schema: { tags, summary: 'List modalities', querystring: listQuery } },
      async request => {
        const { expand } = request.query
        const known = modalities.list().toSorted((one, other) => (one.name < other.name ? -1 : 1))
        if (expand === undefined || expand === 'false' || expand === '0') return known.map(entry => entry.name)
        return Object.fromEntries(known.map(entry => [entry.name, writeForm(entry)]))
      },
    )

    scope.get<Named>(
      '/modalities/:id',
      { schema: { tags, summary: 'What can be done with a modality', params } },
      async request => {
        named(request.params.id)
        return operations
      },
    )

    scope.get<Named>(
      '/modalities/:id/configuration',
      { schema: { tags, summary: 'Configuration of a modality', params } },
      async request => writeForm(named(request.params.id)),
    )

    scope.put<Named>(
      '/modalities/:id',
      { schema: { tags, summary: 'Register a modality, or change it', params } },
      async (request, reply) => {
        const { id } = request.params
        const before = modalities.list().find(entry => entry.name === id)
        await modalities.put(request.principal, readForm(request.body, id, before))
        return reply.type('text/plain').send('')
      },
    )

    scope.delete<Named>(
      '/modalities/:id',
      { schema: { tags, summary: 'Remove a modality', params } },
      async (request, reply) => {
        await modalities.remove(request.principal, request.params.id)
        return reply.type('text/plain').send('')
      },
    )

    scope.post<Named>(
      '/modalities/:id/echo',
      { schema: { tags, summary: 'Verify that a modality answers (C-ECHO)', params } },
      async (request, reply) => {
        const { name } = named(request.params.id)
        return await verify(request, reply, name)
      },
    )

    scope.post(
      '/tools/dicom-echo',
      {
        config: { action: 'modality.manage' },
        schema: { tags, summary: 'Verify that a modality answers that is not registered, described in the body' },
      },
      async (request, reply) => {
        const { body } = request
        const { aeTitle: calledAe, host, port } = readForm(body, 'unregistered', undefined)
        if (host === undefined || port === undefined) throw new GatewayError('BAD_REQUEST', 'expected Host and Port')
        const target = { name: 'unregistered', host, port, callingAe: aeTitle, calledAe }
        return await verify({ principal: request.principal, body: Array.isArray(body) ? {} : body }, reply, target)
      },
    )
  })
}
