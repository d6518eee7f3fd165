import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { open, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { generateKey } from 'openpgp'
import { pack } from '../../endpoints/pack/pack.ts'
import type { PreparedObject } from '../../endpoints/package.ts'
import { hanse } from '../cli/terminal.ts'
import { temporaryDir } from '../support/blobs.ts'
import { deliver, newIdentity, noSignal, packJob } from '../support/packages.ts'

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

test('a large study is zipped, encrypted and opened with flat memory', async t => {
  const object = await largeObject(t)
  const { identity, recipient } = await newIdentity()
  const { publicKey, privateKey } = await generateKey({ userIDs: [{ name: 'TEST' }] })
  const dir = await temporaryDir(t)
  await writeFile(join(dir, 'age'), identity)
  await writeFile(join(dir, 'openpgp'), privateKey)
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
    const started = Date.now()
    const job = packJob({ unit: 'file', container: 'zip', encryption })
    const files = await pack([object], job, join(dir, 'work'), noSignal)
    const packedMs = Date.now() - started
    await deliver(files, join(dir, 'delivery'))
    await rm(join(dir, 'work'), { recursive: true })
    const opened = await hanse(['open', 'delivery', '--out', 'out', '--identity', encryption.kind], { cwd: dir })
    assert.equal(opened.code, 0, opened.out)
    await rm(join(dir, 'delivery'), { recursive: true })
    await rm(join(dir, 'out'), { recursive: true })
    t.diagnostic(
      `${encryption.kind}: ${packedMs} of ${Date.now() - started} ms, ${Math.round((highest - before) / 1e6)} MB more`,
    )
  }

  assert.ok(highest - before < mostGrowthBytes, `${highest - before} bytes more`)
})
