import assert from 'node:assert/strict'
import { link, mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import fc from 'fast-check'
import { isGatewayError } from '../../gateway/errors.ts'
import { openInboundStaging } from '../../gateway/services/inbound-staging.ts'
import { createRangeGuard } from '../../gateway/services/range-guard.ts'
import { Bitmap } from '../../peers/bitmap.ts'
import { leafBytes, mapLeaves } from '../../peers/leaves.ts'

const id = 'ab'.repeat(32)

async function staging(t: TestContext) {
  const dir = await mkdtemp(join(tmpdir(), 'hanse-staging-'))
  t.after(() => rm(dir, { recursive: true, force: true }))
  const made = await openInboundStaging(dir)
  await made.create(id)
  return { made, dir }
}

test('ranges in any order, repeated or overlapping, give the bytes of every object', async t => {
  const { made } = await staging(t)
  const sizes = [300_000, leafBytes, 5, 2 * leafBytes + 77, 900_000]
  const map = mapLeaves(sizes)
  const line = Buffer.from(
    Uint8Array.from({ length: map.totalBytes }, (_, index) => (index * 31 + (index >> 12)) & 255),
  )
  await fc.assert(
    fc.asyncProperty(
      fc.shuffledSubarray([...Array(map.leafCount).keys()], { minLength: map.leafCount }),
      async order => {
        await made.remove(id)
        await made.create(id)
        const received = new Bitmap(map.leafCount)
        for (const leaf of order) {
          const run = { from: leaf, to: Math.min(leaf + 1, map.leafCount - 1) }
          const bytes = line.subarray(run.from * leafBytes, run.from * leafBytes + map.runBytes(run))
          await made.write(id, { map, run, bytes, received })
          received.add(run)
        }
        let start = 0
        for (const [ordinal, size] of sizes.entries()) {
          assert.ok((await readFile(made.path(id, ordinal))).equals(line.subarray(start, start + size)))
          start += size
        }
      },
    ),
    { numRuns: 5 },
  )
})

test('other bytes for a leaf that is durable are a conflict, also in a range that is otherwise new', async t => {
  const { made } = await staging(t)
  const map = mapLeaves([3 * leafBytes])
  const bytes = Buffer.alloc(2 * leafBytes, 1)
  const received = new Bitmap(3)
  await made.write(id, { map, run: { from: 0, to: 0 }, bytes: bytes.subarray(0, leafBytes), received })
  received.add({ from: 0, to: 0 })
  const other = Buffer.from(bytes)
  other[17] = 2

  await assert.rejects(made.write(id, { map, run: { from: 0, to: 1 }, bytes: other, received }), error =>
    isGatewayError(error, 'CHUNK_CONFLICT'),
  )
  await made.write(id, { map, run: { from: 0, to: 1 }, bytes, received })
  assert.equal((await readFile(made.path(id, 0)))[17], 1)
})

test('bytes that are received again never change a blob that shares the file', async t => {
  const { made, dir } = await staging(t)
  const map = mapLeaves([1000, 1000])
  const run = { from: 0, to: 0 }
  const received = new Bitmap(1)
  await made.write(id, { map, run, bytes: Buffer.alloc(2000, 1), received })
  await link(made.path(id, 0), join(dir, 'blob'))

  await made.unshare(id, [0, 1])
  await made.write(id, { map, run, bytes: Buffer.alloc(2000, 2), received })

  assert.ok((await readFile(join(dir, 'blob'))).equals(Buffer.alloc(1000, 1)))
  assert.ok((await readFile(made.path(id, 0))).equals(Buffer.alloc(1000, 2)))
})

test('ranges that overlap are written one after the other, others side by side', async () => {
  const guard = createRangeGuard()
  const log: string[] = []
  const gate = Promise.withResolvers<void>()
  const work = (name: string, wait: Promise<void>) => async () => {
    log.push(`${name} begins`)
    await wait
    log.push(`${name} ends`)
  }

  const first = guard.hold('t', { from: 0, to: 3 }, work('first', gate.promise))
  const overlapping = guard.hold('t', { from: 3, to: 4 }, work('overlapping', Promise.resolve()))
  await guard.hold('t', { from: 5, to: 6 }, work('apart', Promise.resolve()))
  await guard.hold('other', { from: 0, to: 3 }, work('other', Promise.resolve()))
  const idle = guard.idle('t').then(() => log.push('idle'))
  gate.resolve()
  await Promise.all([first, overlapping, idle])

  assert.deepEqual(log, [
    'first begins',
    'apart begins',
    'apart ends',
    'other begins',
    'other ends',
    'first ends',
    'overlapping begins',
    'overlapping ends',
    'idle',
  ])
})
