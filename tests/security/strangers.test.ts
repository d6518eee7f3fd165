import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { connect, type TLSSocket } from 'node:tls'
import { createCa, issueLeaf } from '../../certs/ca.ts'
import { at, field, items } from '../../gateway/cli/answer.ts'
import { startProcessGateway } from '../support/process-gateway.ts'
import { until } from '../support/until.ts'
import {
  agentOf,
  ask,
  invite,
  knock,
  knockPlain,
  makeKeys,
  pairWith,
  trusting,
  untilClosed,
  type Victim,
} from './hostile.ts'

/** TLS records are 5 bytes of header; type 21 is an alert. Nothing here may be HTTP. */
const alertRecord = 0x15

function assertNothing(sighting: { inside: Buffer; wire: Buffer }): void {
  assert.equal(sighting.inside.length, 0, `nothing inside TLS, got ${sighting.inside.toString().slice(0, 80)}`)
  assert.ok(!sighting.wire.includes('HTTP/'), 'no HTTP on the wire')
}

/** Opens a connection as this site and asks one thing, so that it is in use. */
async function openConnection(t: TestContext, victim: Victim, keys: Awaited<ReturnType<typeof makeKeys>>) {
  const socket = connect({ host: '127.0.0.1', port: victim.gateway.ports.federation, ...trusting(victim, keys.tls()) })
  t.after(() => socket.destroy())
  socket.write('GET /x/1/offers/none HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n')
  const [first] = await firstData(socket)
  assert.match(String(first), /^HTTP\/1\.1 /)
  return socket
}

const firstData = (socket: TLSSocket): Promise<Buffer[]> =>
  new Promise((resolve, reject) => {
    socket.once('data', (chunk: Buffer) => resolve([chunk])).once('error', reject)
  })

async function tlsRefusals(victim: Victim): Promise<string[]> {
  const events = items(await victim.gateway.api('GET', '/api/v1/audit/events?limit=1000'), 'events')
  return events
    .filter(event => at(event, 'event', 'detail', 'protocol') === 'federation')
    .map(event => {
      const [stranger] = items(event, 'event', 'participants')
      return `${field(event, 'event', 'reason')} from ${field(stranger, 'address')}`
    })
}

test('who is not a peer gets nothing beyond TLS on the federation port', async t => {
  const gateway = await startProcessGateway(t, 'victim')
  const [mallory, stranger] = await Promise.all([makeKeys(t, 'mallory'), makeKeys(t, 'stranger')])
  const { victim, peerId, sas } = await pairWith(gateway, mallory, 'mallory')
  const agent = agentOf(t, victim, mallory.tls())

  await t.test('a peer that nobody has confirmed is told so, whatever it asks', async () => {
    const id = '0'.repeat(64)
    for (const [method, path] of [
      ['GET', '/x/1/site'],
      ['POST', '/x/1/offers'],
      ['POST', '/x/1/probe'],
      ['GET', `/x/1/offers/${id}`],
      ['PUT', `/x/1/offers/${id}/leaves/0-0`],
      ['POST', `/x/1/offers/${id}/commit`],
      ['POST', `/x/1/offers/${id}/cancel`],
      ['GET', `/x/1/offers/${id}/receipts`],
    ] as const) {
      const answer = await ask(victim, agent, { method, path })
      assert.equal(answer.code, 'PEER_PENDING', `${method} ${path}`)
    }
  })

  await gateway.api('POST', `/api/v1/peers/${peerId}/confirm`, { sas })

  await t.test('an active peer may read the site card', async () => {
    const answer = await ask(victim, agent, { method: 'GET', path: '/x/1/site' })
    assert.equal(answer.status, 200)
  })

  await t.test('without a client certificate', async () => {
    assertNothing(await knock(victim, {}))
  })

  await t.test('with a certificate of an authority that nobody here knows', async () => {
    assertNothing(await knock(victim, trusting(victim, stranger.tls())))
  })

  await t.test("with a certificate of another authority under the peer's name", async () => {
    const now = Date.now()
    const forged = await createCa({ siteId: mallory.siteId, now })
    const leaf = { use: 'site', commonName: mallory.siteId, hosts: ['127.0.0.1'], lifetimeMs: 86_400_000, now } as const
    const credential = await issueLeaf(forged, leaf)
    assertNothing(await knock(victim, trusting(victim, credential)))
    const withChain = { ...credential, certificate: `${credential.certificate}\n${forged.certificate}` }
    assertNothing(await knock(victim, trusting(victim, withChain)))
    const withPeersCa = { ...credential, certificate: `${credential.certificate}\n${mallory.caCertificate}` }
    assertNothing(await knock(victim, trusting(victim, withPeersCa)))
  })

  await t.test("with the victim's own certificate chain in front of a foreign key", async () => {
    assertNothing(
      await knock(victim, {
        ...trusting(victim, stranger.tls()),
        cert: `${stranger.tls().certificate}\n${mallory.tls().certificate}`,
      }),
    )
  })

  await t.test('with TLS 1.2, even as a peer', async () => {
    const sighting = await knock(victim, { ...trusting(victim, mallory.tls()), maxVersion: 'TLSv1.2' })
    assertNothing(sighting)
    assert.equal(sighting.error, 'ERR_SSL_TLSV1_ALERT_PROTOCOL_VERSION')
    assert.equal(sighting.wire[0], alertRecord)
  })

  await t.test('without TLS, whatever is spoken', async () => {
    for (const bytes of [
      'GET /x/1/site HTTP/1.1\r\nhost: a\r\n\r\n',
      'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n',
      '\x16\x03\x01\xff\xff'.repeat(4),
      'SSH-2.0-x\r\n',
    ]) {
      const seen = await knockPlain(victim, bytes)
      assert.ok(seen.length === 0 || seen[0] === alertRecord, `got ${seen.toString('latin1').slice(0, 60)}`)
      assert.ok(!seen.includes('HTTP'))
    }
  })

  await t.test("with an invitation's credential, nothing but pairing", async t => {
    const { online, id } = await invite(gateway, 'other')
    assert.ok(online)
    const invited = agentOf(t, victim, online.credential)
    for (const [method, path] of [
      ['GET', '/x/1/site'],
      ['POST', '/x/1/offers'],
      ['POST', '/x/1/probe'],
    ] as const) {
      const answer = await ask(victim, invited, { method, path })
      assert.equal(answer.code, 'NOT_FOUND', `${method} ${path}`)
    }
    const socket = connect({
      host: '127.0.0.1',
      port: gateway.ports.federation,
      ...trusting(victim, online.credential),
    })
    const closed = untilClosed(socket)
    await new Promise(resolve => socket.once('secureConnect', resolve))
    await gateway.api('DELETE', `/api/v1/peers/invitations/${id}`).catch(() => undefined)
    socket.destroy()
    await closed
  })

  await t.test('a revoked peer loses its connections, a waiting answer and every new one', async t => {
    const idle = await openConnection(t, victim, mallory)
    const waiting = await openConnection(t, victim, mallory)
    waiting.write(`GET /x/1/offers/${'0'.repeat(64)}?wait=60 HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n`)
    await firstData(waiting) // not found, and kept alive
    const [idleClosed, waitingClosed] = [untilClosed(idle), untilClosed(waiting)]

    await gateway.api('POST', `/api/v1/peers/${peerId}/revoke`, { reason: 'lost keys' })

    assert.equal((await idleClosed).inside.length, 0)
    assert.equal((await waitingClosed).inside.length, 0)
    assertNothing(await knock(victim, trusting(victim, mallory.tls())))
  })

  await t.test('each kind of stranger is an audit event with its address', async () => {
    const expected = ['no-certificate', 'not-tls-1.3', 'unknown-certificate']
    await until('the refusals are audited', 30_000, async () => {
      const found = await tlsRefusals(victim)
      return expected.every(reason => found.includes(`${reason} from 127.0.0.1`))
    })
  })

  await t.test('the gateway lives and its log holds no certificate and no HTTP of strangers', () => {
    assert.ok(gateway.isRunning)
    assert.ok(!gateway.output().includes('BEGIN CERTIFICATE'))
  })
})
