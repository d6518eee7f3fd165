/**
 * The part of Orthanc's REST API (version 1.10) that clients need to upload, browse and download:
 * same paths, same JSON, same ids. What differs is in the OpenAPI document and README: errors are
 * problem documents with Orthanc's fields beside, and an upload may answer `Status: Conflict`.
 */
import { Readable } from 'node:stream'
import type { FastifyInstance, FastifyReply } from 'fastify'
import type { Db } from '../../db/db.ts'
import { readPart10 } from '../../dicom/part10-reader.ts'
import { GatewayError } from '../../errors.ts'
import type { Retrieve } from '../../services/retrieve.ts'
import {
  findIds,
  type Level,
  loadCounts,
  loadInstances,
  loadPatients,
  loadSeries,
  loadStudies,
} from '../../store/query.ts'
import { sendFile } from '../send-file.ts'
import { type OrthancJobServices, orthancJobRoutes } from './jobs.ts'
import { instanceJson, patientJson, seriesJson, studyJson } from './resources.ts'
import { type StorageCommitmentServices, storageCommitmentRoutes } from './storage-commitment.ts'
import { fullTags, simpleTags } from './tags.ts'
import { type Upload, uploadRoute } from './upload-route.ts'

export interface OrthancServices {
  readonly db: Db
  readonly retrieve: Retrieve
  readonly upload: Upload
  /** Storage commitment; where there is none its routes are missing. */
  readonly commitment?: StorageCommitmentServices
  /** Jobs; where there are none their routes are missing. */
  readonly jobs?: OrthancJobServices
  /** What `/system` tells. */
  readonly system: () => { name: string; aeTitle: string; dicomPort: number; httpPort: number; version: string }
}

/** Version of Orthanc's API that these routes follow; clients switch features by it. */
const orthancVersion = '1.10.1'

const tags = ['Orthanc']
const idParams = { type: 'object', properties: { id: { type: 'string', maxLength: 64 } }, required: ['id'] } as const
const count = { type: 'integer', minimum: 0, maximum: Number.MAX_SAFE_INTEGER } as const
const listQuery = {
  type: 'object',
  properties: {
    since: { ...count, description: 'Rows to skip; only together with limit' },
    limit: { ...count, description: 'Rows to give; only together with since' },
    expand: { type: 'string', description: 'Give details instead of ids' },
  },
} as const

interface ListQuery {
  readonly since?: number
  readonly limit?: number
  readonly expand?: string
}

type Details = (db: Db, ids: readonly string[]) => Promise<readonly object[]>

const levels: readonly { readonly path: string; readonly level: Level; readonly details: Details }[] = [
  { path: 'patients', level: 'patient', details: async (db, ids) => (await loadPatients(db, ids)).map(patientJson) },
  { path: 'studies', level: 'study', details: async (db, ids) => (await loadStudies(db, ids)).map(studyJson) },
  { path: 'series', level: 'series', details: async (db, ids) => (await loadSeries(db, ids)).map(seriesJson) },
  {
    path: 'instances',
    level: 'instance',
    details: async (db, ids) => (await loadInstances(db, ids)).map(instanceJson),
  },
]

/** Registers the routes. */
export function orthancRoutes(app: FastifyInstance, services: OrthancServices): void {
  const { db, retrieve, system } = services

  app.get('/system', { schema: { tags, summary: 'What this is, and which API it follows' } }, async () => {
    const { name, aeTitle, dicomPort, httpPort, version } = system()
    return {
      ApiVersion: 16,
      CheckRevisions: false,
      DatabaseBackendPlugin: null,
      DatabaseVersion: 6,
      DicomAet: aeTitle,
      DicomPort: dicomPort,
      HanseVersion: version,
      HttpPort: httpPort,
      IsHttpServerSecure: true,
      Name: name,
      PluginsEnabled: false,
      StorageAreaPlugin: null,
      Version: orthancVersion,
    }
  })

  app.get('/statistics', { schema: { tags, summary: 'Totals of the store' } }, async () => {
    const { patients, studies, series, instances, sizeBytes } = await loadCounts(db)
    const megabytes = Math.floor(sizeBytes / 1024 ** 2)
    return {
      CountInstances: instances,
      CountPatients: patients,
      CountSeries: series,
      CountStudies: studies,
      TotalDiskSize: String(sizeBytes),
      TotalDiskSizeMB: megabytes,
      TotalUncompressedSize: String(sizeBytes),
      TotalUncompressedSizeMB: megabytes,
    }
  })

  for (const { path, level, details } of levels) {
    app.get<{ Querystring: ListQuery }>(
      `/${path}`,
      { schema: { tags, summary: `List ${path}`, querystring: listQuery } },
      async (request, reply) => {
        const { since, limit, expand } = request.query
        if ((since === undefined) !== (limit === undefined)) {
          throw new GatewayError('BAD_REQUEST', 'since and limit are given together or not at all')
        }
        const window = since !== undefined && limit !== undefined ? { since, limit } : undefined
        const isExpanded = expand !== undefined && expand !== 'false' && expand !== '0'
        return await sendList(reply, db, findIds(db, level, window), isExpanded ? details : undefined)
      },
    )
    app.get<{ Params: { id: string } }>(
      `/${path}/:id`,
      { schema: { tags, summary: `One ${level}`, params: idParams } },
      async request => {
        const [found] = await details(db, [request.params.id])
        if (!found) throw new GatewayError('NOT_FOUND', `no such ${level}`)
        return found
      },
    )
  }

  app.route<{ Params: { id: string } }>({
    // HEAD by ourselves: the framework's own would read the whole file for its length.
    method: ['GET', 'HEAD'],
    url: '/instances/:id/file',
    schema: { tags, summary: 'The file as received, whole or a range; audited', params: idParams },
    handler: async (request, reply) => {
      const { blob, fileSha256, sopInstanceUid } = await retrieve.openInstance(request.principal, request.params.id)
      return await sendFile(request, reply, blob, {
        sha256: fileSha256.toString('hex'),
        type: 'application/dicom',
        filename: `${sopInstanceUid}.dcm`,
      })
    },
  })

  for (const [name, convert] of [
    ['tags', fullTags],
    ['simplified-tags', simpleTags],
  ] as const) {
    app.get<{ Params: { id: string } }>(
      `/instances/:id/${name}`,
      { schema: { tags, summary: 'The data set as JSON; audited', params: idParams } },
      async request => {
        const { blob } = await retrieve.openInstance(request.principal, request.params.id)
        try {
          // Pixel data and other long values stay on disk.
          const { dataset } = await readPart10(blob, { maxValueBytes: 65_536, maxTotalBytes: 16 * 1024 ** 2 })
          return convert(dataset)
        } finally {
          await blob.close()
        }
      },
    )
  }

  uploadRoute(app, services.upload)
  if (services.commitment) storageCommitmentRoutes(app, services.commitment)
  if (services.jobs) orthancJobRoutes(app, services.jobs)
}

const detailPage = 100

/** A JSON array written page by page: a list of a million ids never stands in memory. */
async function sendList(
  reply: FastifyReply,
  db: Db,
  pages: AsyncGenerator<string[]>,
  details: Details | undefined,
): Promise<FastifyReply> {
  const first = await pages.next()
  async function* text(): AsyncGenerator<string> {
    let separator = '['
    for (let page = first; !page.done; page = await pages.next()) {
      for (let at = 0; at < page.value.length; at += detailPage) {
        const ids = page.value.slice(at, at + detailPage)
        const items = details ? await details(db, ids) : ids
        if (items.length === 0) continue
        yield separator + items.map(item => JSON.stringify(item)).join(',')
        separator = ','
      }
    }
    yield separator === '[' ? '[]' : ']'
  }
  return reply.type('application/json; charset=utf-8').send(Readable.from(text()))
}
