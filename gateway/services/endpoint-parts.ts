/** Everything that endpoints need, put together: registry, deliveries, acknowledgements. */
import { join } from 'node:path'
import type { Queue } from '../jobs/queue.ts'
import { type Acknowledging, openAcknowledging } from './endpoint-acknowledge.ts'
import { type EndpointDelivery, type EndpointDeliveryParts, openEndpointDelivery } from './endpoint-delivery.ts'
import { createEndpointOutcomes } from './endpoint-outcomes.ts'
import { openEndpointVault } from './endpoint-secrets.ts'
import { type Endpoints, openEndpoints } from './endpoints.ts'

/** What the gateway has of endpoints. */
export interface EndpointServices {
  readonly endpoints: Endpoints
  readonly endpointDelivery: EndpointDelivery
  readonly acknowledging: Acknowledging
}

/** Opens them and takes the lane. @param options.dataDir  keys and deliveries by hand lie below it */
export function openEndpointServices(
  options: Omit<EndpointDeliveryParts, 'endpoints' | 'handDir' | 'queue'> & {
    readonly queue: Pick<Queue, 'enqueue' | 'work'>
    readonly dataDir: string
  },
): EndpointServices {
  const { db, queue, blobs, log, dataDir, keys, clock = () => new Date() } = options
  const vault = openEndpointVault(join(dataDir, 'keys', 'endpoints.json'))
  const endpoints = openEndpoints({ db, queue, vault, log })
  const handDir = join(dataDir, 'by-hand')
  const endpointDelivery = openEndpointDelivery({ ...options, endpoints, handDir })
  const outcomes = createEndpointOutcomes({ db, queue, from: keys.siteId, clock, log })
  queue.work('deliver-endpoint', { concurrency: 8 }, ({ transfer }, signal) => endpointDelivery.run(transfer, signal))
  return { endpoints, endpointDelivery, acknowledging: openAcknowledging({ db, blobs, outcomes, handDir }) }
}
