/** What the server is, and totals of what it holds. */
import type { FastifyInstance } from 'fastify'
import type { Db } from '../../db/db.ts'
import { loadCounts } from '../../store/query.ts'

/** What `/system` tells. */
export interface SystemFacts {
  readonly name: string
  readonly aeTitle: string
  readonly dicomPort: number
  readonly httpPort: number
  /** Hanse's own version. */
  readonly version: string
}

/** Version of Orthanc's API that these routes follow; clients switch features by it. */
const orthancVersion = '1.10.1'

const tags = ['Orthanc']

/** Registers the routes. */
export function systemRoutes(
  app: FastifyInstance,
  { db, system }: { readonly db: Db; readonly system: () => SystemFacts },
): void {
  app.get('/system', { schema: { tags, summary: 'What this is, and which API it follows' } }, async () => {
    const { name, aeTitle, dicomPort, httpPort, version } = system()
    return {
      ApiVersion: 16,
      Capabilities: { HasExtendedChanges: true, HasExtendedFind: true },
      CheckRevisions: false,
      DatabaseBackendPlugin: null,
      DatabaseVersion: 6,
      DicomAet: aeTitle,
      DicomPort: dicomPort,
      HanseVersion: version,
      HasLabels: true,
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
}
