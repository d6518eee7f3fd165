/** Real middle boxes for tests: an HTTP CONNECT proxy with login, and one that inspects TLS. */
import { execFile } from 'node:child_process'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { createServer } from 'node:http'
import { type AddressInfo, connect, type Server, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { createServer as createTlsServer, type SecureVersion } from 'node:tls'
import { promisify } from 'node:util'
import type { Credential } from '../../certs/ca.ts'

/** A proxy that answers CONNECT; `connections` lists the authorities that were let through. */
export interface TestProxy {
  readonly url: string
  readonly connections: string[]
  /** Logins seen, decoded. */
  readonly logins: (string | undefined)[]
}

export interface ProxyOptions {
  /** `user:password` that is demanded. */
  readonly login?: string
  /** Value of Proxy-Authenticate. */
  readonly scheme?: string
  /** Refuses every CONNECT with this status. */
  readonly status?: number
  /** Where tunnels end in place of what was asked for: a box that inspects. */
  readonly divertTo?: number
}

export async function startProxy(t: TestContext, options: ProxyOptions = {}): Promise<TestProxy> {
  const { login, scheme = 'Basic realm="hospital"', status, divertTo } = options
  const connections: string[] = []
  const logins: (string | undefined)[] = []
  const sockets = new Set<Socket>()
  const server = createServer()
  server.on('connection', socket => sockets.add(socket))
  server.on('connect', (request, socket: Socket, head) => {
    socket.on('error', () => socket.destroy())
    const authorization = request.headers['proxy-authorization']?.replace(/^Basic /, '')
    const seen = authorization === undefined ? undefined : Buffer.from(authorization, 'base64').toString()
    logins.push(seen)
    const refusal = login !== undefined && seen !== login ? 407 : status
    if (refusal !== undefined) {
      socket.end(`HTTP/1.1 ${refusal} Refused\r\nProxy-Authenticate: ${scheme}\r\nContent-Length: 0\r\n\r\n`)
      return
    }
    const authority = request.url ?? ''
    connections.push(authority)
    const { hostname, port } = new URL(`http://${authority}`)
    const upstream = connect({ host: divertTo === undefined ? hostname : '127.0.0.1', port: divertTo ?? Number(port) })
    sockets.add(upstream)
    upstream.on('error', () => socket.destroy())
    upstream.once('connect', () => {
      socket.write('HTTP/1.1 200 Connection established\r\n\r\n')
      upstream.write(head)
      socket.pipe(upstream).pipe(socket)
    })
  })
  const port = await start(t, server, sockets)
  return { url: `http://127.0.0.1:${port}`, connections, logins }
}

/** A TLS endpoint as an inspecting middle box puts it up: a certificate for the host from its own CA. */
export async function startInspector(
  t: TestContext,
  options: { credential: Credential; maxVersion?: SecureVersion },
): Promise<number> {
  const sockets = new Set<Socket>()
  const { certificate, key } = options.credential
  const server = createTlsServer({ cert: certificate, key, maxVersion: options.maxVersion ?? 'TLSv1.3' }, socket => {
    socket.on('error', () => {})
    socket.end('HTTP/1.1 200 OK\r\n\r\n')
  })
  server.on('connection', socket => sockets.add(socket))
  return await start(t, server, sockets)
}

/** A certificate for 127.0.0.1 below another authority, made by OpenSSL. */
export async function foreignCredential(t: TestContext, issuer: string): Promise<Credential> {
  const dir = await mkdtemp(join(tmpdir(), 'hanse-foreign-'))
  t.after(() => rm(dir, { recursive: true, force: true }))
  const path = (name: string): string => join(dir, name)
  const openssl = async (...args: readonly string[]) => await promisify(execFile)('openssl', args)
  const key = ['-newkey', 'rsa:2048', '-nodes']
  await openssl(
    'req',
    '-x509',
    ...key,
    '-keyout',
    path('ca.key'),
    '-out',
    path('ca.pem'),
    '-subj',
    issuer,
    '-days',
    '2',
  )
  await openssl('req', ...key, '-keyout', path('leaf.key'), '-out', path('leaf.csr'), '-subj', '/CN=127.0.0.1')
  const signing = ['-CA', path('ca.pem'), '-CAkey', path('ca.key'), '-CAcreateserial', '-days', '2']
  await openssl('x509', '-req', '-in', path('leaf.csr'), ...signing, '-out', path('leaf.pem'))
  return { certificate: await readFile(path('leaf.pem'), 'utf8'), key: await readFile(path('leaf.key'), 'utf8') }
}

async function start(t: TestContext, server: Server, sockets: ReadonlySet<Socket>): Promise<number> {
  server.listen(0, '127.0.0.1')
  await new Promise(resolve => server.once('listening', resolve))
  t.after(async () => {
    for (const socket of sockets) socket.destroy()
    await new Promise(resolve => server.close(resolve))
  })
  return (server.address() as AddressInfo).port
}
