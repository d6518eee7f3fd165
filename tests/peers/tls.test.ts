import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { connect, type TLSSocket } from 'node:tls'
import { type Credential, createCa, issueLeaf } from '../../certs/ca.ts'
import { openPeerPool } from '../../peers/dial.ts'
import { decodeInvitation } from '../../peers/pairing-messages.ts'
import { notify } from '../../peers/registry.ts'
import { dialOptions, pair, startSite, type TestSite, testKeys } from '../support/site.ts'

const by = { principal: 'admin' }

/** Sends a request with OpenSSL's client; what came back is in `stdout`, alerts in `stderr`. */
async function sClient(
  t: TestContext,
  to: TestSite,
  credential: Credential | undefined,
  ...options: string[]
): Promise<{ stdout: string; stderr: string }> {
  const dir = await mkdtemp(join(tmpdir(), 'hanse-tls-'))
  t.after(() => rm(dir, { recursive: true, force: true }))
  const pem = join(dir, 'client.pem')
  if (credential) await writeFile(pem, credential.key + credential.certificate, { mode: 0o600 })
  const args = [
    's_client',
    '-connect',
    `127.0.0.1:${to.port}`,
    '-quiet',
    '-ign_eof',
    ...(credential ? ['-cert', pem] : []),
  ]
  const child = spawn('openssl', [...args, ...options])
  let [stdout, stderr] = ['', '']
  child.stdout.on('data', chunk => {
    stdout += chunk
  })
  child.stderr.on('data', chunk => {
    stderr += chunk
  })
  child.stdin.on('error', () => {}) // the server may be gone before the request is written
  child.stdin.write('GET /x/1/site HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n')
  await new Promise(resolve => child.once('close', resolve))
  return { stdout, stderr }
}

async function assertNothing(t: TestContext, to: TestSite, credential: Credential | undefined): Promise<string> {
  const before = to.requests.length
  const { stdout, stderr } = await sClient(t, to, credential)
  assert.equal(stdout, '', 'no byte came back')
  assert.equal(to.requests.length, before, 'no request was read')
  return stderr
}

test('a client without a certificate, with a foreign or a self-made one gets nothing but TLS', async t => {
  const [site, peer] = await Promise.all([startSite(t, { name: 'A' }), startSite(t, { name: 'B' })])
  await pair(site, peer)
  await site.pairing.invite(by) // our own CA is accepted for invitations now
  const foreign = await testKeys(t, 'C')
  // Same subject as the peer's CA, another key.
  const twin = await createCa({ siteId: peer.keys.siteId, now: Date.now() })
  const forged = await issueLeaf(twin, {
    use: 'site',
    commonName: peer.keys.siteId,
    hosts: [],
    lifetimeMs: 1e6,
    now: Date.now(),
  })

  assert.match(await assertNothing(t, site, undefined), /alert certificate required/)
  await assertNothing(t, site, foreign.tls())
  await assertNothing(t, site, forged)
  await assertNothing(t, site, {
    certificate: foreign.caCertificate + foreign.tls().certificate,
    key: foreign.tls().key,
  })
  await assertNothing(t, site, site.keys.tls()) // our own leaf is no invitation
  assert.match((await sClient(t, site, peer.keys.tls())).stdout, new RegExp(peer.keys.siteId))
})

test('a site without peers and invitations serves nobody, public certificate authorities included', async t => {
  const site = await startSite(t, { name: 'A' })
  const { ca } = site.tls.serverOptions()

  assert.deepEqual(ca, [])
  await assertNothing(t, site, undefined)
  await assertNothing(t, site, site.keys.tls())
  await assertNothing(t, site, (await testKeys(t, 'B')).tls())
})

test('the federation port speaks TLS 1.3 only', async t => {
  const [site, peer] = await Promise.all([startSite(t, { name: 'A' }), startSite(t, { name: 'B' })])
  await pair(site, peer)

  const old = await sClient(t, site, peer.keys.tls(), '-tls1_2')

  assert.equal(old.stdout, '')
  assert.match(old.stderr, /protocol version|handshake failure/)
})

test('a revoked peer is cut off in mid-connection and gets nothing afterwards', async t => {
  const [site, peer, other] = await Promise.all(['A', 'B', 'C'].map(name => startSite(t, { name })))
  assert.ok(site && peer && other)
  const { joined } = await pair(site, peer)
  await pair(site, other)
  const [live, idle, bystander] = [await open(t, site, peer), await open(t, site, peer), await open(t, site, other)]
  assert.match(await ask(live), new RegExp(peer.keys.siteId))

  await site.peers.revoke(joined.id, by)

  await Promise.all([closed(live), closed(idle)])
  await assertNothing(t, site, peer.keys.tls())
  assert.match(await ask(bystander), new RegExp(other.keys.siteId))
})

test('a revocation by another process on the same database cuts connections too', async t => {
  const [site, peer] = await Promise.all([startSite(t, { name: 'A' }), startSite(t, { name: 'B' })])
  const { joined } = await pair(site, peer)
  const live = await open(t, site, peer)

  await site.db.inTransaction(async tx => {
    await tx.updateTable('peers').set({ state: 'revoked' }).where('id', '=', joined.id).execute()
    await notify(tx)
  })

  await closed(live)
  await assertNothing(t, site, peer.keys.tls())
})

test('no session is resumed, so none outlives a revocation', async t => {
  const [site, peer] = await Promise.all([startSite(t, { name: 'A' }), startSite(t, { name: 'B' })])
  const { joined } = await pair(site, peer)
  const sessions: Buffer[] = []
  const first = await open(t, site, peer)
  first.on('session', session => sessions.push(session))
  await ask(first)
  first.destroy()

  for (const session of sessions) {
    const again = await open(t, site, peer, session)
    assert.equal(again.isSessionReused(), false)
    again.destroy()
  }
  await site.peers.revoke(joined.id, by)
  for (const session of sessions) await closed(await open(t, site, peer, session))
})

test('an invitation credential is known as such until it is redeemed, expired or cancelled', async t => {
  let now = Date.now()
  const site = await startSite(t, { name: 'A', clock: () => now })
  const first = await site.pairing.invite(by)
  const second = await site.pairing.invite({ ...by, lifetimeMs: 60_000 })
  const credential = (file: Uint8Array): Credential => {
    const { online } = decodeInvitation(file, now)
    assert.ok(online)
    return online.credential
  }

  const { stdout } = await sClient(t, site, credential(first.file))
  assert.match(stdout, new RegExp(`"kind":"invitation","id":"${first.id}"`))
  await site.pairing.cancel(first.id, by)
  await assertNothing(t, site, credential(first.file))
  now += 61_000
  await assertNothing(t, site, credential(second.file))
})

test('a pending peer is known as pending, and as active on the same connection once confirmed', async t => {
  const [site, peer] = await Promise.all([startSite(t, { name: 'A' }), startSite(t, { name: 'B' })])
  const { file } = await site.pairing.invite(by)
  await peer.pairing.accept(file, by)
  const socket = await open(t, site, peer)

  assert.match(await ask(socket), /"state":"pending"/)
  await site.peers.confirm(site.peers.bySiteId(peer.keys.siteId)?.id ?? '', by)
  assert.match(await ask(socket), /"state":"active"/)
})

test('a peer’s renewed certificate is accepted without any change here', async t => {
  const [site, peer] = await Promise.all([startSite(t, { name: 'A' }), startSite(t, { name: 'B' })])
  await pair(site, peer)
  const before = peer.keys.tls().certificate

  await peer.keys.renewTls(['localhost', '127.0.0.1', 'new.example'])

  assert.notEqual(peer.keys.tls().certificate, before)
  const pool = openPeerPool(dialOptions(peer, site))
  t.after(() => pool.destroy())
  const { body } = await pool.request({ method: 'GET', path: '/' })
  assert.match(await body.text(), new RegExp(peer.keys.siteId))
})

test('an expired client certificate gets nothing', async t => {
  let now = Date.now()
  const site = await startSite(t, { name: 'A', clock: () => now })
  const peer = await startSite(t, { name: 'B' })
  await pair(site, peer)
  const socket = await open(t, site, peer)
  assert.match(await ask(socket), /"state":"active"/)

  now += 400 * 86_400_000

  socket.write('GET / HTTP/1.1\r\nHost: x\r\n\r\n')
  await closed(socket)
})

async function open(t: TestContext, to: TestSite, from: TestSite, session?: Buffer): Promise<TLSSocket> {
  const { certificate, key } = from.keys.tls()
  const socket = connect({
    host: '127.0.0.1',
    port: to.port,
    ca: [to.keys.caCertificate],
    cert: certificate,
    key,
    ...(session ? { session } : {}),
  })
  t.after(() => socket.destroy())
  await new Promise((resolve, reject) => socket.once('secureConnect', resolve).once('error', reject))
  socket.on('error', () => {})
  return socket
}

async function ask(socket: TLSSocket): Promise<string> {
  socket.write('GET / HTTP/1.1\r\nHost: x\r\n\r\n')
  for (;;) {
    const [chunk] = await once(socket, 'data')
    if (String(chunk).includes('}')) return String(chunk)
  }
}

async function closed(socket: TLSSocket): Promise<void> {
  socket.resume()
  if (!socket.closed) await new Promise(resolve => socket.once('close', resolve))
}
