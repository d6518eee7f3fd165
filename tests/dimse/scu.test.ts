import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { createServer, type Socket } from 'node:net'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { bufferSource } from '../../gateway/dicom/byte-source.ts'
import { storageSopClasses } from '../../gateway/dicom/uid.ts'
import { echoScu, type OutgoingInstance, type StoreResult, storeScu } from '../../gateway/dimse/scu.ts'
import { GatewayError, isGatewayError } from '../../gateway/errors.ts'
import { temporaryDir } from '../support/blobs.ts'
import { missing, startStorescp } from '../support/dcmtk.ts'
import { until } from '../support/until.ts'
import {
  ctImageStorage,
  datasetOffsetOf,
  explicitLittleEndian,
  fileStore,
  implicitLittleEndian,
  jpegBaseline,
  sampleFile,
  startScp,
} from './fixture.ts'

const skip = missing('storescp')

function target(port: number) {
  return { host: '127.0.0.1', port, callingAe: 'HANSE', calledAe: 'PEER', timeoutMs: 30_000 }
}

function sample(sopInstanceUid: string, rows = 64): OutgoingInstance & { dataset: Buffer } {
  const { bytes, datasetOffset } = sampleFile({ sopInstanceUid, rows })
  return {
    sopClassUid: ctImageStorage,
    sopInstanceUid,
    transferSyntaxUid: explicitLittleEndian,
    dataset: bytes.subarray(datasetOffset),
    open: () => ({ source: bufferSource(bytes), datasetOffset }),
  }
}

/** Sends and returns the results by SOP instance UID. */
async function send(port: number, instances: Iterable<OutgoingInstance>) {
  const results = new Map<string, StoreResult>()
  const summary = await storeScu(target(port), instances, (instance, result) => {
    results.set(instance.sopInstanceUid, result)
  })
  return { results, summary }
}

test('storescp gets the bytes that are stored, small and large, one association for all', { skip }, async t => {
  const directory = await temporaryDir(t)
  const { port } = await startStorescp(t, ['+B', '-od', directory])
  const instances = [sample('1.2.1', 2), sample('1.2.2', 512), sample('1.2.3', 1_500), sample('1.2.4', 64)]

  const { results, summary } = await send(port, instances)

  assert.deepEqual(summary, { responded: 4, notAccepted: 0, unreadable: 0, associations: 1 })
  for (const instance of instances) {
    assert.deepEqual(results.get(instance.sopInstanceUid), { kind: 'responded', status: 0 })
    const file = await readFile(join(directory, `CT.${instance.sopInstanceUid}`))
    assert.ok(file.subarray(datasetOffsetOf(file)).equals(instance.dataset))
  }
})

test('a peer that takes short PDUs only gets the same bytes', { skip }, async t => {
  const directory = await temporaryDir(t)
  const { port } = await startStorescp(t, ['+B', '--max-pdu', '4096', '-od', directory])
  const instance = sample('1.2.5', 300)

  await send(port, [instance])

  const file = await readFile(join(directory, 'CT.1.2.5'))
  assert.ok(file.subarray(datasetOffsetOf(file)).equals(instance.dataset))
})

test('our own SCP gets the same bytes through its file store', async t => {
  const { port, received } = await startScp(t)
  const instances = Array.from({ length: 300 }, (_, index) => sample(`1.2.${index + 1}`, 8 + (index % 40)))

  const { summary } = await send(port, instances)

  assert.deepEqual(summary, { responded: 300, notAccepted: 0, unreadable: 0, associations: 1 })
  for (const [index, { request, path }] of received.entries()) {
    assert.equal(request.sopInstanceUid, instances[index]?.sopInstanceUid)
    assert.deepEqual(await readFile(path), instances[index]?.dataset)
  }
})

test('more classes and syntaxes than an association holds are sent over several', async t => {
  const { port, received, scp } = await startScp(t)
  const classes = [...storageSopClasses.keys()].slice(0, 100)
  const instances = classes.flatMap((sopClassUid, index) =>
    [explicitLittleEndian, implicitLittleEndian, jpegBaseline].map((transferSyntaxUid, at) => ({
      ...sample(`1.2.${index}.${at}`, 2),
      sopClassUid,
      transferSyntaxUid,
    })),
  )

  const { summary } = await send(port, instances)

  assert.deepEqual(summary, { responded: 300, notAccepted: 0, unreadable: 0, associations: 3 })
  assert.equal(scp.counters().associationsAccepted, 3)
  assert.deepEqual(
    received.map(({ request }) => [request.sopClassUid, request.transferSyntaxUid]),
    instances.map(each => [each.sopClassUid, each.transferSyntaxUid]),
  )
})

test('what the peer does not take is told apart from what it refuses and from what cannot be read', async t => {
  const { service } = await fileStore(await temporaryDir(t))
  const { port } = await startScp(t, {
    store: {
      begin: request =>
        request.sopInstanceUid === '1.2.2'
          ? Promise.reject(new GatewayError('STORAGE_FULL', 'full'))
          : service.begin(request),
    },
  })
  const unreadable = new Error('no such file')
  const instances = [
    { ...sample('1.2.1'), transferSyntaxUid: '1.2.3.4' },
    sample('1.2.2'),
    { ...sample('1.2.3'), open: () => Promise.reject(unreadable) },
    sample('1.2.4'),
  ]

  const { results } = await send(port, instances)

  assert.deepEqual(results.get('1.2.1'), { kind: 'not-accepted' })
  assert.deepEqual(results.get('1.2.2'), {
    kind: 'responded',
    status: 0xa700,
    comment: 'out of storage space, send again later',
  })
  assert.deepEqual(results.get('1.2.3'), { kind: 'unreadable', error: unreadable })
  assert.deepEqual(results.get('1.2.4'), { kind: 'responded', status: 0 })
})

test('every data set that is opened is closed, also where the peer goes away', async t => {
  const opened = new Set<string>()
  const { port, scp } = await startScp(t)
  const instances = Array.from({ length: 10 }, (_, index): OutgoingInstance => {
    const instance = sample(`1.2.${index}`)
    return {
      ...instance,
      async open() {
        opened.add(instance.sopInstanceUid)
        return {
          ...(await instance.open()),
          close: async () => {
            opened.delete(instance.sopInstanceUid)
          },
        }
      },
    }
  })
  let count = 0

  await assert.rejects(
    storeScu(target(port), instances, async () => {
      count += 1
      if (count === 5) await scp.close({ graceMs: 0 })
    }),
    error => isGatewayError(error, 'PEER_UNREACHABLE'),
  )

  assert.equal(count, 5)
  assert.deepEqual([...opened], [])
})

test('a data set that ends early aborts the association, and nothing of it stays', async t => {
  const { port, files, scp } = await startScp(t)
  const { open, ...rest } = sample('1.2.3', 1_000)
  const instance: OutgoingInstance = {
    ...rest,
    open: async () => {
      const { source, datasetOffset } = await open()
      return { source: { ...source, sizeBytes: source.sizeBytes + 10 }, datasetOffset }
    },
  }

  await assert.rejects(send(port, [instance]), error => isGatewayError(error, 'STORAGE_IO'))

  await until('the association to be gone', 30_000, () => scp.counters().connectionsOpen === 0)
  assert.deepEqual(await files(), [])
})

test('a refused association, a closed port and a peer that says nothing have errors of their own', async t => {
  const { port } = await startScp(t, { unknownCallers: 'refuse' })
  const silent = await listen(t, () => undefined)
  const rude = await listen(t, socket => socket.end('HTTP/1.1 400 Bad Request\r\n\r\n'))
  const closing = await listen(t, socket => socket.destroy())

  await assert.rejects(echoScu(target(port)), error => {
    assert.ok(isGatewayError(error, 'ASSOCIATION_REFUSED'))
    assert.match(error.message, /calling AE title not recognized/)
    return true
  })
  await assert.rejects(echoScu({ ...target(silent), timeoutMs: 200 }), /no answer within 200 ms/)
  await assert.rejects(echoScu(target(rude)), error => isGatewayError(error, 'PEER_PROTOCOL'))
  await assert.rejects(echoScu(target(closing)), error => isGatewayError(error, 'PEER_UNREACHABLE'))
  await assert.rejects(echoScu(target(1)), error => isGatewayError(error, 'PEER_UNREACHABLE'))
})

test('the signal ends a send at once', async t => {
  const { port, files, scp } = await startScp(t)
  const controller = new AbortController()
  const { open, ...rest } = sample('1.2.3', 3_000)
  const instance: OutgoingInstance = {
    ...rest,
    async open() {
      const { source, datasetOffset } = await open()
      return {
        datasetOffset,
        source: {
          sizeBytes: source.sizeBytes,
          read: async (offset, length) => {
            if (offset > datasetOffset) controller.abort(new Error('enough'))
            return await source.read(offset, length)
          },
        },
      }
    },
  }

  await assert.rejects(
    storeScu({ ...target(port), signal: controller.signal }, [instance], () => undefined),
    /enough/,
  )

  await until('the association to be gone', 30_000, () => scp.counters().connectionsOpen === 0)
  assert.deepEqual(await files(), [])
})

test('a node that answers is verified', { skip }, async t => {
  const { port } = await startStorescp(t, ['-od', await temporaryDir(t)])

  assert.deepEqual(await echoScu(target(port)), { status: 0 })
})

/** A server that does something with each connection; gone when the test ends. */
async function listen(t: TestContext, onSocket: (socket: Socket) => void): Promise<number> {
  const sockets = new Set<Socket>()
  const server = createServer(socket => {
    sockets.add(socket)
    socket.on('error', () => undefined)
    onSocket(socket)
  })
  t.after(() => {
    for (const socket of sockets) socket.destroy()
    server.close()
  })
  const { promise, resolve } = Promise.withResolvers<void>()
  server.listen(0, '127.0.0.1', resolve)
  await promise
  const address = server.address()
  return typeof address === 'object' && address ? address.port : 0
}
