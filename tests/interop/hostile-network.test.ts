/** Whatever connects to a gateway: garbage, silence, slowness, crowds. Others are served meanwhile. */
import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { readdir, stat } from 'node:fs/promises'
import { connect, type Socket } from 'node:net'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { connect as connectTls } from 'node:tls'
import { createCa, issueLeaf } from '../../certs/ca.ts'
import { bufferSource } from '../../gateway/dicom/byte-source.ts'
import { storeScu } from '../../gateway/dimse/scu.ts'
import { associate, associateRequest, pdu, pdv, responseOf, storeCommand } from '../dimse/fixture.ts'
import { buildInstance } from '../support/dicom-builder.ts'
import { type ProcessGateway, startProcessGateway } from '../support/process-gateway.ts'
import { until } from '../support/until.ts'
import { startBystander } from './bystander.ts'
import { assertSound, quick } from './hospitals.ts'
import { inMiB, memoryOf } from './process-memory.ts'

/** A small heap, so that what is not given back shows soon. */
const smallHeap = { NODE_OPTIONS: '--max-old-space-size=128 --max-semi-space-size=4' }
const garbageRounds = process.env['HANSE_SOAK'] ? 300 : 10
const allowedGrowthBytes = 32 * 1024 ** 2
/** Generous, for two cores that a whole test run shares. */
const servedWithinMs = 20_000

test('nonsense from the network', async t => {
  const gateway = await startProcessGateway(t, 'north', { ...quick, ...smallHeap })
  const { pid, ports } = gateway
  const everyPort = [ports.dicom, ports.http, ports.federation]
  const silent = await openSilent(t, gateway)

  await t.test(
    'random bytes on every port end in a closed connection, again and again, and cost no memory',
    async () => {
      const stop = startBystander(gateway, 1_000_000)
      for (let round = 0; round < 3; round += 1) await Promise.all(everyPort.map(throwGarbage))
      const before = await memoryOf(pid)
      for (let round = 0; round < garbageRounds; round += 1) await Promise.all(everyPort.map(throwGarbage))
      const after = await memoryOf(pid)
      assertServed(await stop())
      const grown = after.residentBytes - before.residentBytes
      assert.ok(grown < allowedGrowthBytes, `resident memory grew by ${inMiB(grown)} MiB`)
    },
  )

  await t.test('a slow sender is served to its end, by C-STORE and by POST', async t => {
    const stop = startBystander(gateway, 2_000_000)
    await Promise.all([storeSlowly(t, gateway), uploadSlowly(gateway)])
    assertServed(await stop())
  })

  await t.test('senders that break off leave nothing behind', async () => {
    for (let index = 0; index < 20; index += 1) {
      const upload = connect({ host: '127.0.0.1', port: ports.http })
      upload.on('error', () => undefined)
      upload.write(`POST /instances HTTP/1.1\r\n${host}content-length: 1000000\r\n\r\n`)
      upload.write(buildInstance({ seed: 6_000_000 }).bytes.subarray(0, 5000))
      const peer = await associate(t, ports.dicom)
      peer.write(pdu(0x04, [pdv(1, 3, storeCommand())]))
      // More than a reception holds in memory.
      for (let part = 0; part < 24; part += 1) peer.write(pdu(0x04, [pdv(1, 0, Buffer.alloc(131_072))]))
      await until('both are being received', 30_000, async () => (await stagedFiles(gateway)) >= 2)
      upload.destroy()
      peer.socket.destroy()
      await until('nothing is staged', 30_000, async () => (await stagedFiles(gateway)) === 0)
    }
  })

  await t.test('500 associations at once store what they bring', async t => {
    const stop = startBystander(gateway, 3_000_000)
    await Promise.all(Array.from({ length: 500 }, (_, index) => storeOne(gateway, 4_000_000 + index)))
    assertServed(await stop())
    const { peakBytes } = await memoryOf(pid)
    t.diagnostic(`peak of resident memory: ${inMiB(peakBytes)} MiB`)
    assert.ok(peakBytes < 350 * 1024 ** 2, `${inMiB(peakBytes)} MiB`)
  })

  await t.test('HTTP nonsense gets a status of its own, never a 5xx', async () => {
    for (const [what, request, expected] of httpNonsense) {
      const answer = await exchange(ports.http, request, what)
      const status = Number(/^HTTP\/1\.1 (\d{3})/.exec(answer)?.[1] ?? 0)
      assert.ok(expected.includes(status), `${what}: ${answer.slice(0, 300)}`)
    }
  })

  await t.test('the federation port shows strangers an alert and nothing else', async () => {
    const ca = await createCa({ siteId: '0'.repeat(32), now: Date.now() })
    const leaf = await issueLeaf(ca, {
      use: 'site',
      commonName: 'a stranger',
      hosts: ['127.0.0.1'],
      lifetimeMs: 86_400_000,
      now: Date.now(),
    })
    const strangers = {
      'no certificate': {},
      'a foreign certificate': { cert: leaf.certificate, key: leaf.key },
      'TLS 1.2': { maxVersion: 'TLSv1.2' as const },
    }
    for (const [what, options] of Object.entries(strangers)) {
      const { bytes, code } = await tryTls(ports.federation, options)
      assert.equal(bytes, 0, what)
      // A foreign certificate is looked at after the handshake: that connection is just closed.
      assert.match(code, what === 'a foreign certificate' ? /ALERT|ECONNRESET|^$/ : /ALERT/, what)
    }
    const plain = await exchange(ports.federation, 'GET /x/1/card HTTP/1.1\r\nhost: x\r\n\r\n')
    assert.ok(plain === '' || plain.charCodeAt(0) === 0x15 || plain.startsWith('HTTP/1.1 400'), plain)
  })

  await t.test('connections that say nothing are closed', async () => {
    await until('every silent connection is closed', 120_000, () => silent.every(socket => socket.closed))
  })

  assert.ok(gateway.isRunning)
  assert.equal(gateway.pid, pid)
  assert.deepEqual(
    gateway
      .output()
      .split('\n')
      .filter(line => /"level":[56]0/.test(line)),
    [],
    'nothing is logged as an error of ours',
  )
  await assertSound(gateway)
})

function assertServed({ rounds, slowestMs }: { rounds: number; slowestMs: number }): void {
  assert.ok(rounds > 0)
  assert.ok(slowestMs < servedWithinMs, `another client waited ${Math.round(slowestMs)} ms`)
}

/** Files in staging that hold something: empty ones are made ahead for the next receptions. */
async function stagedFiles({ data }: ProcessGateway): Promise<number> {
  const names = await readdir(join(data, 'staging'), { recursive: true })
  const found = await Promise.all(names.map(name => stat(join(data, 'staging', name)).catch(() => undefined)))
  return found.filter(entry => entry?.isFile() && entry.size > 0).length
}

/** Connections that stay open and send nothing, half a request, or half a handshake. */
async function openSilent(t: TestContext, { ports }: ProcessGateway): Promise<Socket[]> {
  const request = associateRequest([
    { id: 1, abstractSyntax: '1.2.840.10008.1.1', transferSyntaxes: ['1.2.840.10008.1.2'] },
  ])
  const beginnings: readonly [number, Buffer][] = [
    [ports.dicom, Buffer.alloc(0)],
    [ports.dicom, request.subarray(0, 50)],
    [ports.http, Buffer.alloc(0)],
    [ports.http, Buffer.from('POST /instances HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-')],
    [ports.federation, Buffer.alloc(0)],
    [ports.federation, Buffer.from([0x16, 3, 1, 2, 0, 1])],
  ]
  return beginnings.flatMap(([port, bytes]) =>
    Array.from({ length: 50 }, () => {
      const socket = connect({ host: '127.0.0.1', port })
      socket.on('error', () => undefined).resume()
      socket.write(bytes)
      t.after(() => socket.destroy())
      return socket
    }),
  )
}

/** Forty connections that write something and end; resolves when the other side has closed all of them. */
async function throwGarbage(port: number): Promise<void> {
  const throwOne = async (index: number): Promise<void> => {
    const socket = connect({ host: '127.0.0.1', port })
    socket.on('error', () => undefined).resume()
    const bytes = randomBytes(1 + ((index * 997) % 20_000))
    if (index % 2 === 0) bytes[0] = index % 8 // what a DICOM PDU, or a TLS record, may begin with
    socket.end(bytes)
    await closed(socket)
  }
  await Promise.all(Array.from({ length: 40 }, (_, index) => throwOne(index)))
}

async function closed(socket: Socket): Promise<void> {
  if (socket.closed) return
  const { promise, resolve, reject } = Promise.withResolvers<void>()
  const timer = setTimeout(() => reject(new Error('the connection was not closed')), 60_000)
  socket.once('close', () => resolve())
  await promise.finally(() => clearTimeout(timer))
}

async function storeSlowly(t: TestContext, { ports }: ProcessGateway): Promise<void> {
  const instance = buildInstance({ seed: 5_000_000 })
  const peer = await associate(t, ports.dicom)
  peer.write(pdu(0x04, [pdv(1, 3, storeCommand({ 4096: instance.sopInstanceUid }))]))
  const message = pdu(0x04, [pdv(1, 2, Buffer.from(instance.dataset))])
  await drip(message, piece => peer.write(piece))
  assert.equal(responseOf(await peer.read()).get(0x0900), 0x0000)
}

async function uploadSlowly({ url }: ProcessGateway): Promise<void> {
  const { bytes } = buildInstance({ seed: 5_000_001 })
  const { readable, writable } = new TransformStream<Uint8Array>()
  const writer = writable.getWriter()
  const answer = fetch(`${url}/instances`, { method: 'POST', body: readable, duplex: 'half' })
  await drip(Buffer.from(bytes), piece => void writer.write(piece))
  await writer.close()
  assert.equal((await answer).status, 200)
}

/** Forty pieces, two seconds. */
async function drip(bytes: Buffer, write: (piece: Buffer) => void): Promise<void> {
  const size = Math.ceil(bytes.length / 40)
  for (let at = 0; at < bytes.length; at += size) {
    write(bytes.subarray(at, at + size))
    await delay(50)
  }
}

async function storeOne({ ports }: ProcessGateway, seed: number): Promise<void> {
  const instance = buildInstance({ seed })
  const datasetOffset = instance.bytes.length - instance.dataset.length
  const target = { host: '127.0.0.1', port: ports.dicom, callingAe: 'CROWD', calledAe: 'HANSE' }
  const outgoing = { ...instance, open: () => ({ source: bufferSource(instance.bytes), datasetOffset }) }
  await storeScu(target, [outgoing], (_, result) => {
    assert.deepEqual(result.kind === 'responded' ? result.status : result, 0x0000)
  })
}

const host = 'host: 127.0.0.1\r\n'
const json = `${host}content-type: application/json\r\n`
const post = (path: string, body: string, headers = json): string =>
  `POST ${path} HTTP/1.1\r\n${headers}content-length: ${Buffer.byteLength(body, 'latin1')}\r\nconnection: close\r\n\r\n${body}`
const get = (path: string, headers = ''): string => `GET ${path} HTTP/1.1\r\n${host}${headers}connection: close\r\n\r\n`

/** What is sent, and the statuses that may come back. */
const httpNonsense: readonly (readonly [string, string, readonly number[]])[] = [
  ['no HTTP at all', 'hello\r\n\r\n', [400]],
  ['a bad version', 'GET / HTTP/9.9\r\n\r\n', [400, 505]],
  ['endless headers', `GET / HTTP/1.1\r\n${host}x: ${'y'.repeat(100_000)}\r\n\r\n`, [431]],
  ['two lengths', `POST /instances HTTP/1.1\r\n${host}content-length: 1\r\ncontent-length: 2\r\n\r\nab`, [400]],
  [
    'a length and chunks',
    `POST /instances HTTP/1.1\r\n${host}content-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n`,
    [400],
  ],
  ['a bad chunk', `POST /instances HTTP/1.1\r\n${host}transfer-encoding: chunked\r\n\r\nzz\r\nab`, [400]],
  ['no host', 'GET /system HTTP/1.1\r\nconnection: close\r\n\r\n', [400, 403]],
  ['another host', 'GET /system HTTP/1.1\r\nhost: attacker.example\r\nconnection: close\r\n\r\n', [401, 403]],
  ['a foreign origin', post('/api/v1/peers/invitations', '{}', `${json}origin: http://attacker.example\r\n`), [403]],
  ['an unknown method', `BREW / HTTP/1.1\r\n${host}connection: close\r\n\r\n`, [400, 404, 405, 501]],
  ['an unknown path', get('/nowhere'), [404]],
  ['a method that a path has not', `DELETE /system HTTP/1.1\r\n${host}connection: close\r\n\r\n`, [404, 405]],
  ['a path that climbs', get('/instances/../../../etc/passwd'), [404]],
  ['a path that climbs encoded', get('/instances/%2e%2e%2f%2e%2e%2fetc%2fpasswd/file'), [404]],
  ['a bad escape', get('/instances/%zz/file'), [400, 404]],
  ['a zero byte in an id', get('/instances/%00/file'), [400, 404]],
  ['a zero byte in a name', post('/api/v1/peers/invitations', '{"name": "a\\u0000b"}'), [400]],
  ['a zero byte in a study', post('/api/v1/transfers', '{"study": "\\u0000", "destination": "x"}'), [400, 404]],
  ['half a character', post('/api/v1/peers/invitations', '{"name": "\\ud800"}'), [400]],
  ['a number beyond all', get('/api/v1/conflicts/99999999999999999999999'), [400, 404]],
  ['a page beyond all', get('/instances?since=9007199254740991&limit=9007199254740991'), [200, 400]],
  ['a page before all', get('/api/v1/conflicts?before=-1e300'), [200, 400]],
  ['an id of 10,000 characters', get(`/instances/${'a'.repeat(10_000)}/file`), [400, 404, 414]],
  ['a bad transfer id', get('/api/v1/transfers/1%27%20or%201=1'), [400, 404]],
  ['a negative limit', get('/api/v1/transfers?limit=-1'), [400]],
  ['a limit that is no number', get('/instances?since=x&limit=1e99'), [400]],
  ['a cursor of nonsense', get('/api/v1/transfers?cursor=%00%ff'), [400]],
  ['broken JSON', post('/api/v1/peers/invitations', '{"name": '), [400]],
  ['JSON of a wrong type', post('/api/v1/peers/invitations', '[]'), [400]],
  ['JSON with a prototype', post('/api/v1/peers/invitations', '{"__proto__": {"name": "x"}}'), [400]],
  ['JSON nested 100,000 deep', post('/api/v1/peers/invitations', '['.repeat(100_000)), [400]],
  ['JSON of two megabytes', post('/api/v1/peers/invitations', `"${'x'.repeat(2_000_000)}"`), [413]],
  [
    'a policy of nonsense',
    `PUT /api/v1/policy HTTP/1.1\r\n${json}content-length: 2\r\nconnection: close\r\n\r\n{}`,
    [400],
  ],
  [
    'a body of another kind',
    post('/api/v1/peers/invitations', '<xml/>', `${host}content-type: text/xml\r\n`),
    [400, 415],
  ],
  ['an upload of nothing', post('/instances', '', host), [400]],
  ['an upload of text', post('/instances', 'hello', host), [400]],
  ['a compressed upload', post('/instances', '\x1f\x8b\x08', `${host}content-encoding: gzip\r\n`), [400, 415]],
  [
    'an upload larger than anything',
    `POST /instances HTTP/1.1\r\n${host}content-length: 99999999999999\r\n\r\nab`,
    [413, 507],
  ],
]

/** Writes a request and gathers the answer until the other side closes, or for a while. */
async function exchange(port: number, request: string, what = ''): Promise<string> {
  const socket = connect({ host: '127.0.0.1', port })
  socket.on('error', () => undefined)
  let answer = ''
  socket.on('data', (chunk: Buffer) => {
    answer += chunk.toString('latin1')
  })
  socket.write(request, 'latin1')
  await until(`an answer to ${what}`, 30_000, () => socket.closed || /\r\n\r\n/.test(answer))
  socket.destroy()
  return answer
}

/** What a TLS client gets to see: bytes of an answer, and the error's code. */
async function tryTls(port: number, options: object): Promise<{ bytes: number; code: string }> {
  const socket = connectTls({ host: '127.0.0.1', port, rejectUnauthorized: false, ...options })
  let bytes = 0
  let code = ''
  socket.on('data', (chunk: Buffer) => {
    bytes += chunk.length
  })
  socket.on('error', error => {
    code ||= 'code' in error ? String(error.code) : error.message
  })
  socket.on('secureConnect', () => socket.write('GET /x/1/card HTTP/1.1\r\nhost: x\r\n\r\n'))
  await closed(socket)
  return { bytes, code }
}
