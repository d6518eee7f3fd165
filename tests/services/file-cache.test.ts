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

test('a file is wanted when it is asked for again, and the oldest go when there are too many bytes', () => {
  const files = new FileCache()
  assert.equal(files.wants(digest('one')), false)
  assert.equal(files.wants(digest('one')), true)

  for (let i = 0; i < 200; i++) {
    files.add(digest(`file ${i}`), new Uint8Array(readAtOnceBytes))
    files.get(digest('file 0'))
  }

  assert.ok(files.get(digest('file 0')))
  assert.equal(files.get(digest('file 1')), undefined)
  assert.ok(files.get(digest('file 199')))
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
