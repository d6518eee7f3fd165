import assert from 'node:assert/strict'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { createServer as createTlsServer } from 'node:tls'
import { createCa, issueLeaf } from '../../certs/ca.ts'
import { type ErrorCode, isGatewayError } from '../../gateway/errors.ts'
import { type DialOptions, dial, openPeerPool } from '../../peers/dial.ts'
import { foreignCredential, startInspector, startProxy } from '../support/proxy.ts'
import { dialOptions, pair, startSite, type TestSite, testKeys } from '../support/site.ts'

const minuteMs = 60_000
const fails = async (options: DialOptions, code: ErrorCode, message: RegExp): Promise<void> =>
  await assert.rejects(dial(options), error => {
    assert.ok(isGatewayError(error), String(error))
    assert.equal(error.code, code, error.message)
    assert.match(error.message, message)
    return true
  })

async function pairedSites(t: TestContext): Promise<{ a: TestSite; b: TestSite }> {
  const [a, b] = await Promise.all([startSite(t, { name: 'Hospital A' }), startSite(t, { name: 'Hospital B' })])
  await pair(a, b)
  return { a, b }
}

async function get(t: TestContext, options: DialOptions): Promise<string> {
  const pool = openPeerPool(options)
  t.after(() => pool.destroy())
  const { body } = await pool.request({ method: 'GET', path: '/' })
  return await body.text()
}

async function secretFile(t: TestContext, content: string): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'hanse-proxy-'))
  t.after(() => rm(dir, { recursive: true, force: true }))
  await writeFile(join(dir, 'login'), content, { mode: 0o600 })
  return join(dir, 'login')
}

test('requests go through a CONNECT proxy with login, end to end encrypted', async t => {
  const { a, b } = await pairedSites(t)
  const proxy = await startProxy(t, { login: 'hanse:geheim ü:x' })
  const credentialsFile = await secretFile(t, 'hanse:geheim ü:x\n')

  const answer = await get(t, dialOptions(b, a, { proxy: { url: proxy.url, credentialsFile } }))

  assert.match(answer, new RegExp(b.keys.siteId))
  assert.deepEqual(proxy.connections, [`127.0.0.1:${a.port}`])
  assert.deepEqual(proxy.logins, ['hanse:geheim ü:x'])
})

test('pairing works through the proxy', async t => {
  const proxy = await startProxy(t)
  const a = await startSite(t, { name: 'A' })
  const b = await startSite(t, { name: 'B', proxy: { url: proxy.url } })

  await pair(a, b)

  assert.equal(proxy.connections.length, 2)
})

test('what a proxy refuses is told with what to do', async t => {
  const { a, b } = await pairedSites(t)
  const login = await startProxy(t, { login: 'hanse:right' })
  const ntlm = await startProxy(t, { login: 'x:y', scheme: 'NTLM' })
  const forbidden = await startProxy(t, { status: 403 })
  const wrong = await secretFile(t, 'hanse:wrong')
  const via = (url: string, credentialsFile?: string): DialOptions =>
    dialOptions(b, a, { proxy: { url, credentialsFile } })
  const silent = createServer(socket => socket.on('error', () => {}).end('220 smtp\r\n\r\n'))
  silent.listen(0, '127.0.0.1')
  t.after(() => silent.close())
  await new Promise(resolve => silent.once('listening', resolve))
  const address = silent.address()

  await fails(via(login.url), 'PROXY_REFUSED', /asks for a login: name a credentials file/)
  await fails(via(login.url, wrong), 'PROXY_REFUSED', /refuses this login: check user and password/)
  await fails(via(ntlm.url, wrong), 'PROXY_REFUSED', /login by NTLM, and only Basic is supported/)
  await fails(via(forbidden.url), 'PROXY_REFUSED', /does not allow CONNECT to 127\.0\.0\.1:\d+ \(status 403\): ask/)
  await fails(via('http://127.0.0.1:1'), 'PROXY_REFUSED', /cannot be reached \(ECONNREFUSED\)/)
  await fails(via(login.url, '/nonexistent'), 'CONFIG_INVALID', /cannot be read/)
  await fails(via(login.url, await secretFile(t, 'no colon')), 'CONFIG_INVALID', /user:password/)
  await fails(
    via(`http://127.0.0.1:${typeof address === 'object' ? address?.port : 0}`),
    'PROXY_REFUSED',
    /did not answer in HTTP|without an answer/,
  )
  for (const name of [wrong, 'hanse:wrong']) {
    await assert.rejects(dial(via(login.url, wrong)), error => !String(error).includes(name))
  }
})

for (const maxVersion of ['TLSv1.3', 'TLSv1.2'] as const) {
  test(`a proxy that inspects TLS (up to ${maxVersion}) is recognised and named`, async t => {
    const { a, b } = await pairedSites(t)
    const credential = await foreignCredential(t, '/O=ACME Security/CN=ACME Web Gateway')
    const port = await startInspector(t, { credential, maxVersion })
    const proxy = await startProxy(t, { divertTo: port })
    const before = a.requests.length

    const options = dialOptions(b, a, { proxy: { url: proxy.url } })

    await fails(
      options,
      'PEER_TLS_INTERCEPTED',
      /issued by "O=ACME Security, CN=ACME Web Gateway" and not by Hospital A/,
    )
    await assert.rejects(get(t, options), error => isGatewayError(error, 'PEER_TLS_INTERCEPTED'))
    assert.equal(a.requests.length, before)
  })
}

test('another site at the peer’s address is told apart from a middle box', async t => {
  const { a, b } = await pairedSites(t)
  const c = await startSite(t, { name: 'C' })

  const swapped = dialOptions(b, a, { to: { id: a.keys.siteId, name: 'Hospital A', url: c.url } })

  await fails(swapped, 'PEER_UNKNOWN', new RegExp(`another site \\(id ${c.keys.siteId}\\) answers`))
})

test('a certificate must name the host in the peer’s URL', async t => {
  const keys = await testKeys(t, 'B')
  const other = await tlsServer(t, 'peer.example', Date.now())

  await fails(
    { to: { id: 'x', name: 'X', url: other.url }, caCertificate: other.ca, credential: () => keys.tls() },
    'PEER_PROTOCOL',
    /does not name 127\.0\.0\.1 but DNS:peer\.example/,
  )
})

test('a certificate made in our future tells of drift beyond five minutes, one made within is accepted', async t => {
  const keys = await testKeys(t, 'B')
  const now = Date.now()
  const near = await tlsServer(t, '127.0.0.1', now + 4.9 * minuteMs)
  const far = await tlsServer(t, '127.0.0.1', now + 65 * minuteMs)
  const options = (to: { url: string; ca: string }): DialOptions => ({
    to: { id: 'x', name: 'Hospital X', url: to.url },
    caCertificate: to.ca,
    credential: () => keys.tls(),
  })

  ;(await dial(options(near))).destroy()
  await fails(
    options(far),
    'PEER_CLOCK_DRIFT',
    /the clock of Hospital X is 65 minutes ahead of this site’s; check time/,
  )
})

test('an expired certificate of the peer is named with its date', async t => {
  const keys = await testKeys(t, 'B')
  const server = await tlsServer(t, '127.0.0.1', Date.parse('2020-03-04T05:06:07Z'))

  await fails(
    { to: { id: 'x', name: 'X', url: server.url }, caCertificate: server.ca, credential: () => keys.tls() },
    'PEER_PROTOCOL',
    /ended on 2020-03-04/,
  )
})

test('each way of not reaching a peer has its sentence', async t => {
  const keys = await testKeys(t, 'B')
  const ca = await createCa({ siteId: '0'.repeat(32), now: Date.now() })
  const options = (url: string, connectTimeoutMs = 15_000): DialOptions => ({
    to: { id: 'x', name: 'Hospital X', url },
    caCertificate: ca.certificate,
    credential: () => keys.tls(),
    connectTimeoutMs,
  })
  const plain = await tcpServer(t, 'HTTP/1.1 400 Bad Request\r\n\r\n')
  const mute = await tcpServer(t, undefined)
  const closing = await tcpServer(t, '')

  await fails(options('https://peer.invalid:8443'), 'PEER_UNREACHABLE', /name in peer\.invalid:8443 cannot be resolved/)
  await fails(options('https://127.0.0.1:1'), 'PEER_UNREACHABLE', /refuses connections: check the port/)
  await fails(options(`https://127.0.0.1:${plain}`), 'PEER_PROTOCOL', /does not speak TLS: check the port/)
  await fails(options(`https://127.0.0.1:${mute}`, 300), 'PEER_UNREACHABLE', /does not answer: check firewalls/)
  await fails(options(`https://127.0.0.1:${closing}`), 'PEER_UNREACHABLE', /closed the connection/)
})

test('a peer that does not know us any more is told as one of two reasons', async t => {
  const { a, b } = await pairedSites(t)
  await a.peers.revoke(a.peers.bySiteId(b.keys.siteId)?.id ?? '', { principal: 'admin' })

  await assert.rejects(b.pairing.status(b.peers.bySiteId(a.keys.siteId)?.id ?? ''), error => {
    assert.ok(isGatewayError(error, 'PEER_UNREACHABLE'))
    assert.match(error.message, /does not \(or no longer\) know this site/)
    return true
  })
})

/** A TLS server below a CA of its own, all made at `madeAt` and valid for a day. */
async function tlsServer(t: TestContext, host: string, madeAt: number): Promise<{ url: string; ca: string }> {
  const ca = await createCa({ siteId: '1'.repeat(32), now: Math.min(madeAt, Date.now()) })
  const leaf = await issueLeaf(ca, { use: 'site', commonName: 'x', hosts: [host], lifetimeMs: minuteMs, now: madeAt })
  const server = createTlsServer({ cert: leaf.certificate, key: leaf.key }, socket => socket.on('error', () => {}))
  server.on('tlsClientError', () => {})
  server.listen(0, '127.0.0.1')
  await new Promise(resolve => server.once('listening', resolve))
  t.after(() => server.close())
  const address = server.address()
  return { url: `https://127.0.0.1:${typeof address === 'object' ? address?.port : 0}`, ca: ca.certificate }
}

/** A TCP server that says `greeting` to whatever comes (nothing at all: stays mute) and closes. */
async function tcpServer(t: TestContext, greeting: string | undefined): Promise<number> {
  const server = createServer(socket => {
    t.after(() => socket.destroy())
    socket.on('error', () => {})
    socket.once('data', () => {
      if (greeting !== undefined) socket.end(greeting)
    })
  })
  server.listen(0, '127.0.0.1')
  await new Promise(resolve => server.once('listening', resolve))
  t.after(() => server.close())
  const address = server.address()
  return typeof address === 'object' && address ? address.port : 0
}
