/** WADO-URI: one instance by query parameters, DICOM PS3.18 §9, at `/wado` as Orthanc's plugin has it. */
import type { FastifyInstance } from 'fastify'
import { GatewayError } from '../../errors.ts'
import { type InstanceServices, sendInstance } from './instances.ts'

const uid = { type: 'string', pattern: '^[0-9.]{1,64}$' } as const

interface Wado {
  readonly requestType: string
  readonly studyUID: string
  readonly seriesUID: string
  readonly objectUID: string
  readonly contentType?: string
  readonly transferSyntax?: string
  readonly anonymize?: string
}

/** Registers the route, outside of the service's path. */
export function wadoUriRoute(app: FastifyInstance, services: InstanceServices): void {
  app.get<{ Querystring: Wado }>(
    '/wado',
    {
      config: { action: 'study.read' },
      exposeHeadRoute: false,
      schema: {
        tags: ['DICOMweb'],
        summary: 'One instance by query parameters (WADO-URI)',
        description:
          'contentType=application/dicom; transferSyntax names the one that is wanted, else it is Explicit VR Little ' +
          'Endian. anonymize is not offered here. Audited.',
        querystring: {
          type: 'object',
          properties: {
            requestType: { type: 'string' },
            studyUID: uid,
            seriesUID: uid,
            objectUID: uid,
            contentType: { type: 'string' },
            transferSyntax: uid,
            anonymize: { type: 'string' },
          },
          required: ['requestType', 'studyUID', 'seriesUID', 'objectUID'],
        },
      },
    },
    async (request, reply) => {
      const { requestType, studyUID, seriesUID, objectUID, contentType, transferSyntax, anonymize } = request.query
      if (requestType !== 'WADO') throw new GatewayError('BAD_REQUEST', 'expected requestType=WADO')
      // To send identified data to somebody who asked for others would be the worst answer.
      if (anonymize !== undefined) throw new GatewayError('NOT_ACCEPTABLE', 'de-identification is not offered here')
      const types = (contentType ?? '').split(',').map(type => type.split(';', 1)[0]?.trim().toLowerCase())
      if (!types.includes('application/dicom')) {
        throw new GatewayError('NOT_ACCEPTABLE', 'expected contentType=application/dicom')
      }
      const uids = { study: studyUID, series: seriesUID, instance: objectUID }
      return await sendInstance(services, request, reply, { uids, transferSyntaxUid: transferSyntax })
    },
  )
}
