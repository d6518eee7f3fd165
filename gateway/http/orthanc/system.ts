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
  readonly checkRevisions?: boolean
  /** Numbers of users' metadata by name. */
  readonly userMetadata?: Readonly<Record<string, number>>
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
    const { name, aeTitle, dicomPort, httpPort, version, checkRevisions = false, userMetadata = {} } = system()
    return {
      ApiVersion: 16,
      Capabilities: { HasExtendedChanges: true, HasExtendedFind: true },
      CheckRevisions: checkRevisions,
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
      UserMetadata: userMetadata,
      Version: orthancVersion,
    }
  })

  app.get('/statistics', { schema: { tags, summary: 'Totals of the store' } }, async () => {
    const { patients, studies, series, instances, sizeBytes, attachedBytes, attachedContentBytes } =
      await loadCounts(db)
    const [stored, content] = [sizeBytes + attachedBytes, sizeBytes + attachedContentBytes]
    return {
      CountInstances: instances,
      CountPatients: patients,
      CountSeries: series,
      CountStudies: studies,
      TotalDiskSize: String(stored),
      TotalDiskSizeMB: Math.floor(stored / 1024 ** 2),
      TotalUncompressedSize: String(content),
      TotalUncompressedSizeMB: Math.floor(content / 1024 ** 2),
    }
  })
}
