/**
 * FTP through a proxy. The library opens sockets by itself, for the control connection and for each transfer: they are
 * given to a door of this process, open for that socket only, behind which the way goes on through the proxy.
 */
import { once } from 'node:events'
import { createServer, Socket } from 'node:net'
import { pipeline } from 'node:stream/promises'
import type { Client } from 'basic-ftp'
import { connectThrough, type EndpointProxy } from './proxy.ts'

/** Has a client's connections go through a proxy, all to the host of the endpoint. */
export function useProxy(
  client: Client,
  host: string,
  proxy: EndpointProxy,
  password: string | undefined,
  signal: AbortSignal,
): void {
  const connect = async (
    socket: Socket,
    open: (door: number) => void,
    port: number,
    connected?: () => void,
  ): Promise<void> => {
    const tunnel = await connectThrough(proxy, password, { host, port }, signal)
    const door = createServer({ noDelay: true })
    try {
      door.listen(0, '127.0.0.1')
      await once(door, 'listening')
      const opened = once(socket, 'connect')
      if (connected) socket.once('connect', connected)
      door.on('connection', inner => {
        // Nobody else of this machine comes in.
        void opened.then(
          () => {
            if (inner.remotePort !== socket.localPort) return inner.destroy()
            tunnel.setNoDelay(true)
            for (const way of [pipeline(inner, tunnel), pipeline(tunnel, inner)])
              way.catch(() => [inner, tunnel].map(each => each.destroy()))
            return door.close()
          },
          () => inner.destroy(),
        )
      })
      const at = door.address()
      open(at !== null && typeof at === 'object' ? at.port : 0)
      await opened
    } catch (error) {
      tunnel.destroy()
      door.close()
      throw error
    }
  }
  client.ftp._newSocket = () => {
    const socket = new Socket()
    const own = socket.connect.bind(socket)
    const open = (door: number): void => void own({ host: '127.0.0.1', port: door })
    return Object.assign(socket, {
      connect: ({ port }: { readonly port: number }, connected?: () => void) => {
        connect(socket, open, port, connected).catch(error => socket.destroy(error))
        return socket
      },
    })
  }
}
