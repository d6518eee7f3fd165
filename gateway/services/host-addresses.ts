/**
 * The addresses behind host names, remembered for a short while: callers decide how often they are asked
 * for, and a look-up occupies one of the few threads that also write to disk.
 */
import { lookup } from 'node:dns/promises'
import { BlockList, isIP } from 'node:net'

const rememberMs = 30_000
const maxRemembered = 1_000

/** Says whether an address is one of a host's. */
export class HostAddresses {
  readonly #found = new Map<string, { readonly addresses: Promise<readonly string[]>; readonly until: number }>()

  /** @param host  an IP address or a name; a name that does not resolve has no address */
  async has(host: string, address: string): Promise<boolean> {
    const plain = address.replace(/%.*$/, '')
    if (isIP(plain) === 0) return false
    const addresses = isIP(host) ? [host] : await this.#resolve(host.toLowerCase())
    return addresses.some(each => isSame(each, plain))
  }

  #resolve(name: string): Promise<readonly string[]> {
    const now = performance.now()
    const known = this.#found.get(name)
    if (known && known.until > now) return known.addresses
    const addresses = lookup(name, { all: true }).then(
      found => found.map(each => each.address),
      () => [],
    )
    this.#found.delete(name)
    this.#found.set(name, { addresses, until: now + rememberMs })
    const [oldest] = this.#found.keys()
    if (this.#found.size > maxRemembered && oldest !== undefined) this.#found.delete(oldest)
    return addresses
  }
}

/** Compares by value: an IPv6 address has many spellings. */
function isSame(one: string, other: string): boolean {
  if (one === other) return true
  const family = isIP(one)
  if (family !== isIP(other) || family === 4) return false
  const list = new BlockList()
  list.addAddress(one, 'ipv6')
  return list.check(other, 'ipv6')
}
