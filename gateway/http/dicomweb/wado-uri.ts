/** WADO-URI: one instance by query parameters, DICOM PS3.18 §9, at `/wado` as Orthanc's plugin has it. */
import type { FastifyInstance } from 'fastify'
import { includes, parseAccept } from '../../dicom/media-type.ts'
import { GatewayError } from '../../errors.ts'
import { goneSignal } from '../gone.ts'
import { isPdf, pdfType, sendPdf } from './document.ts'
import { type InstanceServices, sendInstance } from './instances.ts'
import type { RenderedServices } from './rendered.ts'
import { keysOf } from './uids.ts'

const uid = { type: 'string', pattern: '^[0-9.]{1,64}$' } as const

interface Wado {
  readonly requestType: string
  readonly studyUID: string
  readonly seriesUID: string
  readonly objectUID: string
  readonly contentType?: string
  readonly transferSyntax?: string
  readonly anonymize?: string
  readonly frameNumber?: number
  readonly rows?: number
  readonly columns?: number
  readonly windowCenter?: number
  readonly windowWidth?: number
  readonly imageQuality?: number
}

/** Registers the route, outside of the service's path. */
export function wadoUriRoute(app: FastifyInstance, services: InstanceServices & RenderedServices): void {
  app.get<{ Querystring: Wado }>(
    '/wado',
    {
      config: { action: 'study.read' },
      exposeHeadRoute: false,
      schema: {
        tags: ['DICOMweb'],
        summary: 'One instance by query parameters (WADO-URI)',
        description:
          'contentType=application/dicom; transferSyntax, or the parameter transfer-syntax of the content type, names ' +
          'the one that is wanted, * the stored one; else it is Explicit VR Little Endian. application/pdf is an ' +
          'encapsulated document, and is meant where there is one. image/jpeg, which is meant where there is no contentType, and image/png are pictures of a frame. ' +
          'anonymize is not offered here. Audited.',
        querystring: {
          type: 'object',
          properties: {
            requestType: { type: 'string' },
            studyUID: uid,
            seriesUID: uid,
            objectUID: uid,
            contentType: { type: 'string' },
            transferSyntax: { type: 'string', pattern: '^(?:[0-9.]{1,64}|[*])$' },
            anonymize: { type: 'string' },
            frameNumber: { type: 'integer', minimum: 1 },
            rows: { type: 'integer', minimum: 1 },
            columns: { type: 'integer', minimum: 1 },
            windowCenter: { type: 'number' },
            windowWidth: { type: 'number', exclusiveMinimum: 0 },
            imageQuality: { type: 'integer', minimum: 1, maximum: 100 },
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
      const ranges = contentType === undefined ? [] : parseAccept(contentType)
      const uids = { study: studyUID, series: seriesUID, instance: objectUID }
      const dicom = ranges.find(({ name }) => name === 'application/dicom')
      if (dicom) {
        const transferSyntaxUid = transferSyntax ?? dicom.parameters.get('transfer-syntax')
        return await sendInstance(services, request, reply, { uids, transferSyntaxUid })
      }
      const plan = await services.retrieve.plan(keysOf(uids))
      const isMeant = (type: string): boolean => ranges.some(({ name }) => includes(name, type))
      if (isPdf(plan) && (contentType === undefined || isMeant(pdfType))) {
        return await sendPdf(services.rendering, plan, request, reply)
      }
      const format =
        contentType === undefined || isMeant('image/jpeg') ? 'jpeg' : isMeant('image/png') ? 'png' : undefined
      if (!format) throw new GatewayError('NOT_ACCEPTABLE', 'expected application/dicom, image/jpeg or image/png')
      const { frameNumber = 1, rows, columns, windowCenter, windowWidth, imageQuality } = request.query
      const window =
        windowCenter === undefined || windowWidth === undefined
          ? undefined
          : { center: windowCenter, width: windowWidth, shape: 'linear' as const }
      const options = { mode: 'rendered', format, width: columns, height: rows, quality: imageQuality, window } as const
      const gone = goneSignal(reply)
      for await (const { orthancId } of plan.instances()) {
        const { principal } = request
        const picture = await services.rendering.render(principal, orthancId, frameNumber - 1, options, gone)
        return reply.type(picture.mediaType).send(Buffer.from(picture.bytes))
      }
      throw new GatewayError('NOT_FOUND', 'no such instance')
    },
  )
}
