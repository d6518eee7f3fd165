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
import { temporaryDir } from '../support/blobs.ts'
import { missing, run } from '../support/dcmtk.ts'
import { buildInstance } from '../support/dicom-builder.ts'
import { until } from '../support/until.ts'
import { explicitLittleEndian, fileStore, implicitLittleEndian, registered, startScp } from './fixture.ts'

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
