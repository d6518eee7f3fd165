import assert from 'node:assert/strict'
import { test } from 'node:test'
import { transferSyntaxes } from '../../gateway/dicom/uid.ts'
import { negotiate } from '../../gateway/dimse/contexts.ts'
import { usualTerms } from '../../gateway/services/reception-terms.ts'
import {
  associate,
  associateRequest,
  connectRaw,
  ctImageStorage,
  explicitLittleEndian,
  implicitLittleEndian,
  item,
  jpegBaseline,
  type RawPdu,
  registered,
  responseOf,
  startScp,
  storeCommand,
  storeMessage,
  verification,
} from './fixture.ts'

const privateClass = '1.2.826.0.1.3680043.9.1'

/** Context id, result and transfer syntax of each answer in an acceptance. */
function answers(accept: RawPdu | undefined): (readonly [number, number, string])[] {
  assert.equal(accept?.type, 0x02)
  const found: (readonly [number, number, string])[] = []
  const body = accept.body
  for (let offset = 68; offset < body.length; offset += 4 + body.readUInt16BE(offset + 2)) {
    if (body[offset] !== 0x21) continue
    const length = body.readUInt16BE(offset + 10)
    found.push([
      body.readUInt8(offset + 4),
      body.readUInt8(offset + 6),
      body.toString('latin1', offset + 12, offset + 12 + length),
    ])
  }
  return found
}

/** The maximum length that an acceptance advertises. */
function advertised(accept: RawPdu | undefined): number | undefined {
  const at = accept?.body.indexOf(Buffer.from([0x51, 0, 0, 4])) ?? -1
  return at < 0 ? undefined : accept?.body.readUInt32BE(at + 4)
}

test('each context gets the first transfer syntax that is known, as the proposer ordered them', () => {
  const negotiated = negotiate(
    [
      { id: 1, abstractSyntaxUid: ctImageStorage, transferSyntaxUids: ['1.2.3', jpegBaseline, implicitLittleEndian] },
      { id: 3, abstractSyntaxUid: ctImageStorage, transferSyntaxUids: [implicitLittleEndian, jpegBaseline] },
      { id: 5, abstractSyntaxUid: privateClass, transferSyntaxUids: [explicitLittleEndian] },
      { id: 7, abstractSyntaxUid: '1.2.3.4', transferSyntaxUids: [explicitLittleEndian] },
      { id: 9, abstractSyntaxUid: ctImageStorage, transferSyntaxUids: ['1.2.3'] },
      { id: 4, abstractSyntaxUid: ctImageStorage, transferSyntaxUids: [explicitLittleEndian] },
      { id: 11, abstractSyntaxUid: verification, transferSyntaxUids: [implicitLittleEndian] },
    ],
    { privateSopClasses: new Set([privateClass]), services: new Map(), terms: usualTerms },
  )

  assert.deepEqual(
    negotiated.map(each => [each.id, each.result, 'transferSyntaxUid' in each ? each.transferSyntaxUid : undefined]),
    [
      [1, 0, jpegBaseline],
      [3, 0, implicitLittleEndian],
      [5, 0, explicitLittleEndian],
      [7, 3, undefined],
      [9, 4, undefined],
      [4, 2, undefined],
      [11, 0, implicitLittleEndian],
    ],
  )
})

const none = { privateSopClasses: new Set<string>(), services: new Map(), terms: usualTerms }

test('what an administrator does not take is not accepted, and unknown classes are where they are taken', () => {
  const terms = { takesSyntax: (uid: string) => uid === implicitLittleEndian, takesUnknownClasses: true }
  const results = (abstractSyntaxUid: string, transferSyntaxUid: string): number | undefined =>
    negotiate([{ id: 1, abstractSyntaxUid, transferSyntaxUids: [transferSyntaxUid] }], { ...none, terms })[0]?.result
  assert.equal(results(ctImageStorage, implicitLittleEndian), 0)
  assert.equal(results(ctImageStorage, explicitLittleEndian), 4)
  assert.equal(results('1.2.3.4', implicitLittleEndian), 0)
  assert.equal(results(verification, explicitLittleEndian), 0)
})

test('every transfer syntax of PS3.6 is taken for a storage class', () => {
  for (const uid of transferSyntaxes.keys()) {
    const [context] = negotiate([{ id: 1, abstractSyntaxUid: ctImageStorage, transferSyntaxUids: [uid] }], none)
    assert.equal(context?.result, 0, uid)
  }
})

test('context ids stay as sent where they do not ascend', async t => {
  const { port, received } = await startScp(t)
  const peer = await connectRaw(t, port)
  const context = (id: number) => ({ id, abstractSyntax: ctImageStorage, transferSyntaxes: [explicitLittleEndian] })

  peer.write(associateRequest([context(201), context(5), context(3)]))

  assert.deepEqual(answers(await peer.read()), [
    [201, 0, explicitLittleEndian],
    [5, 0, explicitLittleEndian],
    [3, 0, explicitLittleEndian],
  ])
  for (const id of [3, 201, 5]) {
    peer.write(storeMessage(id, storeCommand(), Buffer.alloc(10)))
    assert.equal(responseOf(await peer.read()).get(0x0900), 0)
  }
  assert.equal(received.length, 3)
})

test('thousands of contexts, even and repeated ids among them, are answered once for each id', async t => {
  const { port } = await startScp(t)
  const peer = await connectRaw(t, port)
  const contexts = Array.from({ length: 6_000 }, (_, index) => ({
    id: index % 256,
    abstractSyntax: ctImageStorage,
    transferSyntaxes: [explicitLittleEndian],
  }))

  peer.write(associateRequest(contexts))

  const answered = answers(await peer.read())
  assert.equal(answered.length, 256)
  assert.equal(answered.filter(([, result]) => result === 0).length, 128)
  peer.write(storeMessage(255, storeCommand(), Buffer.alloc(10)))
  assert.equal(responseOf(await peer.read()).get(0x0900), 0)
})

test('our maximum PDU length is advertised whatever the peer offers, unlimited included', async t => {
  const { port } = await startScp(t)
  for (const maxPduLength of [0, 4_096, 16_384, 0xffffffff]) {
    const peer = await connectRaw(t, port)
    peer.write(
      associateRequest([{ id: 1, abstractSyntax: ctImageStorage, transferSyntaxes: [explicitLittleEndian] }], {
        maxPduLength,
      }),
    )
    assert.equal(advertised(await peer.read()), 262_144)
    peer.write(storeMessage(1, storeCommand(), Buffer.alloc(262_000)))
    assert.equal(responseOf(await peer.read()).get(0x0900), 0)
  }
})

test('a peer that proposes both roles for a storage class has both: it may receive the instances of a C-GET', async t => {
  const { port } = await startScp(t)
  const peer = await connectRaw(t, port)
  const uid = Buffer.from(ctImageStorage)
  const role = item(0x54, [Buffer.from([0, uid.length]), uid, Buffer.from([1, 1])])
  const request = associateRequest([
    { id: 1, abstractSyntax: ctImageStorage, transferSyntaxes: [explicitLittleEndian] },
  ])
  // A second user information item is out of the ordinary, and read like the first.
  const body = Buffer.concat([request.subarray(6), item(0x50, role)])
  const header = Buffer.from([1, 0, 0, 0, 0, 0])
  header.writeUInt32BE(body.length, 2)

  peer.write(Buffer.concat([header, body]))

  const accept = await peer.read()
  const at = accept?.body.indexOf(Buffer.from([0x54, 0])) ?? -1
  assert.ok(accept && at > 0)
  assert.deepEqual(accept.body.subarray(at + 6 + uid.length, at + 8 + uid.length), Buffer.from([1, 1]))
})

test('an association without a context that we take is accepted, and says so for each', async t => {
  const { port } = await startScp(t)
  const peer = await connectRaw(t, port)

  peer.write(associateRequest([{ id: 1, abstractSyntax: '1.2.3', transferSyntaxes: [explicitLittleEndian] }]))

  assert.deepEqual(answers(await peer.read()), [[1, 3, implicitLittleEndian]])
})

test('known callers are served where unknown ones are refused, and refusals name the reason', async t => {
  const asked: unknown[] = []
  const { port, refusals, received } = await startScp(t, {
    unknownCallers: 'refuse',
    identifyCaller: async caller => {
      asked.push(caller)
      if (caller.callingAe === 'DOWN') throw new Error('database')
      return await registered('RAW')(caller)
    },
  })
  const known = await associate(t, port)
  known.write(storeMessage(1, storeCommand(), Buffer.alloc(10)))
  assert.equal(responseOf(await known.read()).get(0x0900), 0)
  const replies: (RawPdu | undefined)[] = []
  for (const callingAe of ['OTHER', 'DOWN']) {
    const peer = await connectRaw(t, port)
    peer.write(associateRequest([], { callingAe }))
    replies.push(await peer.read())
    await peer.closed()
  }

  assert.deepEqual(replies, [
    { type: 0x03, body: Buffer.from([0, 1, 1, 3]) },
    { type: 0x03, body: Buffer.from([0, 2, 3, 1]) },
  ])
  assert.deepEqual(
    refusals.map(({ callingAe, reason }) => [callingAe, reason]),
    [
      ['OTHER', 'unknown-caller'],
      ['DOWN', 'unavailable'],
    ],
  )
  assert.deepEqual(asked[0], { callingAe: 'RAW', remoteAddress: '127.0.0.1', certificate: undefined })
  assert.equal(received.length, 1)
})

test('another application context and another protocol version are refused', async t => {
  const { port } = await startScp(t)
  const request = associateRequest([])
  const otherContext = Buffer.from(request)
  otherContext.write('9', otherContext.indexOf('1.2.840'))
  const otherVersion = Buffer.from(request)
  otherVersion.writeUInt16BE(2, 6)

  for (const [bytes, expected] of [
    [otherContext, [0, 1, 1, 2]],
    [otherVersion, [0, 1, 2, 2]],
  ] as const) {
    const peer = await connectRaw(t, port)
    peer.write(bytes)
    assert.deepEqual(await peer.read(), { type: 0x03, body: Buffer.from(expected) })
  }
})
