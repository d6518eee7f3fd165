/** Objects that are larger than what a gateway may use of memory, all the way to the peer. */
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { test } from 'node:test'
import { temporaryDir } from '../support/blobs.ts'
import { missing, run } from '../support/dcmtk.ts'
import type { ProcessGateway } from '../support/process-gateway.ts'
import { assertSound, digestsAt, listInstances, startHospitals, untilReceipted } from './hospitals.ts'
import { type LargeObject, writeLargeObject } from './large-object.ts'
import { inMiB, memoryOf } from './process-memory.ts'

const skip = missing('storescu')

/** 512 KiB each: 300 MB, or 2 GiB, whose length does not fit a signed number of 32 bits. */
const frames = process.env['HANSE_SOAK'] ? 4096 : 600
const allowedBytes = 350 * 1024 ** 2
const deadlineMs = process.env['HANSE_SOAK'] ? 1_200_000 : 300_000

test('large objects come by C-STORE and POST and go to the peer in bounded memory', { skip }, async t => {
  const dir = await temporaryDir(t)
  const { a, b } = await startHospitals(t)
  const stored = await writeLargeObject(join(dir, 'stored'), frames, 1)
  const uploaded = await writeLargeObject(join(dir, 'uploaded'), frames, 2)
  const note = async (what: string, begin: number): Promise<void> => {
    const seconds = (performance.now() - begin) / 1000
    const peaks = await Promise.all([a, b].map(async ({ pid }) => inMiB((await memoryOf(pid)).peakBytes)))
    t.diagnostic(`${what}: ${seconds.toFixed(1)} s; peak of A ${peaks[0]} MiB, of B ${peaks[1]} MiB`)
  }

  let begin = performance.now()
  const options = ['-v', '-aec', 'HANSE', '--required', '127.0.0.1', String(a.ports.dicom)]
  const { code, output } = await run(t, 'storescu', [...options, stored.path], { timeoutMs: deadlineMs })
  assert.equal(code, 0, output.slice(-2000))
  assert.match(output, /Received Store Response \(Success\)/)
  await note('C-STORE', begin)

  begin = performance.now()
  const response = await fetch(`${a.url}/instances`, {
    method: 'POST',
    body: Readable.toWeb(createReadStream(uploaded.path)),
    headers: { 'content-length': String(uploaded.sizeBytes) },
    duplex: 'half',
  })
  const answer = await response.text()
  assert.equal(response.status, 200, answer)
  await note('POST', begin)

  begin = performance.now()
  await untilReceipted(a, 2, deadlineMs)
  await note('transfer', begin)

  begin = performance.now()
  for (const gateway of [a, b]) {
    for (const object of [stored, uploaded]) await assertHas(gateway, object)
    await assertSound(gateway)
  }
  await note('reading back and fsck', begin)

  for (const gateway of [a, b]) {
    const { peakBytes } = await memoryOf(gateway.pid)
    assert.ok(peakBytes < allowedBytes, `${gateway.site} used ${inMiB(peakBytes)} MiB`)
  }
})

async function assertHas(gateway: ProcessGateway, object: LargeObject): Promise<void> {
  const found = (await listInstances(gateway)).find(({ sopInstanceUid }) => sopInstanceUid === object.sopInstanceUid)
  assert.ok(found, `${gateway.site} has ${object.sopInstanceUid}`)
  const { dataset } = await digestsAt(gateway, `/instances/${found.id}/file`)
  assert.equal(dataset, await datasetDigest(object))
}

async function datasetDigest({ path, datasetOffset }: LargeObject): Promise<string> {
  const hash = createHash('sha256')
  for await (const chunk of createReadStream(path, { start: datasetOffset, highWaterMark: 1024 ** 2 }))
    hash.update(chunk)
  return hash.digest('hex')
}
