/** Blob stores in temporary directories. */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { openLog } from '../../gateway/log.ts'
import { type BeforeStep, type Blobs, openBlobs, type StoredBlob } from '../../gateway/store/blobs.ts'
import type { FreeSpaceOptions } from '../../gateway/store/free-space.ts'
import { onEnd } from './cleanup.ts'

/** A temporary directory, removed after the test. */
export async function temporaryDir(t: TestContext): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'hanse-test-'))
  onEnd(t, () => rm(dir, { recursive: true, force: true }))
  return dir
}

/** A blob store in `dir`, or in a temporary directory of its own. */
export async function testBlobs(
  t: TestContext,
  options: { dir?: string; freeSpace?: FreeSpaceOptions; before?: BeforeStep } = {},
): Promise<Blobs> {
  const { dir, ...rest } = options
  return await openBlobs({ dir: dir ?? (await temporaryDir(t)), log: openLog({ level: 'silent' }), ...rest })
}

/** Stores bytes as one blob and gives its digest back; released, so that a sweep may take it. */
export async function storeBytes(blobs: Blobs, bytes: Uint8Array): Promise<Buffer> {
  const staged = await blobs.stage()
  await staged.append([bytes])
  const file = await staged.finish()
  await blobs.commit(file)
  blobs.release(file.fileSha256)
  return file.fileSha256
}

/** Every blob of the store. */
export async function listBlobs(blobs: Blobs): Promise<StoredBlob[]> {
  const found: StoredBlob[] = []
  for await (const blob of blobs.list()) found.push(blob)
  return found
}
