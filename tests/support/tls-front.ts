/** TLS in front of a plain HTTP server, as a reverse proxy does it: client certificates of one authority are demanded. */
import { type AddressInfo, connect, type Socket } from 'node:net'
import type { TestContext } from 'node:test'
import { createServer } from 'node:tls'
import type { CertificateFiles } from './certificates.ts'
import { onEnd } from './cleanup.ts'

/** Starts it; its port. */
export async function startTlsFront(
  t: TestContext,
  target: number,
  { certificate, key, clients }: Pick<CertificateFiles, 'certificate' | 'key'> & { readonly clients: string },
): Promise<number> {
  const sockets = new Set<Socket>()
  const own = { cert: certificate, key, ca: clients, requestCert: true, rejectUnauthorized: true }
  const server = createServer(own, client => {
    const upstream = connect({ host: '127.0.0.1', port: target, noDelay: true })
    for (const socket of [client, upstream]) {
      sockets.add(socket)
      socket.on('error', () => undefined)
      socket.on('close', () => [client, upstream].map(each => each.destroy()))
    }
    client.pipe(upstream)
    upstream.pipe(client)
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  onEnd(t, () => {
    for (const socket of sockets) socket.destroy()
    server.close()
  })
  return (server.address() as AddressInfo).port
}
