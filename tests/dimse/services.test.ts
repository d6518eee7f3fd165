/** Requests for services beside storage: dispatch, responses, C-CANCEL, sub-operations, and peers that misbehave. */
import assert from 'node:assert/strict'
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { bufferSource } from '../../gateway/dicom/byte-source.ts'
import { encodeDataset } from '../../gateway/dicom/part10-writer.ts'
import { commandField } from '../../gateway/dimse/command.ts'
import { findScu } from '../../gateway/dimse/find-scu.ts'
import { getScu } from '../../gateway/dimse/get-scu.ts'
import { queryRetrieveSopClass } from '../../gateway/dimse/query-retrieve.ts'
import type { ScpOptions } from '../../gateway/dimse/scp.ts'
import type { ServiceChannel, ServiceClass, ServiceHandler, ServiceRequest } from '../../gateway/dimse/service.ts'
import { GatewayError } from '../../gateway/errors.ts'
import { temporaryDir } from '../support/blobs.ts'
import { missing, run } from '../support/dcmtk.ts'
import { buildInstance } from '../support/dicom-builder.ts'
import { until } from '../support/until.ts'
import {
  associate,
  associateRequest,
  commandSet,
  connectRaw,
  ctImageStorage,
  explicitLittleEndian,
  fileStore,
  implicitLittleEndian,
  item,
  pdu,
  pdv,
  type RawPeer,
  registered,
  responseOf,
  startScp,
  verification,
} from './fixture.ts'

/** Whoever calls is registered with all permissions. */
const everybody: NonNullable<ScpOptions['identifyCaller']> = caller => registered(caller.callingAe)(caller)

const skip = missing('findscu', 'getscu')

const find = queryRetrieveSopClass('study-root', 'find')
const get = queryRetrieveSopClass('study-root', 'get')

const serviceOf = (sopClassUid: string, field: number, handle: ServiceHandler): ServiceClass => ({
  sopClassUids: [sopClassUid],
  transferSyntaxes: [explicitLittleEndian, implicitLittleEndian],
  commandFields: [field],
  handle,
})

const target = (port: number) => ({ host: '127.0.0.1', port, callingAe: 'TEST', calledAe: 'HANSE' })
const match = (syntax: string, uid: string) =>
  encodeDataset(
    [
      { tag: 0x00080052, value: 'STUDY' },
      { tag: 0x0020000d, value: uid },
    ],
    syntax,
  )

/** Answers a C-FIND with `count` matches. */
const matches =
  (count: number): ServiceHandler =>
  async ({ transferSyntaxUid, signal }, channel) => {
    for (let index = 0; index < count; index += 1) {
      if (signal.aborted) return { status: 0xfe00 }
      if (index % 100 === 99) await new Promise(resolve => setImmediate(resolve)) // as a page from the database does
      await channel.send({ status: 0xff00, dataset: match(transferSyntaxUid, `1.2.${index}`) })
    }
    return { status: 0x0000 }
  }

async function startFind(t: TestContext, handle: ServiceHandler): Promise<number> {
  const { port } = await startScp(t, {
    identifyCaller: everybody,
    services: [serviceOf(find, commandField.findRequest, handle)],
  })
  return port
}

test("DCMTK's findscu gets every pending response and the last one", { skip }, async t => {
  const seen: ServiceRequest[] = []
  const port = await startFind(t, async (request, channel) => {
    seen.push(request)
    return await matches(1000)(request, channel)
  })

  const { code, output } = await run(t, 'findscu', [
    '-v',
    '-S',
    '-k',
    '0008,0052=STUDY',
    '-k',
    '0020,000D',
    '127.0.0.1',
    String(port),
  ])

  assert.equal(code, 0, output.slice(-2000))
  assert.equal([...output.matchAll(/Find Response: \d+ \(Pending\)/g)].length, 1000)
  assert.match(output, /Received Final Find Response \(Success\)/)
  assert.equal(seen[0]?.principal.id, 'FINDSCU')
  assert.ok((seen[0]?.dataset?.length ?? 0) > 0)
})

test('a C-CANCEL reaches the handler between two responses', { skip }, async t => {
  const port = await startFind(t, matches(100_000))

  const { output } = await run(t, 'findscu', [
    '-v',
    '-S',
    '--cancel',
    '5',
    '-k',
    '0008,0052=STUDY',
    '127.0.0.1',
    String(port),
  ])

  const received = [...output.matchAll(/Find Response: \d+ \(Pending\)/g)].length
  assert.ok(received >= 5 && received < 50_000, `${received} responses`)
  assert.match(output, /Received Final Find Response \(Cancel/)
})

test('a handler that fails is a failure status, and the association goes on', { skip }, async t => {
  let asked = 0
  const port = await startFind(t, async () => {
    asked += 1
    throw new TypeError('of ours')
  })

  const { output } = await run(t, 'findscu', [
    '-v',
    '-S',
    '--repeat',
    '3',
    '-k',
    '0008,0052=STUDY',
    '127.0.0.1',
    String(port),
  ])

  assert.equal(asked, 3)
  assert.equal([...output.matchAll(/Received Final Find Response \((?!Success)/g)].length, 3)
  assert.doesNotMatch(output, /of ours/)
})

test('a request that the service does not know is told so', { skip }, async t => {
  const { port } = await startScp(t, {
    identifyCaller: everybody,
    services: [serviceOf(find, commandField.moveRequest, matches(1))],
  })

  const { output } = await run(t, 'findscu', ['-v', '-S', '-k', '0008,0052=STUDY', '127.0.0.1', String(port)])

  assert.match(
    output,
    /Received Final Find Response \(.*0x0?211|Received Final Find Response \(Failed: UnrecognizedOperation\)/i,
  )
})

test('an identifier of more than a megabyte is refused, and the next request is served', async t => {
  const port = await startFind(t, matches(1))
  const long = { tag: 0x00104000, value: 'x'.repeat(1_200_000) }
  const ask = async (identifier: Parameters<typeof encodeDataset>[0]): Promise<number> => {
    let count = 0
    for await (const _ of findScu(target(port), { sopClassUid: find, identifier: [...identifier] })) count += 1
    return count
  }

  await assert.rejects(ask([{ tag: 0x00080052, value: 'STUDY' }, long]))

  assert.equal(await ask([{ tag: 0x00080052, value: 'STUDY' }]), 1)
})

test('a requester that goes away ends the work for it', async t => {
  let ended: unknown
  let sent = 0
  const port = await startFind(t, async (request, channel) => {
    try {
      for (;;) {
        await new Promise(resolve => setImmediate(resolve))
        await channel.send({ status: 0xff00, dataset: match(request.transferSyntaxUid, '1.2') })
        sent += 1
      }
    } catch (error) {
      ended = error
      assert.ok(request.signal.aborted)
      throw error
    }
  })
  const giveUp = new AbortController()
  const reading = (async () => {
    const query = { sopClassUid: find, identifier: [{ tag: 0x00080052, value: 'STUDY' }] }
    for await (const _ of findScu({ ...target(port), signal: giveUp.signal }, query)) if (sent > 50) giveUp.abort()
  })()

  await assert.rejects(reading)

  await until('the handler has ended', 30_000, () => ended !== undefined)
})

test('a requester that reads nothing is waited for without holding its answers in memory', async t => {
  let sent = 0
  const port = await startFind(t, async (request, channel) => {
    const dataset = encodeDataset([{ tag: 0x00104000, value: 'x'.repeat(10_000) }], request.transferSyntaxUid)
    for (; sent < 20_000; sent += 1) await channel.send({ status: 0xff00, dataset })
    return { status: 0x0000 }
  })
  const iterator = findScu(target(port), { sopClassUid: find, identifier: [{ tag: 0x00080052, value: 'STUDY' }] })[
    Symbol.asyncIterator
  ]()
  await iterator.next()
  let before = -1
  await until('the handler waits', 60_000, () => {
    const isStill = sent === before
    before = sent
    return isStill
  })

  assert.ok(sent < 10_000, `${sent} responses of 10 KB were taken although nobody reads`)
  await iterator.return?.()
})

/** Sends `count` instances back as C-GET sub-operations. */
const instances = Array.from({ length: 20 }, (_, index) => buildInstance({ seed: index + 1, rows: 64, cols: 64 }))

async function sendAll(
  { signal }: ServiceRequest,
  channel: ServiceChannel,
): Promise<{ completed: number; failed: number }> {
  const counts = { completed: 0, failed: 0 }
  for (const { dataset, sopClassUid, sopInstanceUid } of instances) {
    if (signal.aborted) break
    const instance = { sopClassUid, sopInstanceUid, transferSyntaxUid: explicitLittleEndian }
    if (!channel.accepts(instance)) {
      counts.failed += 1
      continue
    }
    const { status } = await channel.store(instance, { source: bufferSource(dataset), datasetOffset: 0 }, dataset)
    if (status === 0) counts.completed += 1
    else counts.failed += 1
    await channel.send({
      status: 0xff00,
      counts: { ...counts, remaining: instances.length - counts.completed - counts.failed },
    })
  }
  return counts
}

test('sub-operations of a C-GET go back on its association, byte by byte', { skip }, async t => {
  let counts = { completed: 0, failed: 0 }
  const handle: ServiceHandler = async (request, channel) => {
    counts = await sendAll(request, channel)
    return { status: 0x0000, counts }
  }
  const { port } = await startScp(t, {
    identifyCaller: everybody,
    services: [serviceOf(get, commandField.getRequest, handle)],
  })

  const { service, received } = await fileStore(await temporaryDir(t))
  const identifier = [{ tag: 0x00080052, value: 'STUDY' }]
  const sopClassUids = [...new Set(instances.map(({ sopClassUid }) => sopClassUid))]
  await getScu(target(port), { sopClassUid: get, identifier, sopClassUids, store: service }, () => undefined)
  assert.deepEqual(counts, { completed: instances.length, failed: 0 })
  const got = await Promise.all(received.map(({ path }) => readFile(path)))
  assert.deepEqual(
    got,
    instances.map(({ dataset }) => Buffer.from(dataset)),
  )

  const directory = await temporaryDir(t)
  await writeFile(join(directory, 'keep'), '')
  const { code, output } = await run(t, 'getscu', [
    '-v',
    '-S',
    '-od',
    directory,
    '-k',
    '0008,0052=STUDY',
    '127.0.0.1',
    String(port),
  ])
  assert.equal(code, 0, output.slice(-2000))
  assert.deepEqual(counts, { completed: instances.length, failed: 0 })
})

test('without the role of a provider nothing is sent to the requester', async t => {
  let counts = { completed: 0, failed: 0 }
  const handle: ServiceHandler = async (request, channel) => {
    counts = await sendAll(request, channel)
    return { status: 0xa702 }
  }
  const { port } = await startScp(t, {
    identifyCaller: everybody,
    services: [serviceOf(get, commandField.getRequest, handle)],
  })

  const query = {
    sopClassUid: get,
    identifier: [{ tag: 0x00080052, value: 'STUDY' }],
    sopClassUids: [],
    store: (await fileStore(await temporaryDir(t))).service,
  }
  await getScu(target(port), query, () => undefined).catch(() => undefined)

  assert.deepEqual(counts, { completed: 0, failed: instances.length })
})

const contexts = [
  { id: 1, abstractSyntax: find, transferSyntaxes: [explicitLittleEndian] },
  { id: 3, abstractSyntax: verification, transferSyntaxes: [explicitLittleEndian] },
]
const echo = pdu(0x04, [pdv(3, 3, commandSet({ 2: verification, 256: 0x30, 272: 99, 2048: 0x0101 }))])

/** A C-FIND request with a small identifier, with changes of its command set. */
function findRequest(messageId: number, changes: Readonly<Record<number, number | string>> = {}): Buffer {
  const command = commandSet({ 2: find, 256: 0x20, 272: messageId, 1792: 0, 2048: 0, ...changes })
  return Buffer.concat([pdu(0x04, [pdv(1, 3, command)]), pdu(0x04, [pdv(1, 2, Buffer.alloc(8))])])
}

test('a request that comes before its turn waits for it', async t => {
  const order: string[] = []
  const first = Promise.withResolvers<void>()
  const { port } = await startScp(t, {
    identifyCaller: everybody,
    services: [
      serviceOf(find, commandField.findRequest, async ({ command: { messageId } }) => {
        order.push(`begin ${messageId}`)
        if (messageId === 1) await first.promise
        order.push(`end ${messageId}`)
        return { status: 0 }
      }),
    ],
  })
  const peer = await associate(t, port, contexts)

  peer.write(Buffer.concat([findRequest(1), findRequest(2), echo, findRequest(3)]))
  await until('the first request is served', 30_000, () => order.length > 0)
  first.resolve()

  const answered: unknown[] = []
  for (let count = 0; count < 4; count += 1) answered.push(responseOf(await peer.read()).get(0x0120))
  assert.deepEqual(answered, [1, 2, 99, 3])
  assert.deepEqual(order, ['begin 1', 'end 1', 'begin 2', 'end 2', 'begin 3', 'end 3'])
})

test('a service may take longer than a peer may be silent, and the association goes on', async t => {
  const done = Promise.withResolvers<void>()
  const { port, scp } = await startScp(t, {
    identifyCaller: everybody,
    limits: { idleMs: 1_000 },
    services: [
      serviceOf(find, commandField.findRequest, async () => {
        await done.promise
        return { status: 0 }
      }),
    ],
  })
  const [slow, idle] = [await associate(t, port, contexts), await associate(t, port, contexts)]

  slow.write(findRequest(1))
  await idle.closed()
  await until('the idle association is gone', 30_000, () => scp.counters().associationsOpen === 1)
  done.resolve()

  assert.equal(responseOf(await slow.read()).get(0x0900), 0)
  slow.write(echo)
  assert.equal(responseOf(await slow.read()).get(0x0120), 99)
})

test('a class that is not that of the context is refused, and failures of DIMSE-N have a status of theirs', async t => {
  const errors = [
    new GatewayError('DATABASE_UNAVAILABLE', 'x'),
    new GatewayError('BAD_REQUEST', 'x'),
    new GatewayError('FORBIDDEN', 'x'),
  ]
  const fails: ServiceHandler = async () => {
    throw errors.shift()
  }
  const { port } = await startScp(t, {
    identifyCaller: everybody,
    services: [serviceOf(find, commandField.createRequest, fails)],
  })
  const peer = await associate(t, port, contexts)
  const statuses: unknown[] = []
  for (const changes of [{ 2: '1.2.3' }, {}, {}, {}]) {
    peer.write(findRequest(1, { 256: commandField.createRequest, ...changes }))
    statuses.push(responseOf(await peer.read()).get(0x0900))
  }

  assert.deepEqual(statuses, [0x0122, 0x0213, 0x0110, 0x0124])
})

/** A peer of a C-GET that took the SCP's part for the instances' class. */
async function getPeer(t: TestContext, handle: ServiceHandler): Promise<RawPeer> {
  const { port } = await startScp(t, {
    identifyCaller: everybody,
    services: [serviceOf(get, commandField.getRequest, handle)],
  })
  const peer = await connectRaw(t, port)
  const uid = Buffer.from(ctImageStorage)
  const role = item(0x54, [Buffer.from([0, uid.length]), uid, Buffer.from([0, 1])])
  const offers = [{ ...contexts[0], id: 1, abstractSyntax: get, transferSyntaxes: [explicitLittleEndian] }]
  const storage = { id: 5, abstractSyntax: ctImageStorage, transferSyntaxes: [explicitLittleEndian] }
  peer.write(associateRequest([...offers, ...contexts.slice(1), storage], { items: [item(0x50, [role])] }))
  assert.equal((await peer.read())?.type, 0x02)
  return peer
}

test('a sub-operation whose bytes cannot be read aborts the association, as half of it is out', async t => {
  let ended: unknown
  const peer = await getPeer(t, async (_request, channel) => {
    const instance = { sopClassUid: ctImageStorage, sopInstanceUid: '1.2.3', transferSyntaxUid: explicitLittleEndian }
    const source = { sizeBytes: 3_000_000, read: () => Promise.reject(new Error('disk')) }
    try {
      await channel.store(instance, { source, datasetOffset: 0 }, Buffer.alloc(1_000_000))
    } catch (error) {
      ended = error
      throw error
    }
    return { status: 0 }
  })

  peer.write(findRequest(1, { 2: get, 256: 0x10 }))
  await peer.closed()

  assert.match(String(ended), /disk/)
})

test('a peer that sends requests where it owes the response to a sub-operation is aborted', async t => {
  const peer = await getPeer(t, async (request, channel) => {
    const counts = await sendAll(request, channel)
    return { status: 0, counts }
  })

  peer.write(findRequest(1, { 2: get, 256: 0x10 }))
  await peer.read()
  peer.write(echo)

  await peer.closed()
})
