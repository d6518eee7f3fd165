import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { open, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { generateX25519Identity, identityToRecipient } from 'age-encryption'
import { generateKey } from 'openpgp'
import { pack } from '../../endpoints/pack/pack.ts'
import type { PreparedObject } from '../../endpoints/package.ts'
import { temporaryDir } from '../support/blobs.ts'
import { noSignal, packJob } from '../support/packages.ts'

const sizeBytes = process.env['HANSE_SOAK'] ? 2_147_483_648 : 314_572_800
const mostGrowthBytes = 200_000_000

/** An object of much size, of which only size and digest matter here. */
async function largeObject(t: TestContext): Promise<PreparedObject> {
  const path = join(await temporaryDir(t), 'large')
  const file = await open(path, 'w')
  const hash = createHash('sha256')
  const block = Buffer.from(Array.from({ length: 1_048_576 }, (_, i) => (i * 2_654_435_761) >>> 24))
  for (let at = 0; at < sizeBytes; at += block.length) {
    block.writeUInt32LE(at / block.length, 0)
    hash.update(block)
    await file.write(block)
  }
  await file.close()
  return {
    ...{ studyInstanceUid: '1.2.1', seriesInstanceUid: '1.2.2', sopInstanceUid: '1.2.3', modality: 'CT' },
    sopClassUid: '1.2.840.10008.5.1.4.1.1.2',
    transferSyntaxUid: '1.2.840.10008.1.2.1',
    ...{ path, size: sizeBytes, sha256: hash.digest('hex') },
  }
}

test('a large study is zipped and encrypted with flat memory', async t => {
  const object = await largeObject(t)
  const recipient = await identityToRecipient(await generateX25519Identity())
  const { publicKey } = await generateKey({ userIDs: [{ name: 'TEST' }] })
  const before = process.memoryUsage().rss
  let highest = before
  const sampling = setInterval(() => {
    highest = Math.max(highest, process.memoryUsage().rss)
  }, 20)
  t.after(() => clearInterval(sampling))

  for (const encryption of [
    { kind: 'age', recipients: [recipient] },
    { kind: 'openpgp', keys: [publicKey] },
  ]) {
    const work = join(await temporaryDir(t), 'work')
    const started = Date.now()
    const [file] = await pack([object], packJob({ unit: 'file', container: 'zip', encryption }), work, noSignal)
    assert.ok(file !== undefined && file.size > sizeBytes)
    await rm(work, { recursive: true })
    t.diagnostic(`${encryption.kind}: ${Date.now() - started} ms, ${Math.round((highest - before) / 1e6)} MB more`)
  }

  assert.ok(highest - before < mostGrowthBytes, `${highest - before} bytes more`)
})
