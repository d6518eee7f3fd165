/** A way out through a SOCKS 5 proxy (RFC 1928), with a login by name and password (RFC 1929) where it asks for one. */
import { connect, isIPv4, type Socket } from 'node:net'
import { GatewayError } from '../gateway/errors.ts'

const version = 5
const method = { none: 0, password: 2 } as const
const addressType = { ipv4: 1, name: 3, ipv6: 4 } as const
const idleMs = 30_000
/** RFC 1928 §6. */
const replies: Readonly<Record<number, string>> = {
  2: 'does not allow it: ask for it to be allowed',
  3: 'cannot reach the network of the endpoint',
  4: 'cannot reach the endpoint: check its address',
  5: 'was refused by the endpoint: check its port',
}

/**
 * Connects to `host:port` through the proxy, which also finds the address of a name.
 *
 * @throws GatewayError PROXY_REFUSED with what to do next
 */
export async function connectBySocks(
  proxy: { readonly host: string; readonly port: number },
  target: { readonly host: string; readonly port: number },
  login: { readonly user: string; readonly password: string } | undefined,
  signal: AbortSignal,
): Promise<Socket> {
  const refused = (what: string, cause?: unknown): GatewayError =>
    new GatewayError('PROXY_REFUSED', `the proxy ${proxy.host}:${proxy.port} ${what}`, { cause })
  const socket = connect({ host: proxy.host, port: proxy.port, noDelay: true, signal })
  socket.setTimeout(idleMs, () => socket.destroy(new Error('no answer in time')))
  try {
    const methods = login ? [method.none, method.password] : [method.none]
    socket.write(Uint8Array.of(version, methods.length, ...methods))
    const [spoken, chosen] = await take(socket, 2)
    if (spoken !== version) throw refused('is no SOCKS 5 proxy: check its address')
    if (chosen === method.password && login) {
      socket.write(Buffer.concat([Uint8Array.of(1), counted(login.user), counted(login.password)]))
      if ((await take(socket, 2))[1] !== 0) throw refused('refuses this login: check user and password')
    } else if (chosen !== method.none) throw refused('asks for a login: set user and proxyPassword')
    socket.write(Buffer.concat([Uint8Array.of(version, 1, 0), addressOf(target.host), portOf(target.port)]))
    const [, reply = 1, , type] = await take(socket, 4)
    if (reply !== 0) throw refused(replies[reply] ?? `could not connect to the endpoint (reply ${reply})`)
    const length = type === addressType.ipv4 ? 4 : type === addressType.ipv6 ? 16 : ((await take(socket, 1))[0] ?? 0)
    await take(socket, length + 2)
    socket.setTimeout(0)
    return socket
  } catch (error) {
    socket.on('error', () => undefined).destroy()
    signal.throwIfAborted()
    throw error instanceof GatewayError ? error : refused('cannot be reached, or broke off: check its address', error)
  }
}

/** So many bytes; what follows stays in the socket. */
async function take(socket: Socket, length: number): Promise<Buffer> {
  for (;;) {
    const bytes: Buffer | null = socket.read(length)
    if (bytes?.length === length) return bytes
    const { promise, resolve, reject } = Promise.withResolvers<void>()
    const closed = (): void => reject(new Error('connection closed'))
    socket.once('readable', resolve).once('error', reject).once('close', closed).once('end', closed)
    await promise.finally(() =>
      socket.off('readable', resolve).off('error', reject).off('close', closed).off('end', closed),
    )
  }
}

const counted = (text: string): Buffer => {
  const bytes = Buffer.from(text, 'utf8')
  if (bytes.length === 0 || bytes.length > 255)
    throw new GatewayError('PROXY_REFUSED', 'names and passwords of SOCKS proxies have 1 to 255 bytes')
  return Buffer.concat([Uint8Array.of(bytes.length), bytes])
}

const addressOf = (host: string): Buffer =>
  isIPv4(host)
    ? Buffer.from([addressType.ipv4, ...host.split('.').map(Number)])
    : Buffer.concat([Uint8Array.of(addressType.name), counted(host)])

const portOf = (port: number): Buffer => Buffer.from([port >> 8, port & 0xff])
