import assert from 'node:assert/strict'
import { createServer, type Server } from 'node:net'
import { type TestContext, test } from 'node:test'
import { createServer as createTlsServer, type TlsOptions } from 'node:tls'
import { type DialTls, dial } from '../../gateway/dimse/dial.ts'
import { echoScu } from '../../gateway/dimse/scu.ts'
import { temporaryDir } from '../support/blobs.ts'
import type { CertificateFiles } from '../support/certificates.ts'
import { missing, startStorescp } from '../support/dcmtk.ts'
import { freePort } from '../support/free-port.ts'
import { startTlsScp, testCertificates } from './tls-fixture.ts'

const target = (port: number, tls?: DialTls) => ({
  host: '127.0.0.1',
  port,
  callingAe: 'HANSE',
  calledAe: 'NODE',
  ...(tls && { tls }),
})

async function listen(t: TestContext, server: Server): Promise<number> {
  server.on('error', () => undefined)
  const { promise, resolve } = Promise.withResolvers<void>()
  server.listen(0, '127.0.0.1', resolve)
  await promise
  t.after(() => server.close())
  const address = server.address()
  return typeof address === 'object' && address ? address.port : 0
}

/** A TLS server that says nothing, with this certificate. */
const silentTls = (t: TestContext, { certificate, key }: CertificateFiles, options: TlsOptions = {}): Promise<number> =>
  listen(
    t,
    createTlsServer({ cert: certificate, key, ...options }, socket => socket.on('error', () => undefined)).on(
      'tlsClientError',
      () => undefined,
    ),
  )

test('we verify storescp and are verified by it', { skip: missing('storescp') }, async t => {
  const { authority, gateway, modality } = await testCertificates()
  const files = [modality.keyFile, modality.certificateFile]
  const dir = await temporaryDir(t)
  const { port } = await startStorescp(t, ['+tls', ...files, '+cf', authority.certificateFile, '-od', dir])
  const ca = authority.certificate
  const own = { cert: gateway.certificate, key: gateway.key }

  assert.deepEqual(await echoScu(target(port, { verify: true, ca, ...own })), { status: 0 })
  await assert.rejects(
    echoScu(target(port, { verify: true, ca })),
    /requires a client certificate|closed the connection|refused/,
  )
  await assert.rejects(echoScu(target(port)), /closed the connection|aborted|did not answer/)
})

test('our SCU and our SCP speak TLS with each other', async t => {
  const { tlsPort, certificates } = await startTlsScp(t)
  const { authority, modality, foreign } = certificates
  const ca = authority.certificate
  const as = ({ certificate, key }: CertificateFiles) => ({ cert: certificate, key })

  assert.deepEqual(await echoScu(target(tlsPort, { verify: true, ca, ...as(modality) })), { status: 0 })
  await assert.rejects(
    echoScu(target(tlsPort, { verify: true, ca, ...as(foreign) })),
    /closed by the peer after the TLS handshake: does it accept our certificate/,
  )
  await assert.rejects(echoScu(target(tlsPort, { verify: true, ca })), /closed by the peer after the TLS/)
})

test('a wrong certificate of a node is refused, and the error says what is wrong with it', async t => {
  const { authority, gateway, expired, foreign } = await testCertificates()
  const elsewhere = await authority.issue('elsewhere', { names: 'DNS:elsewhere.example' })
  const ca = authority.certificate
  const verified: DialTls = { verify: true, ca }
  const cases: readonly (readonly [CertificateFiles, DialTls, RegExp])[] = [
    [foreign, verified, /authority that is not trusted \(register its authority or its fingerprint\)/],
    [gateway, { verify: true }, /authority that is not trusted/],
    [expired, verified, /certificate that is expired/],
    [elsewhere, verified, /certificate for another host name/],
    [gateway, { verify: true, fingerprint: foreign.fingerprint }, /another certificate than the one/],
    [expired, { verify: true, fingerprint: expired.fingerprint }, /certificate that is expired/],
  ]

  for (const [server, tls, expected] of cases) {
    const port = await silentTls(t, server)
    await assert.rejects(dial({ host: '127.0.0.1', port, tls }), expected)
  }
  for (const [server, tls] of [
    [gateway, verified],
    [elsewhere, { ...verified, servername: 'elsewhere.example' }],
    [foreign, { verify: true, fingerprint: foreign.fingerprint }],
    [foreign, { verify: false }],
  ] as const) {
    const socket = await dial({ host: '127.0.0.1', port: await silentTls(t, server), tls })
    socket.destroy()
  }
})

test('what cannot be reached is told by cause', async t => {
  const { gateway } = await testCertificates()
  const tls: DialTls = { verify: true }
  const mute = await listen(t, createServer())
  const rude = await listen(
    t,
    createServer(socket => socket.end('220 not TLS\r\n')),
  )
  const old = await silentTls(t, gateway, { minVersion: 'TLSv1', maxVersion: 'TLSv1.1', ciphers: 'ALL:@SECLEVEL=0' })
  const other = await silentTls(t, gateway, { maxVersion: 'TLSv1.2', ciphers: 'AES256-GCM-SHA384' })
  const host = '127.0.0.1'

  await assert.rejects(dial({ host, port: await freePort() }), /port \d+ refused the connection: nothing listens/)
  await assert.rejects(dial({ host: 'no-such-host.invalid', port: 104 }), /the host name does not resolve/)
  await assert.rejects(
    dial({ host, port: mute, tls, timeoutMs: 200 }),
    /did not answer within 200 ms, TLS handshake included/,
  )
  await assert.rejects(dial({ host, port: rude, tls }), /does not speak TLS on this port/)
  await assert.rejects(dial({ host, port: old, tls }), /no version of TLS that we do/)
  await assert.rejects(dial({ host, port: other, tls }), /refused the TLS handshake/)
  const stopped = new AbortController()
  const dialing = dial({ host, port: mute, tls, signal: stopped.signal })
  stopped.abort(new Error('enough'))
  await assert.rejects(dialing, /enough/)
})
