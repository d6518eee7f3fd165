/**
 * The part of Orthanc's REST API (version 1.10) that clients need to upload, browse and download:
 * same paths, same JSON, same ids. What differs is in the OpenAPI document and README: errors are
 * problem documents with Orthanc's fields beside, and an upload may answer `Status: Conflict`.
 */

import type { FastifyInstance } from 'fastify'
import type { Db } from '../../db/db.ts'
import { toJson } from '../../dicom/json.ts'
import type { LogThreshold } from '../../log.ts'
import type { ChangeFeed } from '../../services/change-feed.ts'
import type { ExportLog } from '../../services/export-log.ts'
import type { NamedFiles } from '../../services/named-file.ts'
import type { ChangeableTerms } from '../../services/reception-terms.ts'
import type { Removal } from '../../services/removal.ts'
import type { ResourceDatasets } from '../../services/resource-datasets.ts'
import type { Reconstruction } from '../../services/resource-reconstruct.ts'
import type { Retrieve } from '../../services/retrieve.ts'
import { sendChunks } from '../send-chunks.ts'
import { sendFile } from '../send-file.ts'
import { type AttachmentServices, attachmentRoutes } from './attachments.ts'
import { bulkRoutes } from './bulk.ts'
import { changeRoutes } from './changes.ts'
import { contentRoutes } from './content-route.ts'
import { type CreateDicomServices, createDicomRoute } from './create-dicom.ts'
import { deletionRoutes } from './deletion.ts'
import { type FindServices, findRoutes } from './find.ts'
import { type OrthancJobServices, orthancJobRoutes } from './jobs.ts'
import { type MetadataServices, metadataRoutes } from './metadata.ts'
import { type ModifyServices, modifyRoutes } from './modify.ts'
import { namedSyntaxQuery } from './named-syntax-query.ts'
import { idParams, navigationRoutes } from './navigation.ts'
import type { PrivateNumbers } from './private-numbers.ts'
import { reconstructRoutes } from './reconstruct.ts'
import { slicesRoute } from './slices.ts'
import { type StorageCommitmentServices, storageCommitmentRoutes } from './storage-commitment.ts'
import { type StudyChangeServices, studyChangeRoutes } from './study-changes.ts'
import { type SystemFacts, systemRoutes } from './system.ts'
import { tagRoutes } from './tag-routes.ts'
import type { PrivateNames } from './tags.ts'
import { toolRoutes } from './tools.ts'
import { type Upload, uploadRoute } from './upload-route.ts'
import { installXmlAnswers } from './xml-answer.ts'

export interface OrthancServices extends MetadataServices, AttachmentServices, FindServices {
  readonly db: Db
  readonly retrieve: Retrieve
  readonly datasets: ResourceDatasets
  /** Files in other transfer syntaxes; where there are none they are sent as received. */
  readonly namedFiles?: NamedFiles
  readonly changes: ChangeFeed
  readonly exportLog: ExportLog
  /** Names of private elements. */
  readonly privateNames?: PrivateNames | undefined
  readonly privateNumbers?: PrivateNumbers | undefined
  readonly removal: Removal
  readonly reconstruction: Reconstruction
  readonly upload: Upload
  /** Storage commitment; where there is none its routes are missing. */
  readonly commitment?: StorageCommitmentServices
  readonly system: () => SystemFacts
  readonly logThreshold?: LogThreshold | undefined
  readonly receptionTerms: ChangeableTerms
  /** Jobs; where there are none their routes are missing. */
  readonly jobs?: OrthancJobServices
  /** What makes new instances of stored ones; where there is none its routes are missing. */
  readonly modify?: ModifyServices & StudyChangeServices & Omit<CreateDicomServices, 'db'>
}

/** Registers the routes. */
export function orthancRoutes(app: FastifyInstance, services: OrthancServices): void {
  installXmlAnswers(app)
  systemRoutes(app, services)
  toolRoutes(app, services)
  navigationRoutes(app, services)
  slicesRoute(app, services)
  tagRoutes(app, services)
  findRoutes(app, services)
  contentRoutes(app, services)
  fileRoute(app, services)
  metadataRoutes(app, services)
  attachmentRoutes(app, services)
  changeRoutes(app, services)
  deletionRoutes(app, services)
  reconstructRoutes(app, services)
  bulkRoutes(app, services)
  uploadRoute(app, services.upload)
  if (services.commitment) storageCommitmentRoutes(app, services.commitment)
  if (services.jobs) orthancJobRoutes(app, services.jobs)
  if (services.modify) {
    modifyRoutes(app, { ...services.modify, privateNumbers: services.privateNumbers })
    studyChangeRoutes(app, services.modify)
    createDicomRoute(app, { db: services.db, ...services.modify })
  }
}

/** Longer values are left out of the data set as JSON. */
const jsonBounds = { maxValueBytes: 65_536, maxTotalBytes: 16 * 1024 ** 2 } as const

function fileRoute(
  app: FastifyInstance,
  { retrieve, datasets, namedFiles }: Pick<OrthancServices, 'retrieve' | 'datasets' | 'namedFiles'>,
): void {
  app.route<{ Params: { id: string }; Querystring: { transcode?: string; 'lossy-quality'?: number } }>({
    // HEAD by ourselves: the framework's own would read the whole file for its length.
    method: ['GET', 'HEAD'],
    url: '/instances/:id/file',
    schema: {
      tags: ['Orthanc'],
      summary: 'The file as received, whole or a range, or in another transfer syntax; audited',
      params: idParams,
      querystring: { type: 'object', properties: namedSyntaxQuery },
    },
    handler: async (request, reply) => {
      if (/\bapplication\/dicom\+json\b/.test(request.headers.accept ?? '')) {
        const resource = { level: 'instance', orthancId: request.params.id } as const
        for await (const { file } of datasets.read(request.principal, resource, { ...jsonBounds, limit: 1 })) {
          return reply.type('application/dicom+json').send(JSON.stringify(toJson(file.dataset)))
        }
      }
      const { transcode: to, 'lossy-quality': quality } = request.query
      if (to !== undefined && namedFiles !== undefined && request.method === 'GET') {
        const { principal, params } = request
        return await sendChunks(reply, { type: 'application/dicom', filename: `${params.id}.dcm` }, signal =>
          namedFiles.read(principal, params.id, { to, quality }, signal),
        )
      }
      const { blob, fileSha256, sopInstanceUid } = await retrieve.openInstance(request.principal, request.params.id)
      return await sendFile(request, reply, blob, {
        sha256: fileSha256.toString('hex'),
        type: 'application/dicom',
        filename: `${sopInstanceUid}.dcm`,
      })
    },
  })
}
