/** All of Orthanc's routes about other nodes, beside the registry itself. */
import type { FastifyInstance } from 'fastify'
import { type RestPeerServices, restPeerRoutes } from './peers.ts'
import { type RemoteQueryServices, remoteQueryRoutes } from './remote-queries.ts'
import { type RemoteSendServices, remoteSendRoutes } from './remote-sends.ts'

/** What the routes need. */
export type RemoteNodeServices = RemoteQueryServices & RemoteSendServices & RestPeerServices

/** Registers the routes. */
export async function orthancRemoteRoutes(app: FastifyInstance, services: RemoteNodeServices): Promise<void> {
  await remoteQueryRoutes(app, services)
  await remoteSendRoutes(app, services)
  await restPeerRoutes(app, services)
}
