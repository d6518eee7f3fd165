/**
 * An accepted socket that is read into memory of ours.
 *
 * `net.Socket` has the option `onread` for that, but `net.Server` cannot pass it on. So the
 * accepted socket's handle is moved into a socket that has it. The handle is a property without
 * documentation: where it is not found, the accepted socket is read in the ordinary way.
 */
import { Socket } from 'node:net'
import type { ReceiveBuffers } from './receive-buffers.ts'

/**
 * @param accepted  from a server with `pauseOnConnect`, so that nothing has been read yet
 * @param onBytes   gets what has been read; valid during the call, and longer for who holds it
 */
export function pooledSocket(accepted: Socket, buffers: ReceiveBuffers, onBytes: (bytes: Buffer) => void): Socket {
  const handle: unknown = Reflect.get(accepted, '_handle')
  if (typeof handle !== 'object' || handle === null) {
    accepted.on('data', onBytes)
    accepted.resume()
    return accepted
  }
  const reads = buffers.open()
  const options = {
    handle,
    onread: {
      buffer: () => reads.next(),
      callback: (length: number) => {
        onBytes(reads.filled(length))
        return true
      },
    },
  }
  // Without its handle the accepted socket has nothing to close; destroying it takes it off its server's count.
  Reflect.set(accepted, '_handle', null)
  accepted.destroy()
  // The type of `handle` knows only bound sockets.
  const socket: Socket = Reflect.construct(Socket, [options])
  socket.on('close', () => reads.close())
  socket.resume()
  return socket
}
