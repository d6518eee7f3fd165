/**
 * Mutual TLS in front of an HTTP server that has none of its own: stunnel where it is installed, a small
 * Node process elsewhere. As a program it is that process: `tls-front.ts DIR PORT` (prints its port).
 */
import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { type AddressInfo, connect, type Socket } from 'node:net'
import { join } from 'node:path'
import { createServer } from 'node:tls'
import { freePort } from '../support/free-port.ts'
import { spawnServer, untilReady } from './target.ts'

/** A terminator that runs. */
export interface TlsFront {
  /** What it is, for the report. */
  readonly name: 'stunnel' | 'Node'
  readonly port: number
  readonly pid: number
  stop(): Promise<void>
}

/** Starts a terminator that wants a client certificate of `ca.pem` and forwards to `port`. `directory` holds that, `site.pem` and `site.key`. */
export async function startTlsFront(directory: string, port: number): Promise<TlsFront> {
  return isInstalled('stunnel') ? await startStunnel(directory, port) : await startNode(directory, port)
}

async function startStunnel(directory: string, port: number): Promise<TlsFront> {
  const own = await freePort()
  const file = join(directory, 'stunnel.conf')
  const lines = [
    'foreground = yes',
    'pid =',
    'debug = err',
    'socket = l:TCP_NODELAY=1',
    'socket = r:TCP_NODELAY=1',
    '[front]',
    `accept = 127.0.0.1:${own}`,
    `connect = 127.0.0.1:${port}`,
    `cert = ${join(directory, 'site.pem')}`,
    `key = ${join(directory, 'site.key')}`,
    `CAfile = ${join(directory, 'ca.pem')}`,
    'verifyChain = yes',
    'sslVersionMin = TLSv1.3',
    '',
  ]
  await writeFile(file, lines.join('\n'))
  const server = spawnServer('stunnel', [file])
  await untilReady(server, () => isListening(own))
  return { name: 'stunnel', port: own, pid: server.pid, stop: server.stop }
}

async function startNode(directory: string, port: number): Promise<TlsFront> {
  const server = spawnServer(process.execPath, [import.meta.filename, directory, String(port)])
  await untilReady(server, async () => /^\d+\n/.test(server.lastWords()))
  return { name: 'Node', port: Number(server.lastWords()), pid: server.pid, stop: server.stop }
}

function isInstalled(command: string): boolean {
  return spawnSync(command, ['-version'], { stdio: 'ignore' }).error === undefined
}

async function isListening(port: number): Promise<boolean> {
  const { promise, resolve } = Promise.withResolvers<boolean>()
  const socket = connect(port, '127.0.0.1', () => resolve(true)).once('error', () => resolve(false))
  return await promise.finally(() => socket.destroy())
}

function serve(directory: string, port: number): void {
  const read = (name: string): Buffer => readFileSync(join(directory, name))
  const credentials = { ca: read('ca.pem'), cert: read('site.pem'), key: read('site.key') }
  const options = { ...credentials, minVersion: 'TLSv1.3', requestCert: true, rejectUnauthorized: true } as const
  const server = createServer(options, near => {
    const far = connect({ port, host: '127.0.0.1', noDelay: true })
    near.setNoDelay(true)
    const end = (socket: Socket) => (): void => void socket.destroy()
    near.on('error', end(far)).on('close', end(far)).pipe(far)
    far.on('error', end(near)).on('close', end(near)).pipe(near)
  })
  server.listen(0, '127.0.0.1', () => console.log(portOf(server.address())))
}

function portOf(address: AddressInfo | string | null): number {
  return typeof address === 'object' && address ? address.port : 0
}

if (process.argv[1] === import.meta.filename) serve(process.argv[2] ?? '', Number(process.argv[3]))
