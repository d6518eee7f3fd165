/** Orthanc's `/tools/create-dicom`. */
import type { FastifyInstance } from 'fastify'
import type { Db } from '../../db/db.ts'
import { GatewayError } from '../../errors.ts'
import type { DicomCreation } from '../../services/create-dicom.ts'
import { loadAncestors } from '../../store/query.ts'
import { readAnyBodyAsJson } from './json-body.ts'
import { openGate } from './upload-route.ts'

/** What the route needs. */
export interface CreateDicomServices {
  readonly db: Db
  readonly creation: DicomCreation
}

/** Documents and images come in base64, which adds a third. */
const bodyLimit = 64 * 1024 ** 2

/** Registers the route. */
export function createDicomRoute(app: FastifyInstance, { db, creation }: CreateDicomServices): void {
  // An image stands in memory while it is made an instance of: one at a time.
  const gate = openGate(1)
  app.register(async scope => {
    readAnyBodyAsJson(scope)
    scope.post(
      '/tools/create-dicom',
      {
        bodyLimit,
        schema: {
          tags: ['Orthanc'],
          summary: 'Create instances from tags, and from PNG, JPEG or PDF as data URIs; audited',
        },
      },
      async request => {
        using _place = await gate.enter()
        const { results, isSeries } = await creation.create(request.principal, request.body)
        const [first] = results
        const id = first?.instance.orthancId ?? ''
        const above = await loadAncestors(db, id)
        if (!first || !above) throw new GatewayError('STATE_CONFLICT', 'the new instance was removed at once')
        const Status = first.kind === 'duplicate' ? 'AlreadyStored' : 'Success'
        if (isSeries) return { ID: above.series, Path: `/series/${above.series}`, Status }
        return {
          ID: id,
          ParentPatient: above.patient,
          ParentSeries: above.series,
          ParentStudy: above.study,
          Path: `/instances/${id}`,
          Status,
        }
      },
    )
  })
}
