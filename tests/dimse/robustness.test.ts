import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { test } from 'node:test'
import { GatewayError } from '../../gateway/errors.ts'
import { until } from '../support/until.ts'
import {
  associate,
  associateRequest,
  commandSet,
  connectRaw,
  ctImageStorage,
  explicitLittleEndian,
  implicitLittleEndian,
  pdu,
  pdv,
  type RawPdu,
  responseOf,
  startScp,
  storeCommand,
  storeMessage,
  verification,
} from './fixture.ts'

const ctContext = { id: 1, abstractSyntax: ctImageStorage, transferSyntaxes: [explicitLittleEndian] }
const abort = (reason: number): RawPdu => ({ type: 0x07, body: Buffer.from([0, 0, 2, reason]) })

test('garbage is answered with A-ABORT for an unrecognized PDU and the connection is closed', async t => {
  const { port, scp } = await startScp(t)
  const peer = await connectRaw(t, port)

  peer.write(Buffer.from('GET / HTTP/1.1\r\nHost: x\r\n\r\n'))

  assert.deepEqual(await peer.read(), abort(1))
  await peer.closed()
  await until('the connection to be gone', 30_000, () => scp.counters().connectionsOpen === 0)
})

test('random bytes never do harm', async t => {
  const { port, scp } = await startScp(t, { limits: { graceMs: 100, associationRequestMs: 500 } })
  const peers = await Promise.all(
    Array.from({ length: 50 }, async (_, index) => {
      const peer = await connectRaw(t, port)
      const bytes = randomBytes(2_000)
      bytes[0] = index % 8
      peer.write(bytes)
      return peer
    }),
  )

  await Promise.all(peers.map(peer => peer.closed()))

  await until('all connections to be gone', 30_000, () => scp.counters().connectionsOpen === 0)
  const other = await associate(t, port)
  other.write(pdu(0x05, [Buffer.alloc(4)]))
  assert.equal((await other.read())?.type, 0x06)
})

test('data before the association is aborted as an unexpected PDU', async t => {
  const { port } = await startScp(t)
  const peer = await connectRaw(t, port)

  peer.write(pdu(0x04, [pdv(1, 3, storeCommand())]))

  assert.deepEqual(await peer.read(), abort(2))
  await peer.closed()
})

test('a second association request is aborted as an unexpected PDU', async t => {
  const { port } = await startScp(t)
  const peer = await associate(t, port)

  peer.write(associateRequest([ctContext]))

  assert.deepEqual(await peer.read(), abort(2))
  await peer.closed()
})

const badLengths: readonly (readonly [string, Buffer])[] = [
  ['an empty P-DATA', pdu(0x04, [])],
  ['a PDV longer than its PDU', pdu(0x04, [Buffer.from([0, 0, 1, 0, 1, 3, 0, 0])])],
  ['a PDV of length zero', pdu(0x04, [Buffer.from([0, 0, 0, 0, 1, 3])])],
  ['bytes after the last PDV', pdu(0x04, [pdv(1, 1, Buffer.from([0, 0])), Buffer.from([1, 2, 3])])],
  ['a P-DATA longer than advertised', Buffer.from([4, 0, 0, 4, 0, 1])],
  ['a P-DATA that claims 3 GiB', Buffer.from([4, 0, 0xc0, 0, 0, 0])],
  ['a command that is not a command set', pdu(0x04, [pdv(1, 3, Buffer.from('no command set'))])],
  ['a command on a context that was not accepted', pdu(0x04, [pdv(9, 3, storeCommand())])],
]
for (const [what, bytes] of badLengths) {
  test(`${what} is aborted as an invalid parameter`, async t => {
    const { port } = await startScp(t)
    const peer = await associate(t, port)

    peer.write(bytes)

    assert.deepEqual(await peer.read(), abort(6))
    await peer.closed()
  })
}

test('an association request that claims 3 GiB is aborted without being gathered', async t => {
  const { port } = await startScp(t)
  const peer = await connectRaw(t, port)

  peer.write(Buffer.from([1, 0, 0xc0, 0, 0, 0]))

  assert.deepEqual(await peer.read(), abort(6))
})

test('messages out of order are aborted as unexpected parameters', async t => {
  const { port } = await startScp(t)
  const wrongs = [
    pdu(0x04, [pdv(1, 2, Buffer.alloc(10))]),
    pdu(0x04, [pdv(1, 3, storeCommand()), pdv(1, 3, storeCommand())]),
    pdu(0x04, [pdv(1, 3, storeCommand()), pdv(3, 0, Buffer.alloc(10))]),
    pdu(0x04, [pdv(1, 1, storeCommand()), pdv(3, 3, storeCommand())]),
    pdu(0x04, [pdv(1, 3, storeCommand({ 256: 0x8001 }))]),
  ]
  for (const wrong of wrongs) {
    const peer = await associate(t, port, [ctContext, { ...ctContext, id: 3 }])
    peer.write(wrong)
    assert.deepEqual(await peer.read(), abort(5))
    await peer.closed()
  }
})

test('bad C-STORE requests get a status of their own and the association lives on', async t => {
  const { port, scp, files } = await startScp(t)
  const peer = await associate(t, port)
  const dataset = Buffer.alloc(100)
  const cases: readonly (readonly [Buffer, number])[] = [
    [storeCommand({ 2: undefined }), 0x0120],
    [storeCommand({ 4096: undefined }), 0x0120],
    [storeCommand({ 2: '1.2.840.10008.5.1.4.1.1.4' }), 0x0122],
    [storeCommand({ 4096: '../../etc/passwd' }), 0x0106],
    [storeCommand({ 256: 0x0020 }), 0x0211],
  ]

  for (const [command, status] of cases) {
    peer.write(storeMessage(1, command, dataset))
    const response = responseOf(await peer.read())
    assert.equal(response.get(0x0900), status)
    assert.equal(response.get(0x0120), 7)
  }
  peer.write(pdu(0x04, [pdv(1, 3, storeCommand({ 2048: 0x0101 }))]))
  assert.equal(responseOf(await peer.read()).get(0x0900), 0xc000)
  peer.write(storeMessage(1, storeCommand(), dataset))
  assert.equal(responseOf(await peer.read()).get(0x0900), 0x0000)

  assert.equal((await files()).length, 1)
  assert.equal(scp.counters().instancesStored, 1)
})

test('requests sent ahead of the responses are answered in order', async t => {
  const { port, received } = await startScp(t)
  const peer = await associate(t, port)
  const ids = Array.from({ length: 40 }, (_, index) => index + 1)

  peer.write(
    Buffer.concat(
      ids.map(id => storeMessage(1, storeCommand({ 272: id, 4096: `1.2.${id}` }), Buffer.alloc(5_000, id))),
    ),
  )
  peer.write(pdu(0x05, [Buffer.alloc(4)]))

  for (const id of ids) assert.equal(responseOf(await peer.read()).get(0x0120), id)
  assert.equal((await peer.read())?.type, 0x06)
  assert.deepEqual(
    received.map(each => each.request.sopInstanceUid),
    ids.map(id => `1.2.${id}`),
  )
})

test('a response leaves in one write, so that an un-tuned peer does not wait for its own acknowledgement', async t => {
  const { port } = await startScp(t)
  const peer = await associate(t, port)
  const before = peer.chunks

  for (let count = 0; count < 20; count += 1) {
    peer.write(storeMessage(1, storeCommand(), Buffer.alloc(1_000)))
    assert.equal(responseOf(await peer.read()).get(0x0900), 0)
  }

  assert.equal(peer.chunks - before, 20)
})

test('an aborted or lost transfer leaves nothing behind', async t => {
  const { port, scp, files } = await startScp(t)
  for (const ending of ['abort', 'reset', 'release', 'garbage'] as const) {
    const peer = await associate(t, port)
    peer.write(Buffer.concat([pdu(0x04, [pdv(1, 3, storeCommand())]), pdu(0x04, [pdv(1, 0, Buffer.alloc(100_000))])]))
    await until('the staging to begin', 30_000, async () => (await files()).length === 1)

    if (ending === 'abort') peer.write(pdu(0x07, [Buffer.alloc(4)]))
    else if (ending === 'release') peer.write(pdu(0x05, [Buffer.alloc(4)]))
    else if (ending === 'garbage') peer.write(Buffer.from('garbage'))
    else peer.socket.resetAndDestroy()

    await until(`nothing to be left after ${ending}`, 30_000, async () => (await files()).length === 0)
    peer.socket.destroy()
  }
  await until('all connections to be gone', 30_000, () => scp.counters().connectionsOpen === 0)
  assert.equal(scp.counters().instancesStored, 0)
})

test('a store that refuses at once lets the data set drain and answers with its status', async t => {
  const { port } = await startScp(t, {
    store: { begin: () => Promise.reject(new GatewayError('STORAGE_FULL', 'below the watermark')) },
  })
  const peer = await associate(t, port)

  for (let count = 0; count < 2; count += 1) {
    peer.write(storeMessage(1, storeCommand(), Buffer.alloc(250_000)))
    const response = responseOf(await peer.read())
    assert.equal(response.get(0x0900), 0xa700)
    assert.equal(response.get(0x0902), 'out of storage space, send again later')
  }
})

test('a store that fails midway is discarded, and the status tells so', async t => {
  const calls: string[] = []
  const { port } = await startScp(t, {
    store: {
      begin: async () => ({
        write: () => Promise.reject(new GatewayError('STORAGE_IO', 'disk gone')),
        finish: async () => {
          calls.push('finish')
          return { status: 0 }
        },
        discard: async () => {
          calls.push('discard')
        },
      }),
    },
  })
  const peer = await associate(t, port)

  peer.write(storeMessage(1, storeCommand(), Buffer.alloc(10_000)))

  assert.equal(responseOf(await peer.read()).get(0x0900), 0xa700)
  assert.deepEqual(calls, ['discard'])
})

test('an error without a code becomes a processing failure without detail', async t => {
  const { port } = await startScp(t, { store: { begin: () => Promise.reject(new Error('TEST^PATIENT')) } })
  const peer = await associate(t, port)

  peer.write(storeMessage(1, storeCommand(), Buffer.alloc(10)))

  const response = responseOf(await peer.read())
  assert.equal(response.get(0x0900), 0x0110)
  assert.equal(response.get(0x0902), 'internal error')
})

test('a slow store stops the sender and memory stays bounded', async t => {
  const gate = Promise.withResolvers<void>()
  let written = 0
  const { port, scp } = await startScp(t, {
    limits: { heldBytesPerAssociation: 1_000_000, heldBytes: 2_000_000 },
    store: {
      begin: async () => ({
        write: async chunks => {
          await gate.promise
          for (const chunk of chunks) written += chunk.length
        },
        finish: async () => ({ status: 0 }),
        discard: async () => undefined,
      }),
    },
  })
  const peer = await associate(t, port)
  const pdus = Array.from({ length: 400 }, (_, index) =>
    pdu(0x04, [pdv(1, index === 399 ? 2 : 0, Buffer.alloc(250_000))]),
  )
  peer.write(pdu(0x04, [pdv(1, 3, storeCommand())]))
  for (const each of pdus) peer.write(each)

  await until('the first megabyte', 30_000, () => scp.counters().datasetBytesReceived >= 1_000_000)
  const stoppedAt = scp.counters().datasetBytesReceived
  // Whatever else arrives now would be read within a few turns of the loop; an echo on another association is one.
  const other = await associate(t, port, [
    { id: 1, abstractSyntax: verification, transferSyntaxes: [implicitLittleEndian] },
  ])
  for (let count = 0; count < 20; count += 1) {
    other.write(pdu(0x04, [pdv(1, 3, commandSet({ 2: verification, 256: 0x30, 272: 1, 2048: 0x0101 }))]))
    assert.equal(responseOf(await other.read()).get(0x0900), 0)
  }
  assert.ok(scp.counters().datasetBytesReceived < stoppedAt + 200_000)

  gate.resolve()
  assert.equal(responseOf(await peer.read(120_000)).get(0x0900), 0)
  assert.equal(written, 400 * 250_000)
})

test('senders that stop midway do not use up the memory of the others', async t => {
  const { port } = await startScp(t, { limits: { heldBytesPerAssociation: 1_000_000, heldBytes: 1_000_000 } })
  const half = Buffer.concat([pdu(0x04, [pdv(1, 3, storeCommand())]), pdu(0x04, [pdv(1, 0, Buffer.alloc(200_000))])])
  for (let count = 0; count < 10; count += 1) {
    const stuck = await associate(t, port)
    stuck.write(half)
  }
  const peer = await associate(t, port)

  for (let count = 0; count < 5; count += 1) {
    peer.write(storeMessage(1, storeCommand(), Buffer.alloc(250_000)))
    assert.equal(responseOf(await peer.read()).get(0x0900), 0)
  }
})

test('a caller that says nothing is disconnected, one that stalls inside a PDU is aborted', async t => {
  const { port, scp } = await startScp(t, {
    limits: { associationRequestMs: 300, pduMs: 300, idleMs: 60_000, graceMs: 100 },
  })
  const silent = await connectRaw(t, port)
  const cut = await connectRaw(t, port)
  cut.write(associateRequest([ctContext]).subarray(0, 40))
  const stalled = await associate(t, port)
  stalled.write(pdu(0x04, [pdv(1, 3, storeCommand())]).subarray(0, 30))
  const drip = await associate(t, port)
  const whole = pdu(0x04, [pdv(1, 3, storeCommand())])
  let sent = 0
  const dripping = setInterval(() => {
    drip.write(whole.subarray(sent, sent + 1))
    sent = Math.min(sent + 1, whole.length - 2)
  }, 20)
  t.after(() => clearInterval(dripping))

  await silent.closed()
  await cut.closed()
  assert.equal((await stalled.read())?.type, 0x07)
  assert.equal((await drip.read())?.type, 0x07)
  await until('all connections to be gone', 30_000, () => scp.counters().connectionsOpen === 0)
})

test('an idle association is aborted, one that keeps working is not', async t => {
  const { port } = await startScp(t, { limits: { idleMs: 400 } })
  const idle = await associate(t, port)
  const busy = await associate(t, port)
  const working = setInterval(() => busy.write(storeMessage(1, storeCommand(), Buffer.alloc(10))), 50)
  t.after(() => clearInterval(working))

  assert.equal((await idle.read())?.type, 0x07)
  for (let count = 0; count < 20; count += 1) assert.equal(responseOf(await busy.read()).get(0x0900), 0)
})

test('a peer that does not close after our last word is destroyed', async t => {
  const { port, scp } = await startScp(t, { limits: { graceMs: 200 } })
  const peer = await associate(t, port)

  peer.write(pdu(0x05, [Buffer.alloc(4)]))

  assert.equal((await peer.read())?.type, 0x06)
  await peer.closed()
  await until('the connection to be gone', 30_000, () => scp.counters().connectionsOpen === 0)
})

test('a peer that never reads its responses is not read from either, and is given up', async t => {
  const { port, scp } = await startScp(t, { limits: { pduMs: 500, graceMs: 100 } })
  const peer = await associate(t, port, [
    { id: 1, abstractSyntax: verification, transferSyntaxes: [implicitLittleEndian] },
  ])
  peer.socket.pause()
  const echo = pdu(0x04, [pdv(1, 3, commandSet({ 2: verification, 256: 0x30, 272: 1, 2048: 0x0101 }))])
  const many = Buffer.concat(Array.from({ length: 20_000 }, () => echo))
  for (let count = 0; count < 10; count += 1) peer.write(many)

  await until('the connection to be given up', 60_000, () => scp.counters().connectionsOpen === 0)
})

test('500 connections at once do not disturb a client that is served', async t => {
  const { port, scp } = await startScp(t)
  const client = await associate(t, port)

  const crowd = await Promise.all(Array.from({ length: 500 }, () => connectRaw(t, port)))
  for (const [index, peer] of crowd.entries()) if (index % 2 === 0) peer.write(associateRequest([ctContext]))
  for (let count = 0; count < 10; count += 1) {
    client.write(storeMessage(1, storeCommand(), Buffer.alloc(200_000)))
    assert.equal(responseOf(await client.read()).get(0x0900), 0)
  }
  const late = await associate(t, port)
  late.write(storeMessage(1, storeCommand(), Buffer.alloc(1_000)))

  assert.equal(responseOf(await late.read()).get(0x0900), 0)
  for (const peer of crowd) peer.socket.destroy()
  await until('the crowd to be gone', 30_000, () => scp.counters().connectionsOpen === 2)
})

test('over the limit half-open connections give way, then callers hear "local limit exceeded"', async t => {
  const { port, refusals, scp } = await startScp(t, { limits: { associations: 3 } })
  const halfOpen = await Promise.all([connectRaw(t, port), connectRaw(t, port), connectRaw(t, port)])
  await until('three connections', 30_000, () => scp.counters().connectionsOpen === 3)

  const served = [await associate(t, port), await associate(t, port), await associate(t, port)]
  for (const peer of halfOpen) await peer.closed()
  const refused = await connectRaw(t, port)
  refused.write(associateRequest([ctContext], { callingAe: 'LATE' }))

  assert.deepEqual(await refused.read(), { type: 0x03, body: Buffer.from([0, 2, 3, 2]) })
  await refused.closed()
  assert.deepEqual(refusals, [
    { callingAe: 'LATE', calledAe: 'HANSE', remoteAddress: '127.0.0.1', reason: 'limit', repeats: 0 },
  ])
  served[0]?.write(storeMessage(1, storeCommand(), Buffer.alloc(10)))
  assert.equal(responseOf(await served[0]?.read()).get(0x0900), 0)
})

test('closing lets a message end, then aborts what is left', async t => {
  const { port, scp, files } = await startScp(t)
  const idle = await associate(t, port)
  const ending = await associate(t, port)
  ending.write(pdu(0x04, [pdv(1, 3, storeCommand())]))
  await until('the message to begin', 30_000, async () => (await files()).length === 1)

  const closing = scp.close({ graceMs: 30_000 })
  assert.deepEqual(await idle.read(), abort(0))
  ending.write(pdu(0x04, [pdv(1, 2, Buffer.alloc(1_000))]))

  assert.equal(responseOf(await ending.read()).get(0x0900), 0)
  assert.deepEqual(await ending.read(), abort(0))
  await closing
  assert.equal((await files()).length, 1)
})

test('closing does not wait longer than its grace', async t => {
  const { port, scp, files } = await startScp(t)
  const stuck = await associate(t, port)
  stuck.write(pdu(0x04, [pdv(1, 3, storeCommand())]))
  await until('the message to begin', 30_000, async () => (await files()).length === 1)

  await scp.close({ graceMs: 50 })

  assert.deepEqual(await files(), [])
  assert.equal(scp.counters().connectionsOpen, 0)
})

test('a store that hangs for one association does not stop the others, even with the memory used up', async t => {
  const gate = Promise.withResolvers<void>()
  const { port } = await startScp(t, {
    limits: { heldBytesPerAssociation: 1_000_000, heldBytes: 100_000 },
    store: {
      begin: async ({ sopInstanceUid }) => ({
        write: async () => {
          if (sopInstanceUid === '1.2.9') await gate.promise
        },
        finish: async () => ({ status: 0 }),
        discard: async () => undefined,
      }),
    },
  })
  const slow = await associate(t, port)
  slow.write(storeMessage(1, storeCommand({ 4096: '1.2.9' }), Buffer.alloc(200_000)))
  const peer = await associate(t, port)

  for (let count = 0; count < 5; count += 1) {
    peer.write(storeMessage(1, storeCommand(), Buffer.alloc(250_000)))
    assert.equal(responseOf(await peer.read()).get(0x0900), 0)
  }
  gate.resolve()
  assert.equal(responseOf(await slow.read()).get(0x0900), 0)
})

test('values without bytes do not add up to a long command', async t => {
  const { port } = await startScp(t)
  const peer = await associate(t, port)
  const empty = pdu(0x04, [pdv(1, 1, Buffer.alloc(0))])

  peer.write(
    Buffer.concat([...Array.from({ length: 20_000 }, () => empty), storeMessage(1, storeCommand(), Buffer.alloc(10))]),
  )

  assert.equal(responseOf(await peer.read()).get(0x0900), 0)
})
