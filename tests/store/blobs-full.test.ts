import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { isGatewayError } from '../../gateway/errors.ts'
import type { StorageStep } from '../../gateway/store/blobs.ts'
import { storeBytes, temporaryDir, testBlobs } from '../support/blobs.ts'

const run = promisify(execFile)

test('below the watermark receptions are refused until clearly more is free', async t => {
  let freeBytes = 1_000
  const blobs = await testBlobs(t, {
    freeSpace: { lowWatermarkBytes: 500, resumeBytes: 700, measure: async () => ({ freeBytes, totalBytes: 10_000 }) },
  })
  const settle = async (free: number): Promise<void> => {
    freeBytes = free
    const deadline = Date.now() + 5_000
    while ((await blobs.freeSpace()).freeBytes !== free && Date.now() < deadline) await new Promise(setImmediate)
  }

  await blobs.assertRoom(400)
  await assert.rejects(blobs.assertRoom(501), full)
  await blobs.assertRoom(400) // one that was too large does not refuse the others
  await settle(499)
  await assert.rejects(blobs.stage(), full)
  await settle(600)
  await assert.rejects(blobs.stage(), full)
  assert.equal((await blobs.freeSpace()).refusing, true)
  await settle(700)
  await (await blobs.stage()).discard()
  assert.equal((await blobs.freeSpace()).refusing, false)
})

test('receptions on their way count against the free space', async t => {
  const blobs = await testBlobs(t, {
    freeSpace: { lowWatermarkBytes: 100, measure: async () => ({ freeBytes: 1_000, totalBytes: 10_000 }) },
  })

  const first = await blobs.stage({ expectedBytes: 600 })
  await assert.rejects(blobs.stage({ expectedBytes: 400 }), full)
  await first.discard()
  const second = await blobs.stage({ expectedBytes: 400 })

  assert.equal((await blobs.freeSpace()).freeBytes, 600)
  await second.append([Buffer.alloc(400)])
  assert.equal((await blobs.freeSpace()).freeBytes <= 1_000, true)
  await second.discard()
})

test('the fullest of the watched volumes decides', async t => {
  const blobs = await testBlobs(t, {
    freeSpace: {
      lowWatermarkBytes: 100,
      alsoWatch: ['/the/database'],
      measure: async dir => ({ freeBytes: dir === '/the/database' ? 50 : 5_000, totalBytes: 10_000 }),
    },
  })
  await assert.rejects(blobs.stage(), full)
})

const failing: [StorageStep, string, 'STORAGE_FULL' | 'STORAGE_IO'][] = [
  ['create', 'ENOSPC', 'STORAGE_FULL'],
  ['write', 'ENOSPC', 'STORAGE_FULL'],
  ['write', 'EDQUOT', 'STORAGE_FULL'],
  ['write', 'EIO', 'STORAGE_IO'],
  ['sync', 'ENOSPC', 'STORAGE_FULL'],
  ['sync', 'EIO', 'STORAGE_IO'],
  ['rename', 'ENOSPC', 'STORAGE_FULL'],
  ['sync-dir', 'EIO', 'STORAGE_IO'],
]
for (const [step, errno, code] of failing) {
  test(`${errno} at ${step} is ${code}, leaves no staging file, and the next reception succeeds`, async t => {
    const dir = await temporaryDir(t)
    let failures = 1
    const blobs = await testBlobs(t, {
      dir,
      before: at => {
        if (at === step && failures-- > 0) throw Object.assign(new Error(errno), { code: errno })
      },
    })

    await assert.rejects(storeBytes(blobs, Buffer.from('first')), error => isGatewayError(error, code))

    const left = await readdir(join(dir, 'staging'), { recursive: true, withFileTypes: true })
    assert.deepEqual(
      left.filter(entry => entry.isFile()),
      [],
    )
    assert.equal(await blobs.has(await storeBytes(blobs, Buffer.from('first'))), true)
    assert.equal((await blobs.freeSpace()).refusing, false)
  })
}

test('a real full disk refuses, damages nothing, and recovers when space is freed', async t => {
  const dir = await temporaryDir(t)
  const script = fileURLToPath(new URL('../support/full-disk.ts', import.meta.url))
  const root = process.getuid?.() === 0
  // a mount namespace of its own: the small volume goes away with the process, whatever happens
  const namespace = root ? ['--mount'] : ['--user', '--map-root-user', '--mount']
  try {
    await run('unshare', [...namespace, 'mount', '-t', 'tmpfs', 'tmpfs', dir])
  } catch {
    t.skip('needs mount namespaces (unshare), which this machine does not give')
    return
  }

  const command = `mount -t tmpfs -o size=12m tmpfs "$1" && exec "$2" "$3" "$1"`
  const { stdout } = await run('unshare', [...namespace, 'sh', '-c', command, 'sh', dir, process.execPath, script])

  assert.deepEqual(JSON.parse(stdout), {
    first: 'STORAGE_FULL',
    stagingFiles: 0,
    intact: true,
    afterFreeing: 'stored',
  })
})

function full(error: unknown): boolean {
  return isGatewayError(error, 'STORAGE_FULL')
}
