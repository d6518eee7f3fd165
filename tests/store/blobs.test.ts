import assert from 'node:assert/strict'
import { createHash, randomBytes } from 'node:crypto'
import { readdir, readFile, utimes, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import fc from 'fast-check'
import { isGatewayError } from '../../gateway/errors.ts'
import { listBlobs, storeBytes, temporaryDir, testBlobs } from '../support/blobs.ts'
import { onEnd } from '../support/cleanup.ts'

const sha256 = (bytes: Uint8Array): Buffer => createHash('sha256').update(bytes).digest()

test('a committed blob has the bytes it was given and lies under its digest', async t => {
  const dir = await temporaryDir(t)
  const blobs = await testBlobs(t, { dir })
  const meta = randomBytes(300)
  const dataset = randomBytes(500_000)

  const staged = await blobs.stage({ expectedBytes: 500_300 })
  await staged.append([meta])
  staged.markDataset()
  await staged.append([dataset.subarray(0, 70_000), dataset.subarray(70_000)])
  const file = await staged.finish()
  await blobs.commit(file)

  const whole = Buffer.concat([meta, dataset])
  assert.deepEqual(file.fileSha256, sha256(whole))
  assert.deepEqual(file.datasetSha256, sha256(dataset))
  assert.equal(file.datasetOffset, 300)
  assert.equal(file.sizeBytes, 500_300)
  const hex = file.fileSha256.toString('hex')
  assert.deepEqual(await readFile(join(dir, 'blobs', hex.slice(0, 2), hex)), whole)
  assert.equal(await blobs.has(file.fileSha256), true)
})

test('the digests do not depend on how the bytes were cut into chunks', async t => {
  const blobs = await testBlobs(t)
  const bytes = randomBytes(4_000)

  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.integer({ min: 0, max: bytes.length }), { maxLength: 8 }),
      fc.integer({ min: 0, max: bytes.length - 1 }),
      async (cuts, datasetOffset) => {
        const edges = [0, ...cuts.sort((a, b) => a - b), bytes.length]
        const file = await blobs.stageFrom(
          (async function* () {
            for (const [index, edge] of edges.entries()) yield bytes.subarray(edge, edges[index + 1] ?? edge)
          })(),
          { datasetOffset },
        )

        assert.deepEqual(file.fileSha256, sha256(bytes))
        assert.deepEqual(file.datasetSha256, sha256(bytes.subarray(datasetOffset)))
        assert.equal(file.datasetOffset, datasetOffset)
        await file.discard()
      },
    ),
    { numRuns: 40 },
  )
})

test('a staged file is read in any range, from memory and from disk', async t => {
  const blobs = await testBlobs(t)
  const bytes = randomBytes(1_000_000)
  const staged = await blobs.stage()
  for (let at = 0; at < bytes.length; at += 60_000) await staged.append([bytes.subarray(at, at + 60_000)])

  const file = await staged.finish()

  for (const [offset, length] of [
    [0, 132],
    [59_990, 20],
    [0, 200_000],
    [250_000, 100_000],
    [999_990, 100],
    [1_000_000, 10],
  ] as const) {
    assert.deepEqual(Buffer.from(await file.read(offset, length)), bytes.subarray(offset, offset + length))
  }
})

test('a blob is read in any range, into memory of the reader', async t => {
  const blobs = await testBlobs(t)
  const bytes = randomBytes(700_000)
  const blob = await blobs.open(await storeBytes(blobs, bytes))
  onEnd(t, () => blob.close())

  assert.equal(blob.sizeBytes, 700_000)
  assert.deepEqual(Buffer.from(await blob.read(699_990, 100)), bytes.subarray(699_990))
  const memory = Buffer.alloc(1000)
  const read = await blob.read(300_000, 7, memory)
  assert.deepEqual(Buffer.from(read), bytes.subarray(300_000, 300_007))
  assert.equal(read.buffer, memory.buffer)
  assert.equal((await blob.read(700_000, 1)).length, 0)
})

test('the same bytes committed by several at once are one blob', async t => {
  const blobs = await testBlobs(t)
  const bytes = randomBytes(10_000)

  const digests = await Promise.all(Array.from({ length: 8 }, () => storeBytes(blobs, bytes)))

  assert.equal(new Set(digests.map(digest => digest.toString('hex'))).size, 1)
  assert.equal((await listBlobs(blobs)).length, 1)
})

test('an empty reception is a blob of no bytes', async t => {
  const blobs = await testBlobs(t)
  const file = await (await blobs.stage()).finish()
  await blobs.commit(file)

  const blob = await blobs.open(file.fileSha256)
  onEnd(t, () => blob.close())
  assert.equal(blob.sizeBytes, 0)
  assert.equal((await blob.read(0, 10)).length, 0)
})

test('a blob that a row names and the disk lacks is corruption, not absence', async t => {
  const blobs = await testBlobs(t)
  await assert.rejects(blobs.open(sha256(Buffer.from('never stored'))), error =>
    isGatewayError(error, 'STORAGE_CORRUPT'),
  )
})

test('storing a damaged blob again heals it', async t => {
  const blobs = await testBlobs(t)
  const bytes = randomBytes(1_000)
  const digest = await storeBytes(blobs, bytes)
  await writeFile(blobs.path(digest), 'damaged')

  await storeBytes(blobs, bytes)

  assert.deepEqual(await readFile(blobs.path(digest)), bytes)
})

test('a discarded reception leaves nothing', async t => {
  const dir = await temporaryDir(t)
  const blobs = await testBlobs(t, { dir })
  const staged = await blobs.stage()
  await staged.append([randomBytes(100)])
  await staged.discard()
  const finished = await blobs.stage()
  await finished.append([randomBytes(100)])
  await (await finished.finish()).discard()

  assert.deepEqual(await filesUnder(join(dir, 'staging')), [])
})

test('a file made elsewhere on the volume is taken over and moved', async t => {
  const dir = await temporaryDir(t)
  const blobs = await testBlobs(t, { dir })
  const bytes = randomBytes(600_000)
  await writeFile(join(dir, 'assembled'), bytes)

  const file = await blobs.stageFile(join(dir, 'assembled'), { datasetOffset: 400 })
  await blobs.commit(file)

  assert.deepEqual(file.fileSha256, sha256(bytes))
  assert.deepEqual(file.datasetSha256, sha256(bytes.subarray(400)))
  assert.deepEqual(await readFile(blobs.path(file.fileSha256)), bytes)
  assert.equal((await readdir(dir)).includes('assembled'), false)
})

test('a sweep removes old orphans and keeps young, referenced and protected blobs', async t => {
  const blobs = await testBlobs(t)
  const [orphan, referenced, held] = [
    await storeBytes(blobs, Buffer.from('orphan')),
    await storeBytes(blobs, Buffer.from('referenced')),
    await storeBytes(blobs, Buffer.from('protected')),
  ]
  assert.equal(await blobs.protect(held), true)
  const isReferenced = async (): Promise<Set<string>> => new Set([referenced.toString('hex')])

  const young = await blobs.sweep(isReferenced)
  const old = await blobs.sweep(isReferenced, { graceMs: 0 })

  assert.deepEqual(young, { seen: 3, removed: 0, removedBytes: 0 })
  assert.deepEqual(old, { seen: 3, removed: 1, removedBytes: 6 })
  assert.equal(await blobs.has(orphan), false)
  blobs.release(held)
  assert.equal((await blobs.sweep(isReferenced, { graceMs: 0 })).removed, 1)
})

test('an old modification time does not age a blob that was committed just now', async t => {
  const dir = await temporaryDir(t)
  const blobs = await testBlobs(t, { dir })
  const path = join(dir, 'received-last-week')
  await writeFile(path, 'bytes')
  await utimes(path, new Date('2020-01-01'), new Date('2020-01-01'))
  const file = await blobs.stageFile(path)
  await blobs.commit(file)
  blobs.release(file.fileSha256)

  const { removed } = await blobs.sweep(async () => new Set())

  assert.equal(removed, 0)
})

test('a blob committed and released while the sweeper asks the database survives', async t => {
  const blobs = await testBlobs(t)
  const bytes = Buffer.from('an orphan that is just being received again')
  const digest = await storeBytes(blobs, bytes)

  const { removed } = await blobs.sweep(
    async () => {
      await storeBytes(blobs, bytes)
      return new Set() // what the database said before the row was committed
    },
    { graceMs: 0 },
  )

  assert.equal(removed, 0)
  assert.equal(await blobs.has(digest), true)
})

test('protecting a blob that is not there says so', async t => {
  const blobs = await testBlobs(t)
  assert.equal(await blobs.protect(sha256(Buffer.from('absent'))), false)
})

async function filesUnder(dir: string): Promise<string[]> {
  const entries = await readdir(dir, { recursive: true, withFileTypes: true })
  return entries.filter(entry => entry.isFile()).map(entry => entry.name)
}

test('a file that is adopted becomes a blob and keeps its own name', async t => {
  const dir = await temporaryDir(t)
  const blobs = await testBlobs(t, { dir })
  const bytes = randomBytes(5_000)
  const path = join(dir, 'own')
  await writeFile(path, bytes)

  await blobs.adopt(path, sha256(bytes))

  assert.deepEqual(await readFile(blobs.path(sha256(bytes))), bytes)
  assert.deepEqual(await readFile(path), bytes)
  assert.deepEqual(await blobs.sweep(async () => new Set(), { graceMs: 0 }).then(({ removed }) => removed), 0)
  blobs.release(sha256(bytes))
  assert.deepEqual(await blobs.sweep(async () => new Set(), { graceMs: 0 }).then(({ removed }) => removed), 1)
})

test('a damaged blob is healed when its bytes are adopted, also for the second time', async t => {
  const dir = await temporaryDir(t)
  const blobs = await testBlobs(t, { dir })
  const bytes = randomBytes(5_000)
  const path = join(dir, 'own')
  await writeFile(path, bytes)
  await writeFile(blobs.path(sha256(bytes)), randomBytes(5_000))

  await blobs.adopt(path, sha256(bytes))
  await blobs.adopt(path, sha256(bytes))

  assert.deepEqual(await readFile(blobs.path(sha256(bytes))), bytes)
})
