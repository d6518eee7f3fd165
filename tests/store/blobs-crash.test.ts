import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { listBlobs, storeBytes, temporaryDir, testBlobs } from '../support/blobs.ts'

const script = fileURLToPath(new URL('../support/die-storing.ts', import.meta.url))

for (const step of ['write', 'sync', 'rename', 'sync-dir'] as const) {
  test(`a process killed before ${step} leaves no damaged blob, and its staging file is swept`, async t => {
    const dir = await temporaryDir(t)
    const child = spawn(process.execPath, [script, dir, step], { stdio: 'inherit' })
    const [, signal] = await once(child, 'exit')
    assert.equal(signal, 'SIGKILL')

    const blobs = await testBlobs(t, { dir })

    const found = (await listBlobs(blobs)).map(blob => blob.sizeBytes)
    assert.deepEqual(found, step === 'sync-dir' || step === 'sync' ? [1_000_000] : [])
    assert.deepEqual(await readdir(join(dir, 'staging')), [])
    const { removed } = await blobs.sweep(async () => new Set(), { graceMs: 0 })
    assert.equal(removed, found.length)
    assert.equal(await blobs.has(await storeBytes(blobs, Buffer.alloc(1_000_000, 7))), true)
  })
}

test('opening the store beside a running process keeps its receptions', async t => {
  const dir = await temporaryDir(t)
  const first = await testBlobs(t, { dir })
  const staged = await first.stage()
  await staged.append([Buffer.from('half')])

  await testBlobs(t, { dir })

  await first.commit(await staged.finish())
})
