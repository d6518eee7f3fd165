import assert from 'node:assert/strict'
import { PassThrough, Readable } from 'node:stream'
import { test } from 'node:test'
import { gather } from '../../gateway/services/gather.ts'

test('groups hold all bytes in order, and what came meanwhile is one group', async () => {
  const source = new PassThrough({ highWaterMark: 1 << 20 })
  const groups = gather(source, 1 << 20)
  const first = groups.next()
  source.write('a')
  assert.equal(text((await first).value ?? []), 'a')
  source.write('b')
  source.write('c')
  source.end('d')
  let rest = ''
  for await (const group of groups) rest += text(group)
  assert.equal(rest, 'bcd')
})

test('no more is read than may wait', async () => {
  let read = 0
  const source = Readable.from(
    (function* () {
      for (; read < 1_000; read += 1) yield Buffer.alloc(1024)
    })(),
    { objectMode: false, highWaterMark: 1024 },
  )
  const groups = gather(source, 8 * 1024)
  await groups.next()
  await new Promise(resolve => setImmediate(resolve))
  await new Promise(resolve => setImmediate(resolve))
  assert.ok(read < 50, `${read} KiB were read`)
  await groups.return(undefined)
  assert.equal(source.destroyed, false)
})

test('a stream that breaks off is an error, also one that broke off before', async () => {
  const source = new PassThrough()
  const groups = gather(source, 1024)
  source.write('a')
  assert.equal(text((await groups.next()).value ?? []), 'a')
  source.destroy(new Error('cut'))
  await assert.rejects(groups.next(), /cut/)
  await assert.rejects(gather(source, 1024).next(), /cut/)
  const closed = new PassThrough().destroy()
  await assert.rejects(gather(closed, 1024).next(), /broke off/)
})

test('a stream that has ended is empty', async () => {
  const source = Readable.from([])
  for await (const _ of source) assert.fail()
  assert.deepEqual(await gather(source, 1024).next(), { done: true, value: undefined })
})

const text = (group: readonly Uint8Array[]): string => Buffer.concat(group).toString()
