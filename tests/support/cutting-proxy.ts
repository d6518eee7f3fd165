/** A line that breaks: a TCP proxy whose connections are cut after so many bytes towards the server. */
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'
import type { TestContext } from 'node:test'
import { onEnd } from './cleanup.ts'

export interface CuttingProxy {
  readonly port: number
  /** Cuts that were made. */
  readonly cuts: number
  /** Bytes that went to the server. */
  readonly forwarded: number
  /** Bytes that came back from it. */
  readonly received: number
}

/**
 * @param next     after how many bytes the next connection is cut; undefined for never
 * @param towards  whose bytes are counted for that
 */
export async function startCuttingProxy(
  t: TestContext,
  target: number,
  next: () => number | undefined,
  towards: 'server' | 'client' = 'server',
): Promise<CuttingProxy> {
  const sockets = new Set<Socket>()
  let [cuts, forwarded, received] = [0, 0, 0]
  const server = createServer(client => {
    const upstream = connect({ host: '127.0.0.1', port: target, noDelay: true })
    let left = next() ?? Number.POSITIVE_INFINITY
    const end = (): void => {
      client.destroy()
      upstream.destroy()
    }
    for (const socket of [client, upstream]) {
      sockets.add(socket)
      socket.on('error', end).on('close', end)
    }
    client.setNoDelay(true)
    const count = (bytes: number): void => {
      left -= bytes
      if (left > 0) return
      cuts += 1
      end()
    }
    upstream.pipe(client)
    upstream.on('data', bytes => {
      received += bytes.length
      if (towards === 'client') count(bytes.length)
    })
    client.on('data', bytes => {
      forwarded += bytes.length
      upstream.write(bytes)
      if (towards === 'server') count(bytes.length)
    })
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  onEnd(t, () => {
    for (const socket of sockets) socket.destroy()
    server.close()
  })
  return {
    port: (server.address() as AddressInfo).port,
    get cuts() {
      return cuts
    },
    get forwarded() {
      return forwarded
    },
    get received() {
      return received
    },
  }
}
