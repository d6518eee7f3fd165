/**
 * A way out through the hospital's HTTP proxy: CONNECT (RFC 9110 §9.3.6) with Basic login (RFC 7617).
 * The proxy sees host, port and bytes; TLS to the peer runs end to end inside.
 */
import { readFile } from 'node:fs/promises'
import { connect, type Socket } from 'node:net'
import { connect as connectTls } from 'node:tls'
import { GatewayError } from '../gateway/errors.ts'

/** The proxy of outbound connections. */
export interface ProxySettings {
  /** `http://host:port`, or `https://…` for a proxy that is itself reached over TLS. No credentials in it. */
  readonly url: string
  /** File with one line `user:password`; read for each connection, so that it can be changed. */
  readonly credentialsFile?: string | undefined
  /** The same, `user:password`, where it is no file's. */
  readonly credentials?: string | undefined
}

const maxHeadBytes = 16 * 1024

/**
 * Opens a tunnel to `host:port`.
 *
 * @throws GatewayError PROXY_REFUSED with what to do next; CONFIG_INVALID when the file cannot be read
 */
export async function openTunnel(
  proxy: ProxySettings,
  target: { host: string; port: number },
  signal: AbortSignal,
): Promise<Socket> {
  const authority = `${target.host.includes(':') ? `[${target.host}]` : target.host}:${target.port}`
  const { credentialsFile, credentials } = proxy
  const line = credentialsFile === undefined ? credentials : await readLogin(credentialsFile)
  const login = line === undefined ? undefined : Buffer.from(line, 'utf8').toString('base64')
  const socket = await connectToProxy(proxy, signal)
  try {
    socket.write(
      `CONNECT ${authority} HTTP/1.1\r\nHost: ${authority}\r\n${login ? `Proxy-Authorization: Basic ${login}\r\n` : ''}\r\n`,
    )
    const head = await readHead(socket, proxy, signal)
    judge(head, { proxy, authority, hasLogin: login !== undefined })
    return socket
  } catch (error) {
    socket.destroy()
    throw error
  }
}

async function readLogin(path: string): Promise<string> {
  let content: string
  try {
    content = await readFile(path, 'utf8')
  } catch (cause) {
    throw new GatewayError('CONFIG_INVALID', `the proxy’s credentials file ${path} cannot be read`, { cause })
  }
  const line = content.replace(/\r?\n$/, '')
  if (!/^[^:\r\n]+:[^\r\n]*$/.test(line)) {
    throw new GatewayError('CONFIG_INVALID', `expected one line user:password in the proxy’s credentials file ${path}`)
  }
  return line
}

async function connectToProxy(proxy: ProxySettings, signal: AbortSignal): Promise<Socket> {
  const { protocol, hostname, port } = new URL(proxy.url)
  const host = hostname.replace(/^\[|\]$/g, '')
  const isTls = protocol === 'https:'
  const socket = isTls
    ? connectTls({ host, port: Number(port || 443), servername: host })
    : connect({ host, port: Number(port || 80) })
  await settle(socket, isTls ? 'secureConnect' : 'connect', signal, cause =>
    refused(proxy, `cannot be reached (${reasonOf(cause)}): check its address and whether it is running`, cause),
  )
  socket.setNoDelay(true)
  return socket
}

/** Waits for one event; on error, end or abort the socket is destroyed and `explain`'s error thrown. */
async function settle(
  socket: Socket,
  event: string,
  signal: AbortSignal,
  explain: (cause: unknown) => GatewayError,
): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>()
  const abort = (): void => reject(signal.reason)
  const closed = (): void => reject(new Error('connection closed'))
  socket.once(event, resolve).once('error', reject).once('close', closed)
  signal.addEventListener('abort', abort, { once: true })
  if (signal.aborted) abort()
  try {
    await promise
  } catch (cause) {
    socket.on('error', () => {}).destroy()
    throw explain(cause)
  } finally {
    socket.off(event, resolve).off('error', reject).off('close', closed)
    signal.removeEventListener('abort', abort)
  }
}

/** The proxy's answer up to its empty line; what follows stays in the socket. */
async function readHead(socket: Socket, proxy: ProxySettings, signal: AbortSignal): Promise<string> {
  let received = Buffer.alloc(0)
  for (;;) {
    const chunk: Buffer | null = socket.read()
    if (chunk === null) {
      await settle(socket, 'readable', signal, cause =>
        refused(proxy, `did not answer to CONNECT (${reasonOf(cause)}): check that it is an HTTP proxy`, cause),
      )
      if (socket.readableLength === 0) throw refused(proxy, 'closed the connection without an answer to CONNECT')
      continue
    }
    received = Buffer.concat([received, chunk])
    const end = received.indexOf('\r\n\r\n')
    if (end >= 0) {
      const rest = received.subarray(end + 4)
      if (rest.length > 0) socket.unshift(rest)
      return received.toString('latin1', 0, end)
    }
    if (received.length > maxHeadBytes) throw refused(proxy, 'did not answer in HTTP: check that it is an HTTP proxy')
  }
}

function judge(head: string, at: { proxy: ProxySettings; authority: string; hasLogin: boolean }): void {
  const [, status = ''] = /^HTTP\/1\.[01] (\d{3})/.exec(head) ?? []
  if (/^2/.test(status)) return
  const { proxy, authority, hasLogin } = at
  if (status === '') throw refused(proxy, 'did not answer in HTTP: check that it is an HTTP proxy')
  if (status === '407') {
    const schemes = [...head.matchAll(/^proxy-authenticate:\s*([A-Za-z]+)/gim)].map(([, scheme = '']) => scheme)
    if (schemes.length > 0 && !schemes.some(scheme => scheme.toLowerCase() === 'basic')) {
      throw refused(
        proxy,
        `asks for a login by ${schemes.join(' or ')}, and only Basic is supported: ask for a Basic login or an exception`,
      )
    }
    throw refused(
      proxy,
      hasLogin
        ? 'refuses this login: check user and password in its credentials file'
        : 'asks for a login: name a credentials file',
    )
  }
  if (status === '403' || status === '405') {
    throw refused(proxy, `does not allow CONNECT to ${authority} (status ${status}): ask for it to be allowed`)
  }
  throw refused(
    proxy,
    `could not connect to ${authority} (status ${status}): check the peer’s address and that it is running`,
  )
}

const refused = (proxy: ProxySettings, what: string, cause?: unknown): GatewayError =>
  new GatewayError(
    'PROXY_REFUSED',
    `the proxy ${new URL(proxy.url).host} ${what}`,
    cause === undefined ? {} : { cause },
  )

function reasonOf(cause: unknown): string {
  if (cause instanceof Error && cause.name === 'TimeoutError') return 'no answer in time'
  if (cause instanceof Error && 'code' in cause && typeof cause.code === 'string') return cause.code
  return cause instanceof Error ? cause.message : 'unknown reason'
}
