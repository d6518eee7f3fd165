/** A line between a client and a server on this machine, for tests that cut it or make it slow. */
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'
import type { TestContext } from 'node:test'
import { onEnd } from './cleanup.ts'

/**
 * Listens for clients of `target`.
 *
 * @param join  connects both ends of one connection; `cut` ends it
 * @returns the port
 */
export async function openLine(
  t: TestContext,
  target: number,
  join: (client: Socket, upstream: Socket, cut: () => void) => void,
): Promise<number> {
  const sockets = new Set<Socket>()
  const server = createServer(client => {
    const upstream = connect({ host: '127.0.0.1', port: target, noDelay: true })
    const cut = (): void => {
      client.destroy()
      upstream.destroy()
    }
    client.setNoDelay(true)
    for (const socket of [client, upstream]) {
      sockets.add(socket)
      socket.on('error', cut).on('close', cut)
    }
    join(client, upstream, cut)
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  onEnd(t, () => {
    for (const socket of sockets) socket.destroy()
    server.close()
  })
  return (server.address() as AddressInfo).port
}
