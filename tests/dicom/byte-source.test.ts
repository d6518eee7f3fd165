import assert from 'node:assert/strict'
import { mkdtemp, open, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { bufferSource, fileSource } from '../../gateway/dicom/byte-source.ts'
import { isGatewayError } from '../../gateway/errors.ts'

test('a source gives fewer bytes only at its end', async t => {
  const folder = await mkdtemp(join(tmpdir(), 'hanse-source-'))
  t.after(() => rm(folder, { recursive: true }))
  const bytes = Buffer.from('0123456789')
  await writeFile(join(folder, 'file'), bytes)
  const file = await open(join(folder, 'file'))
  t.after(() => file.close())

  for (const source of [bufferSource(bytes), fileSource(file, bytes.length)]) {
    assert.equal(Buffer.from(await source.read(2, 3)).toString(), '234')
    assert.equal(Buffer.from(await source.read(8, 5)).toString(), '89')
    assert.equal((await source.read(20, 5)).length, 0)
  }
})

test('a file that cannot be read is a storage error', async t => {
  const folder = await mkdtemp(join(tmpdir(), 'hanse-source-'))
  t.after(() => rm(folder, { recursive: true }))
  await writeFile(join(folder, 'file'), 'bytes')
  const file = await open(join(folder, 'file'))
  await file.close()

  await assert.rejects(fileSource(file, 5).read(0, 5), error => isGatewayError(error, 'STORAGE_IO'))
})
