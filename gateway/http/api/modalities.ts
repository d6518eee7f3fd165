/** The registry of modalities and archives that talk DICOM to us. */
import type { FastifyInstance } from 'fastify'
import { GatewayError } from '../../errors.ts'
import type { Modalities } from '../../services/modalities.ts'
import { type Modality, type ModalityInput, modalityServices } from '../../services/modality.ts'
import { answers, array, boolean, input, integer, nullableInteger, nullableString, object, string } from './schema.ts'

const tags = ['Modalities']
const nullableObject = (properties: Readonly<Record<string, object>>) => ({ type: ['object', 'null'], properties })
const services = { type: 'array', items: { enum: modalityServices } } as const
const zone = { enum: ['inside', 'outside'] } as const

const described = object({
  name: string,
  aeTitle: string,
  host: nullableString,
  port: nullableInteger,
  description: nullableString,
  manufacturer: nullableString,
  zone,
  permissions: services,
  stableAgeSeconds: nullableInteger,
  tls: nullableObject({ verify: boolean, servername: nullableString, ca: nullableString }),
  certificateFingerprint: nullableString,
  certificateName: nullableString,
  charset: nullableString,
  transferSyntaxes: array(string),
  allowTranscoding: boolean,
  limits: object({ associations: nullableInteger, idleSeconds: nullableInteger, timeoutSeconds: nullableInteger }),
})
const listed = object({ modalities: array(described) })

const text = (maxLength: number, description: string) => ({ ...string, maxLength, description })
const whole = (maximum: number, description: string) => ({ ...integer, minimum: 1, maximum, description })
const body = {
  ...input({
    aeTitle: text(16, 'The name when absent'),
    host: text(253, 'IP address or name from which it calls and at which it is called; from anywhere when absent'),
    port: whole(65_535, 'Where it listens; it cannot be called when absent'),
    description: text(200, 'For people'),
    manufacturer: text(64, 'For people'),
    zone: { ...zone, description: 'Whose network it is in: outside is that of another organization' },
    permissions: {
      ...services,
      maxItems: modalityServices.length,
      description: 'What it may ask of us; all with a host or certificate, echo and store without, when absent',
    },
    stableAgeSeconds: whole(604_800, 'Quiet time after which its studies are complete'),
    tls: {
      ...input({
        verify: { ...boolean, description: 'False takes any certificate' },
        servername: text(253, 'The name its certificate must have; the host when absent'),
        ca: text(65_536, 'Authorities that may have issued its certificate, PEM'),
      }),
      description: 'It is called by TLS',
    },
    certificateFingerprint: text(95, 'SHA-256 of the certificate that it must present and have'),
    certificateName: text(64, 'Common name of the certificate that it must present'),
    charset: text(200, 'Specific Character Set of text that we send to it'),
    transferSyntaxes: {
      type: 'array',
      maxItems: 32,
      items: { ...string, maxLength: 64 },
      description: 'Transfer syntaxes that it wants, the best one first',
    },
    allowTranscoding: { ...boolean, description: 'May instances be sent to it in another transfer syntax?' },
    limits: input({
      associations: whole(10_000, 'Associations at a time'),
      idleSeconds: whole(86_400, 'Silence between messages until its association ends'),
      timeoutSeconds: whole(3_600, 'How long its answers are waited for'),
    }),
  }),
  type: ['object', 'null'],
}
const params = input({ name: { ...string, minLength: 1, maxLength: 64 } }, ['name'])

interface Named {
  readonly Params: { name: string }
}

/** Registers the routes. */
export function modalityRoutes(app: FastifyInstance, modalities: Modalities): void {
  const all = () => ({ modalities: modalities.list().map(toJson) })

  app.get(
    '/modalities',
    { schema: { tags, summary: 'Registered modalities', response: answers('Modalities', listed) } },
    async () => all(),
  )

  app.get<Named>(
    '/modalities/:name',
    { schema: { tags, summary: 'One modality', params, response: answers('The modality', described) } },
    async request => {
      const found = modalities.list().find(entry => entry.name === request.params.name)
      if (!found) throw new GatewayError('NOT_FOUND', 'no modality has this name')
      return toJson(found)
    },
  )

  app.put<Named & { Body: Partial<ModalityInput> | null }>(
    '/modalities/:name',
    {
      schema: {
        tags,
        summary: 'Register a modality, or replace its registration; effective at once',
        params,
        body,
        response: answers('Modalities', listed),
      },
    },
    async request => {
      const { name } = request.params
      await modalities.put(request.principal, { aeTitle: name, ...request.body, name })
      return all()
    },
  )

  app.delete<Named>(
    '/modalities/:name',
    { schema: { tags, summary: 'Remove a modality', params, response: answers('Modalities', listed) } },
    async request => {
      await modalities.remove(request.principal, request.params.name)
      return all()
    },
  )
}

function toJson(entry: Modality) {
  const { tls, limits } = entry
  return {
    ...entry,
    host: entry.host ?? null,
    port: entry.port ?? null,
    description: entry.description ?? null,
    manufacturer: entry.manufacturer ?? null,
    stableAgeSeconds: entry.stableAgeSeconds ?? null,
    tls: tls ? { verify: tls.verify, servername: tls.servername ?? null, ca: tls.ca ?? null } : null,
    certificateFingerprint: entry.certificateFingerprint ?? null,
    certificateName: entry.certificateName ?? null,
    charset: entry.charset ?? null,
    limits: {
      associations: limits?.associations ?? null,
      idleSeconds: limits?.idleSeconds ?? null,
      timeoutSeconds: limits?.timeoutSeconds ?? null,
    },
  }
}
