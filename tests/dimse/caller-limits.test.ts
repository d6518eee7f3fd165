import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { commandField } from '../../gateway/dimse/command.ts'
import type { ScpOptions } from '../../gateway/dimse/scp.ts'
import type { ServiceClass } from '../../gateway/dimse/service.ts'
import { memoryLog } from '../support/memory-log.ts'
import { until } from '../support/until.ts'
import {
  associateRequest,
  commandSet,
  connectRaw,
  ctImageStorage,
  everybody,
  explicitLittleEndian,
  implicitLittleEndian,
  item,
  pdu,
  pdv,
  type RawContext,
  type RawPeer,
  registered,
  responseOf,
  startScp,
  storeCommand,
  storeMessage,
  verification,
} from './fixture.ts'

const ct: RawContext = { id: 1, abstractSyntax: ctImageStorage, transferSyntaxes: [explicitLittleEndian] }
const localLimit = { type: 0x03, body: Buffer.from([0, 2, 3, 2]) }

async function call(t: TestContext, port: number, callingAe: string, contexts = [ct]): Promise<RawPeer> {
  const peer = await connectRaw(t, port)
  peer.write(associateRequest(contexts, { callingAe }))
  return peer
}

test('a registration bounds its own associations, and a freed one is used again', async t => {
  const { port, refusals, scp } = await startScp(t, {
    unknownCallers: 'all',
    identifyCaller: registered('CT', { limits: { associations: 2 } }),
  })
  const open = [await call(t, port, 'CT'), await call(t, port, 'CT')]
  for (const peer of open) assert.equal((await peer.read())?.type, 0x02)

  assert.deepEqual(await (await call(t, port, 'CT')).read(), localLimit)
  assert.equal((await (await call(t, port, 'OTHER')).read())?.type, 0x02)
  open[0]?.socket.destroy()
  await until('one to be free', 30_000, () => scp.counters().associationsOpen === 2)
  assert.equal((await (await call(t, port, 'CT')).read())?.type, 0x02)

  assert.deepEqual(
    refusals.map(({ callingAe, reason }) => [callingAe, reason]),
    [['CT', 'limit']],
  )
})

test('a stranger under the AE title of a registered caller does not use up its associations', async t => {
  let isStranger = true
  const known = registered('CT', { limits: { associations: 1 } })
  const { port } = await startScp(t, {
    limits: { associationsPerAe: 3 },
    unknownCallers: 'all',
    identifyCaller: async caller => (isStranger ? { kind: 'unknown' } : await known(caller)),
  })
  for (let count = 0; count < 3; count += 1) assert.equal((await (await call(t, port, 'CT')).read())?.type, 0x02)
  assert.deepEqual(await (await call(t, port, 'CT')).read(), localLimit)

  isStranger = false

  assert.equal((await (await call(t, port, 'CT')).read())?.type, 0x02)
})

test('a registration may be silent for as long as it says', async t => {
  const { port } = await startScp(t, {
    limits: { idleMs: 120_000, graceMs: 100 },
    identifyCaller: registered('CT', { limits: { idleSeconds: 1 } }),
  })
  const other = await startScp(t, {
    limits: { idleMs: 200, graceMs: 100 },
    identifyCaller: registered('CT', { limits: { idleSeconds: 120 } }),
  })
  const patient = await call(t, other.port, 'CT')
  assert.equal((await patient.read())?.type, 0x02)
  const hasty = await call(t, port, 'CT')
  assert.equal((await hasty.read())?.type, 0x02)

  assert.equal((await hasty.read())?.type, 0x07)
  patient.write(storeMessage(1, storeCommand(), Buffer.alloc(10)))
  assert.equal(responseOf(await patient.read()).get(0x0900), 0)
})

/** Services that would answer anybody. */
function queryRetrieve(asked: string[]): ServiceClass[] {
  const root = '1.2.840.10008.5.1.4.1.2.2.'
  return [
    [`${root}1`, commandField.findRequest],
    [`${root}2`, commandField.moveRequest],
    [`${root}3`, commandField.getRequest],
    ['1.2.840.10008.5.1.4.31', commandField.findRequest],
  ].map(([uid, field]) => ({
    sopClassUids: [String(uid)],
    transferSyntaxes: [implicitLittleEndian],
    commandFields: [Number(field)],
    handle: async request => {
      asked.push(request.sopClassUid)
      return { status: 0 }
    },
  }))
}

/** The results of the contexts of an acceptance. */
function results(body: Buffer | undefined): number[] {
  const found: number[] = []
  for (let at = 68; body && at + 4 <= body.length; at += 4 + body.readUInt16BE(at + 2)) {
    if (body[at] === 0x21) found.push(body.readUInt8(at + 6))
  }
  return found
}

const everything: readonly RawContext[] = [
  verification,
  ctImageStorage,
  ...['1', '2', '3'].map(kind => `1.2.840.10008.5.1.4.1.2.2.${kind}`),
  '1.2.840.10008.5.1.4.31',
].map((abstractSyntax, index) => ({ id: index * 2 + 1, abstractSyntax, transferSyntaxes: [implicitLittleEndian] }))

test('each context is accepted or rejected by the permissions of the caller, and the log says how to permit', async t => {
  const lines: Parameters<typeof memoryLog>[0] = []
  const base: Partial<ScpOptions> = { services: queryRetrieve([]), unknownCallers: 'all', log: memoryLog(lines) }
  const cases = [
    [undefined, [0, 0, 1, 1, 1, 1]],
    [
      ['find', 'worklist'],
      [1, 1, 0, 1, 1, 0],
    ],
    [
      ['echo', 'store', 'find', 'move', 'get', 'commit', 'worklist', 'mpps'],
      [0, 0, 0, 0, 0, 0],
    ],
    [[], [1, 1, 1, 1, 1, 1]],
  ] as const
  for (const [permissions, expected] of cases) {
    const identifyCaller = permissions && registered('CT', { name: 'ct 1', permissions })
    const { port, refusals } = await startScp(t, { ...base, ...(identifyCaller && { identifyCaller }) })

    const accept = await (await call(t, port, 'CT', [...everything])).read()

    assert.deepEqual(results(accept?.body), expected)
    assert.deepEqual(
      refusals.map(refusal => refusal.reason),
      expected.every(result => result === 0) ? [] : ['not-permitted'],
    )
  }
  const messages = lines.filter(line => line.level === 'warn').map(line => line.message)
  assert.match(messages[0] ?? '', /not registered: find, move, get, worklist; register it \(hanse modality add AETITLE/)
  assert.match(messages[1] ?? '', /not permitted to ct 1: echo, store, move, get; permit it .*--allow echo,store,find,/)
})

test('who may retrieve but not store receives by C-GET, and cannot send', async t => {
  const asked: string[] = []
  const { port, received } = await startScp(t, {
    services: queryRetrieve(asked),
    identifyCaller: registered('WS', { permissions: ['get'] }),
  })
  const peer = await connectRaw(t, port)
  const get = '1.2.840.10008.5.1.4.1.2.2.3'
  const find = '1.2.840.10008.5.1.4.1.2.2.1'
  const providerOf = (uid: string): Buffer => {
    const length = Buffer.from([0, uid.length])
    return item(0x54, [length, Buffer.from(uid), Buffer.from([0, 1])])
  }
  // The role of a provider opens storage contexts for a C-GET, and nothing else.
  const request = associateRequest(
    [
      ct,
      ...[get, find].map((uid, index) => ({
        id: 3 + index * 2,
        abstractSyntax: uid,
        transferSyntaxes: [implicitLittleEndian],
      })),
    ],
    { callingAe: 'WS' },
  )
  peer.write(withItems(request, [item(0x50, [providerOf(ctImageStorage), providerOf(find)])]))
  assert.deepEqual(results((await peer.read())?.body), [0, 0, 1])

  peer.write(storeMessage(1, storeCommand(), Buffer.alloc(100)))
  assert.equal(responseOf(await peer.read()).get(0x0900), 0x0124)
  peer.write(
    Buffer.concat([
      pdu(0x04, [pdv(3, 3, commandSet({ 2: get, 256: 0x10, 272: 2, 1792: 0, 2048: 0 }))]),
      pdu(0x04, [pdv(3, 2, Buffer.alloc(8))]),
    ]),
  )
  assert.equal(responseOf(await peer.read()).get(0x0900), 0)

  assert.deepEqual(asked, [get])
  assert.equal(received.length, 0)
})

test('thousands of transfer syntaxes in every one of 128 contexts are answered at once', async t => {
  const { port } = await startScp(t, { identifyCaller: everybody })
  const transferSyntaxes = [...Array.from({ length: 400 }, (_, index) => `1.2.${index}`), explicitLittleEndian]
  const contexts = Array.from({ length: 128 }, (_, index) => ({ ...ct, id: index * 2 + 1, transferSyntaxes }))
  const begin = performance.now()

  const accept = await (await call(t, port, 'CT', contexts)).read()

  assert.deepEqual(
    results(accept?.body),
    Array.from({ length: 128 }, () => 0),
  )
  assert.ok(performance.now() - begin < 10_000)
})

/** An association request with more items at its end. */
function withItems(request: Buffer, items: readonly Buffer[]): Buffer {
  return pdu(0x01, [request.subarray(6), ...items])
}
