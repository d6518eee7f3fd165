/** DICOMweb, DICOM PS3.18: the studies service under its own path. */
import type { FastifyInstance } from 'fastify'
import { bulkDataRoutes } from './bulk-data.ts'
import { capabilitiesRoute } from './capabilities.ts'
import { type FrameServices, frameRoutes } from './frames.ts'
import { type InstanceServices, instanceRoutes } from './instances.ts'
import { metadataRoutes } from './metadata.ts'
import { type RemoveServices, removeRoutes } from './remove.ts'
import { type RenderedServices, renderedRoutes } from './rendered.ts'
import { type SearchServices, searchRoutes } from './search.ts'
import { type ServerServices, serverRoutes } from './servers.ts'
import { type StoreServices, storeRoutes } from './store.ts'
import { wadoUriRoute } from './wado-uri.ts'
import { type WorkitemServices, workitemRoutes } from './workitems.ts'

/** What DICOMweb needs. */
export type DicomwebServices = SearchServices &
  WorkitemServices &
  RenderedServices &
  InstanceServices &
  FrameServices &
  StoreServices &
  RemoveServices &
  ServerServices

/** Registers all routes below the service's path. */
export async function dicomwebRoutes(app: FastifyInstance, services: DicomwebServices): Promise<void> {
  wadoUriRoute(app, services)
  await app.register(
    async scope => {
      capabilitiesRoute(scope, services.place)
      searchRoutes(scope, services)
      instanceRoutes(scope, services)
      metadataRoutes(scope, services)
      frameRoutes(scope, services)
      bulkDataRoutes(scope, services)
      renderedRoutes(scope, services)
      storeRoutes(scope, services)
      removeRoutes(scope, services)
      serverRoutes(scope, services)
      workitemRoutes(scope, services)
    },
    { prefix: services.place.path },
  )
}
