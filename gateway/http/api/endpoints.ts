/** Endpoints of third parties: set up, confirmed, stopped, and what recipients say. Credentials go in and never come out. */
import type { FastifyInstance } from 'fastify'
import type { Db } from '../../db/db.ts'
import { type Endpoint, type EndpointInput, endpointKinds, secretNames } from '../../services/endpoint.ts'
import { mostConfirmationBytes } from '../../services/endpoint-acknowledge.ts'
import type { EndpointServices } from '../../services/endpoint-parts.ts'
import { loadTransfer } from '../../services/transfer-list.ts'
import { answers, anything, array, boolean, date, input, nullableString, object, open, string, uuid } from './schema.ts'

/** What the routes need. */
export interface EndpointRouteServices extends Pick<EndpointServices, 'endpoints' | 'acknowledging'> {
  readonly db: Db
}

const tags = ['Endpoints']
const described = object({
  name: string,
  kind: { enum: endpointKinds },
  description: string,
  settings: open,
  secrets: array(string),
  pin: { ...nullableString, description: 'Host key or certificate that a person has confirmed' },
  shownPin: { ...nullableString, description: 'What the server has shown, not confirmed' },
  packaging: open,
  rules: open,
  acknowledgement: { type: ['object', 'null'], additionalProperties: true },
  inbound: { type: ['object', 'null'], additionalProperties: true },
  polledAt: { type: ['string', 'null'], format: 'date-time', description: 'When it was last looked at' },
  pollErrorCode: nullableString,
  pollError: { ...nullableString, description: 'What went wrong then' },
  profile: nullableString,
  state: { enum: ['unconfirmed', 'active', 'stopped'] },
  reasonCode: nullableString,
  reason: nullableString,
  createdAt: date,
  updatedAt: date,
})
const params = input({ name: { ...string, minLength: 1, maxLength: 64 } }, ['name'])
const secret = { ...string, minLength: 1, maxLength: 100_000 }
const body = input(
  {
    kind: { enum: endpointKinds },
    description: { ...string, maxLength: 200 },
    settings: { ...open, description: 'Where it is and as whom: host, port, user, root, url, … by kind' },
    secrets: {
      ...input(Object.fromEntries(secretNames.map(name => [name, secret]))),
      description: 'Written only; those that are absent stay as they are',
    },
    packaging: { ...open, description: 'unit, container, encryption, manifest, certificate, done, names' },
    rules: { ...open, description: 'parallel, bytesPerSecond, window' },
    acknowledgement: { ...open, description: 'path with {transfer} or {subject}, accepted, rejected, forDays' },
    inbound: {
      ...open,
      description: 'How arriving files are looked for: folder, everySeconds, pattern, ready, after, signers, …',
    },
    profile: {
      ...string,
      minLength: 1,
      maxLength: 64,
      description: 'De-identification profile of sends that name none',
    },
  },
  ['kind'],
)

interface Named {
  readonly Params: { name: string }
}

/** Registers the routes. */
export function endpointRoutes(app: FastifyInstance, services: EndpointRouteServices): void {
  const { endpoints, acknowledging, db } = services
  const one = (description = 'The endpoint') => answers(description, described)

  app.get(
    '/endpoints',
    { schema: { tags, summary: 'Endpoints', response: answers('Endpoints', object({ endpoints: array(described) })) } },
    async request => ({ endpoints: (await endpoints.list(request.principal)).map(toJson) }),
  )
  app.get<Named>(
    '/endpoints/:name',
    { schema: { tags, summary: 'One endpoint', params, response: one() } },
    async request => toJson(await endpoints.load(request.principal, request.params.name)),
  )
  app.put<Named & { Body: EndpointInput }>(
    '/endpoints/:name',
    { schema: { tags, summary: 'Set an endpoint up, or replace how it is set up', params, body, response: one() } },
    async request => toJson(await endpoints.put(request.principal, request.params.name, request.body)),
  )
  app.post<Named>(
    '/endpoints/:name/host-key',
    { schema: { tags, summary: 'Ask an SFTP server for its host key; it is not confirmed', params, response: one() } },
    async request => toJson(await endpoints.look(request.principal, request.params.name, AbortSignal.timeout(30_000))),
  )
  app.post<Named & { Body: { fingerprint: string } }>(
    '/endpoints/:name/confirm',
    {
      schema: {
        tags,
        summary: 'Confirm a host key or certificate that a person has compared; what waits goes on',
        params,
        body: input({ fingerprint: { ...string, minLength: 8, maxLength: 128 } }, ['fingerprint']),
        response: one(),
      },
    },
    async request => toJson(await endpoints.confirm(request.principal, request.params.name, request.body.fingerprint)),
  )
  app.post<Named & { Body: { reason: string } }>(
    '/endpoints/:name/stop',
    {
      schema: {
        tags,
        summary: 'Send nothing more there until it is resumed',
        params,
        body: input({ reason: { ...string, maxLength: 200, default: '' } }),
        response: one(),
      },
    },
    async request => toJson(await endpoints.stop(request.principal, request.params.name, request.body.reason)),
  )
  app.post<Named>(
    '/endpoints/:name/resume',
    { schema: { tags, summary: 'Send there again', params, response: one() } },
    async request => toJson(await endpoints.resume(request.principal, request.params.name)),
  )
  app.post<Named>(
    '/endpoints/:name/test',
    {
      schema: {
        tags,
        summary: 'Try a place for files step by step, and say what to fix',
        params,
        response: answers(
          'The steps that were tried',
          object({ steps: array(object({ step: string, ok: boolean, detail: string, fix: string })) }),
        ),
      },
    },
    async request => ({
      steps: await endpoints.test(request.principal, request.params.name, AbortSignal.timeout(300_000)),
    }),
  )
  app.delete<Named>(
    '/endpoints/:name',
    { schema: { tags, summary: 'Remove an endpoint', params } },
    async (request, reply) => {
      await endpoints.remove(request.principal, request.params.name)
      return reply.code(204).send()
    },
  )
  app.post<{
    Params: { transfer: string }
    Body: { outcome: 'accepted' | 'rejected'; reason: string; file: { name: string; base64: string } }
  }>(
    '/endpoints/acknowledgements/:transfer',
    {
      bodyLimit: Math.ceil(mostConfirmationBytes * 1.4),
      schema: {
        tags,
        summary: "Attach the recipient's confirmation to a delivery, such as that of a web portal",
        params: input({ transfer: uuid }, ['transfer']),
        body: input(
          {
            outcome: { enum: ['accepted', 'rejected'], default: 'accepted' },
            reason: { ...string, maxLength: 500, default: '' },
            file: input(
              {
                name: { ...string, minLength: 1, maxLength: 255, pattern: '^[^/\\\\]+$' },
                base64: { ...string, minLength: 4, pattern: '^[A-Za-z0-9+/]+={0,2}$' },
              },
              ['name', 'base64'],
            ),
          },
          ['file'],
        ),
        response: answers('The transfer after it', anything),
      },
    },
    async request => {
      const { outcome, reason, file } = request.body
      const said = { outcome, reason, fileName: file.name, bytes: Buffer.from(file.base64, 'base64') }
      await acknowledging.acknowledge(request.principal, request.params.transfer, said)
      return await loadTransfer(db, request.params.transfer)
    },
  )
}

function toJson(endpoint: Endpoint) {
  const { kind: _, ...settings } = endpoint.settings
  return {
    name: endpoint.name,
    kind: endpoint.kind,
    description: endpoint.description,
    settings,
    secrets: endpoint.secretNames,
    pin: endpoint.pin ?? null,
    shownPin: endpoint.shownPin ?? null,
    packaging: endpoint.packaging,
    rules: endpoint.rules,
    acknowledgement: endpoint.acknowledgement ?? null,
    inbound: endpoint.inbound ?? null,
    polledAt: endpoint.polledAt ?? null,
    pollErrorCode: endpoint.pollErrorCode ?? null,
    pollError: endpoint.pollError ?? null,
    profile: endpoint.profile ?? null,
    state: endpoint.state,
    reasonCode: endpoint.reasonCode ?? null,
    reason: endpoint.reason ?? null,
    createdAt: endpoint.createdAt,
    updatedAt: endpoint.updatedAt,
  }
}
