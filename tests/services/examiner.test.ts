import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { test } from 'node:test'
import { createExaminer } from '../../gateway/services/examiner.ts'
import { buildInstance } from '../support/dicom-builder.ts'

const sha256 = (bytes: Uint8Array): Buffer => createHash('sha256').update(bytes).digest()

test('the thread says of shared memory what is said of other memory at once', async () => {
  const file = Buffer.from(buildInstance({ rows: 256, cols: 256, seed: 3 }).bytes)
  const damaged = Buffer.from(file).fill(0, 128, 400)
  const bytes = Buffer.concat([file, damaged, file.subarray(0, 1_000)])
  const shared = Buffer.from(new SharedArrayBuffer(bytes.length))
  bytes.copy(shared)
  const pieces = [
    { at: 0, length: file.length, signedSha256: sha256(file).toString('hex') },
    { at: file.length, length: file.length, signedSha256: sha256(damaged).toString('hex') },
    { at: 0, length: file.length, signedSha256: sha256(damaged).toString('hex') },
    { at: 2 * file.length, length: 1_000 },
  ]
  const examiner = createExaminer()
  await examiner.prepare()

  const [atOnce, inThread] = await Promise.all([examiner.examine(bytes, pieces), examiner.examine(shared, pieces)])

  const plain = (examined: typeof atOnce): unknown =>
    examined.map(({ sha256, known }) => ({
      sha256: Buffer.from(sha256).toString('hex'),
      ...(known && { header: known.header, dataset: Buffer.from(known.datasetSha256).toString('hex') }),
    }))
  assert.deepEqual(plain(inThread), plain(atOnce))
  assert.deepEqual(
    inThread.map(({ known }) => known !== undefined),
    [true, false, false, false],
  )
  const [whole] = inThread
  assert.deepEqual(
    Buffer.from(whole?.known?.datasetSha256 ?? []),
    sha256(file.subarray(whole?.known?.header.datasetOffset)),
  )
})
