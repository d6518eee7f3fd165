/** An SCP with a TLS listener, the certificates around it, and raw peers that speak TLS. */
import { rmSync } from 'node:fs'
import { mkdtemp } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { type ConnectionOptions, connect, type TLSSocket } from 'node:tls'
import { type DicomCredentials, openCredentials } from '../../gateway/dimse/credentials.ts'
import type { ScpOptions, TlsClients } from '../../gateway/dimse/scp.ts'
import { type CertificateFiles, makeAuthority, type TestAuthority } from '../support/certificates.ts'
import { type LogLine, memoryLog } from '../support/memory-log.ts'
import { RawPeer, startScp, type TestScp } from './fixture.ts'

/** Our authority and what it issued, and a foreign one. */
export interface TestCertificates {
  readonly authority: TestAuthority
  readonly gateway: CertificateFiles
  readonly modality: CertificateFiles
  readonly expired: CertificateFiles
  readonly foreign: CertificateFiles
}

let made: Promise<TestCertificates> | undefined

/** Made once for a test file: RSA keys take longer than the rest of a test. */
export function testCertificates(): Promise<TestCertificates> {
  made ??= make()
  return made
}

async function make(): Promise<TestCertificates> {
  const dir = await mkdtemp(join(tmpdir(), 'hanse-tls-'))
  process.once('exit', () => rmSync(dir, { recursive: true, force: true }))
  const [authority, other] = await Promise.all([makeAuthority(dir, 'Ours'), makeAuthority(dir, 'Foreign')])
  const gateway = await authority.issue('gateway')
  const modality = await authority.issue('CT1')
  const expired = await authority.issue('CT1', { ended: true })
  return { authority, gateway, modality, expired, foreign: await other.issue('CT1') }
}

export interface TlsScp extends TestScp {
  readonly tlsPort: number
  readonly certificates: TestCertificates
  readonly lines: LogLine[]
  /** Warnings that begin with these words. */
  warnings(begin: string): string[]
}

/** Starts an SCP that listens by TLS as well. */
export async function startTlsScp(
  t: TestContext,
  options: {
    clients?: TlsClients
    /** Fingerprints of registered certificates. */
    registered?: readonly string[]
    /** Instead of those of the gateway. */
    credentials?: DicomCredentials
    scp?: Partial<ScpOptions>
  } = {},
): Promise<TlsScp> {
  const certificates = await testCertificates()
  const { authority, gateway } = certificates
  const lines: LogLine[] = []
  const log = memoryLog(lines)
  const credentials =
    options.credentials ??
    (await openCredentials({
      source: { ...gateway, caFile: authority.certificateFile, issue: () => Promise.reject(new Error('not asked')) },
      log,
    }))
  t.after(() => credentials.close())
  const running = await startScp(t, {
    log,
    tls: {
      port: 0,
      clients: options.clients ?? 'required',
      credentials,
      isRegistered: fingerprint => options.registered?.includes(fingerprint) ?? false,
    },
    ...options.scp,
  })
  return {
    ...running,
    tlsPort: running.scp.tlsAddress?.port ?? 0,
    certificates,
    lines,
    warnings: begin =>
      lines.filter(line => line.level === 'warn' && line.message.startsWith(begin)).map(line => line.message),
  }
}

/** Connects by TLS; resolves after the handshake, rejects when it fails. */
export async function connectTls(t: TestContext, port: number, options: ConnectionOptions = {}): Promise<TLSSocket> {
  const socket = connect({ host: '127.0.0.1', port, rejectUnauthorized: false, ...options })
  t.after(() => socket.destroy())
  const { promise, resolve, reject } = Promise.withResolvers<void>()
  socket.once('secureConnect', resolve)
  socket.once('error', reject)
  await promise
  return socket
}

/** A raw peer by TLS, with a client certificate. */
export async function connectRawTls(t: TestContext, port: number, client?: CertificateFiles): Promise<RawPeer> {
  const socket = await connectTls(t, port, client && { cert: client.certificate, key: client.key })
  return new RawPeer(socket)
}
