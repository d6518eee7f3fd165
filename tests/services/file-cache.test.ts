import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { test } from 'node:test'
import { isGatewayError } from '../../gateway/errors.ts'
import { FileCache, readAtOnceBytes } from '../../gateway/services/file-cache.ts'
import { openRemoval } from '../../gateway/services/removal.ts'
import { openRetrieve } from '../../gateway/services/retrieve.ts'
import { storeApp } from '../http/store-app.ts'
import { buildInstance } from '../support/dicom-builder.ts'
import { caller } from '../support/principals.ts'

const digest = (text: string): Buffer => createHash('sha256').update(text).digest()

test('a file is wanted when it is asked for again', () => {
  const files = new FileCache()
  assert.equal(files.wants(digest('one'), 1), false)
  assert.equal(files.wants(digest('one'), 1), true)
})

test('files that are in use stay when there are too many bytes, and go for others when they are not', () => {
  let now = 0
  const files = new FileCache(() => now)
  const isKept = (name: string): boolean => files.get(digest(name)) !== undefined
  const add = (from: number, to: number): void => {
    for (let i = from; i < to; i++) files.add(digest(`file ${i}`), new Uint8Array(readAtOnceBytes))
  }
  add(0, 200)
  assert.ok(isKept('file 0'))
  assert.ok(!isKept('file 199'))
  files.wants(digest('file 199'), readAtOnceBytes)
  assert.equal(files.wants(digest('file 199'), readAtOnceBytes), false)

  now = 60_000
  assert.ok(isKept('file 0'))
  files.wants(digest('file 199'), readAtOnceBytes)
  assert.equal(files.wants(digest('file 199'), readAtOnceBytes), true)
  add(199, 400)
  assert.ok(isKept('file 0'))
  assert.ok(!isKept('file 1'))
  assert.ok(isKept('file 199'))
  assert.ok(!isKept('file 399'))
})

test('a file that was read many times is the same each time, and gone when its instance is', async t => {
  const { db, blobs, upload } = await storeApp(t)
  const built = buildInstance({ seed: 1 })
  const id = String((await upload(built.bytes)).body['ID'])
  const retrieve = openRetrieve({ db, blobs })
  const read = async (): Promise<Buffer> => {
    const { blob } = await retrieve.openInstance(caller('reader'), id)
    const bytes = Buffer.from(await blob.read(0, blob.sizeBytes))
    await blob.close()
    return bytes
  }
  for (let i = 0; i < 5; i++) assert.deepEqual(await read(), Buffer.from(built.bytes))
  const all = await Promise.all(Array.from({ length: 20 }, read))
  for (const bytes of all) assert.deepEqual(bytes, Buffer.from(built.bytes))

  await openRemoval({ db }).remove(caller('owner'), 'instance', id)

  await assert.rejects(read(), error => isGatewayError(error, 'NOT_FOUND'))
})
