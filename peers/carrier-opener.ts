/** Opens carriers to peers: one connection pool each, through the proxy where one is configured. */
import { GatewayError } from '../gateway/errors.ts'
import type { Carrier } from './carrier.ts'
import type { ClockWatch } from './clock.ts'
import type { ProxySettings } from './connect-proxy.ts'
import { openPeerPool } from './dial.ts'
import { openHttpsCarrier } from './https-carrier.ts'
import type { SiteKeys } from './keys.ts'
import type { Peer } from './peer.ts'
import { createRangeBuffers } from './range-sender.ts'

/** Ranges of 4 MiB in memory at a time, of all transfers together. */
const rangeBuffers = 12
/** Ranges on their way to one peer at once. */
const parallelRanges = 6
/** One connection more than ranges: long polls must not wait behind them. */
const connections = parallelRanges + 2

/** A function that opens a carrier to a peer as its row says now. */
export function carrierOpener(options: {
  keys: SiteKeys
  clocks: ClockWatch
  proxy: ProxySettings | undefined
}): (peer: Peer) => Carrier {
  const { keys, clocks, proxy } = options
  const buffers = createRangeBuffers(rangeBuffers)
  return peer => {
    if (peer.url === undefined) {
      throw new GatewayError('PEER_UNREACHABLE', `${peer.name} has no address: set its URL, or wait until it dials in`)
    }
    const to = { id: peer.id, name: peer.name, url: peer.url }
    const pool = openPeerPool({
      credential: () => keys.tls(),
      to,
      caCertificate: peer.caCertificate,
      proxy,
      connections,
    })
    const signingKeys = [
      peer.signingKey,
      ...peer.card.keyHistory.filter(former => former.use === 'sign').map(former => former.key),
    ]
    return openHttpsCarrier({
      connection: { pool, to, clocks },
      self: keys.siteId,
      peer: { siteId: peer.siteId, signingKeys },
      buffers,
      connections: parallelRanges,
    })
  }
}
