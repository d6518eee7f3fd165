import assert from 'node:assert/strict'
import { once } from 'node:events'
import { connect, createServer, type Socket } from 'node:net'
import { test } from 'node:test'
import { pooledSocket } from '../../gateway/dimse/pooled-socket.ts'
import { ReceiveBuffers } from '../../gateway/dimse/receive-buffers.ts'
import { until } from '../support/until.ts'

test('memory is read into again when nobody holds it, and not before', () => {
  const buffers = new ReceiveBuffers({ poison: true })
  const reads = buffers.open()
  reads.next().fill(1)
  const first = reads.filled(100_000)
  buffers.hold(first)
  reads.next()
  reads.filled(100)

  const second = reads.next()
  second.fill(2)

  assert.notEqual(second.buffer, first.buffer)
  assert.ok(first.every(byte => byte === 1))
  buffers.release(first)
  assert.ok(first.every(byte => byte === 0xdd))
  assert.equal(buffers.open().next().buffer, first.buffer)
})

test('a connection that holds nothing reads into the same place', () => {
  const reads = new ReceiveBuffers().open()
  const places = Array.from({ length: 10 }, () => {
    const place = reads.next()
    reads.filled(50_000)
    return place
  })

  assert.equal(new Set(places.map(place => `${place.byteOffset} ${place.length}`)).size, 1)
})

test('memory that is not ours is left alone', () => {
  const buffers = new ReceiveBuffers({ poison: true })
  const other = Buffer.alloc(10, 7)

  buffers.hold(other)
  buffers.release(other)
  buffers.release(other)

  assert.ok(other.every(byte => byte === 7))
})

test('an accepted socket is read into our memory, in order, and says when it ends', async t => {
  const buffers = new ReceiveBuffers()
  const parts: Buffer[] = []
  const memory = new Set<ArrayBufferLike>()
  const sockets: Socket[] = []
  const server = createServer({ pauseOnConnect: true }, accepted => {
    const socket = pooledSocket(accepted, buffers, bytes => {
      memory.add(bytes.buffer)
      parts.push(Buffer.from(bytes))
    })
    sockets.push(socket)
  })
  t.after(() => server.close())
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const address = server.address()
  assert.ok(typeof address === 'object' && address)
  const sent = Buffer.alloc(3_000_000)
  for (let index = 0; index < sent.length; index += 1) sent[index] = (index * 31) & 0xff
  const client = connect(address.port, '127.0.0.1')
  t.after(() => client.destroy())

  client.end(sent)

  await until('the socket is closed', 30_000, () => sockets[0]?.destroyed)
  assert.ok(Buffer.concat(parts).equals(sent))
  // Nothing was held, so one slab was enough: Node's own buffers would be a new one for each read.
  assert.equal(memory.size, 1)
})
