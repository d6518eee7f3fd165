/** DICOMweb, DICOM PS3.18: the studies service under its own path. */
import type { FastifyInstance } from 'fastify'
import { type SearchServices, searchRoutes } from './search.ts'

/** What DICOMweb needs. */
export type DicomwebServices = SearchServices

/** Registers all routes below the service's path. */
export async function dicomwebRoutes(app: FastifyInstance, services: DicomwebServices): Promise<void> {
  await app.register(
    async scope => {
      searchRoutes(scope, services)
    },
    { prefix: services.place.path },
  )
}
