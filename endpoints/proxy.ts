/** Endpoints behind a proxy: HTTP CONNECT or SOCKS 5, for one connection, or as what HTTP clients ask for connections. */
import { Agent as HttpAgent } from 'node:http'
import { Agent as HttpsAgent } from 'node:https'
import { isIP, type Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { type ConnectionOptions, connect as connectTls } from 'node:tls'
import { type Decoder, object, optional, text } from '../gateway/decode.ts'
import { openTunnel } from '../peers/connect-proxy.ts'
import { connectBySocks } from './socks5.ts'

/** A proxy that an endpoint is reached through; its password is a secret of the endpoint. */
export interface EndpointProxy {
  /** `http://`, `https://` (CONNECT) or `socks5://`, host and port. */
  readonly url: string
  readonly user: string | undefined
}

/** Reads it. */
export const endpointProxy: Decoder<EndpointProxy> = object({
  url: text({
    max: 300,
    pattern: /^(https?|socks5):\/\/[^\s/@:]+(:\d{1,5})?\/?$/,
    expected: 'http://, https:// or socks5:// with host and port, without credentials',
  }),
  user: optional(text({ min: 1, max: 255, pattern: /^[^:\p{Cc}]+$/u, expected: 'a user without colon' })),
})

const openMs = 30_000
const socksPort = 1080

/** Connects to `target`. @throws GatewayError PROXY_REFUSED */
export async function connectThrough(
  { url, user }: EndpointProxy,
  password: string | undefined,
  target: { readonly host: string; readonly port: number },
  signal: AbortSignal,
): Promise<Socket> {
  const either = AbortSignal.any([signal, AbortSignal.timeout(openMs)])
  const login = user === undefined ? undefined : { user, password: password ?? '' }
  const { protocol, hostname, port } = new URL(url)
  if (protocol === 'socks5:')
    return await connectBySocks({ host: hostname, port: Number(port || socksPort) }, target, login, either)
  return await openTunnel({ url, credentials: login && `${login.user}:${login.password}` }, target, either)
}

type Opened = (error: Error | null, socket?: Duplex) => void

/** For clients of `url`: an agent whose connections go through the proxy. */
export function proxyAgent(
  url: string,
  proxy: EndpointProxy,
  password: string | undefined,
  tls: ConnectionOptions = {},
): HttpAgent | HttpsAgent {
  const { protocol, hostname, port } = new URL(url)
  const isSecure = protocol === 'https:'
  const host = hostname.replace(/^\[|\]$/g, '')
  const target = { host, port: Number(port || (isSecure ? 443 : 80)) }
  const agent = isSecure ? new HttpsAgent({ keepAlive: true, ...tls }) : new HttpAgent({ keepAlive: true })
  return Object.assign(agent, {
    createConnection(options: ConnectionOptions, opened: Opened): undefined {
      connectThrough(proxy, password, target, AbortSignal.timeout(openMs)).then(socket => {
        if (!isSecure) return opened(null, socket)
        const servername = isIP(host) === 0 ? { servername: host } : {}
        opened(null, connectTls({ ...options, ...servername, socket, host }))
      }, opened)
    },
  })
}
