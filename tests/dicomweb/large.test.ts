/** An object that is larger than what a gateway may use of memory: stored, fetched, and read in part over DICOMweb, posted, archived. */
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { test } from 'node:test'
import { type LargeObject, writeLargeObject } from '../interop/large-object.ts'
import { inMiB, memoryOf } from '../interop/process-memory.ts'
import { temporaryDir } from '../support/blobs.ts'
import { seededUid } from '../support/dicom-builder.ts'
import { startProcessGateway } from '../support/process-gateway.ts'

/** 512 KiB each: 300 MB, or 2 GiB. */
const frames = process.env['HANSE_SOAK'] ? 4096 : 600
const frameBytes = 512 * 1024
const allowedBytes = 350 * 1024 ** 2

test('a large object is stored, fetched whole, by frame and by range in bounded memory', async t => {
  const object = await writeLargeObject(join(await temporaryDir(t), 'large'), frames, 1)
  const gateway = await startProcessGateway(t, 'large')
  const service = `${gateway.url}/dicom-web`
  const instance = `/studies/${seededUid('large-study', 1)}/series/${seededUid('large-series', 1)}/instances/${object.sopInstanceUid}`
  const note = async (what: string): Promise<void> =>
    t.diagnostic(`${what}: peak ${inMiB((await memoryOf(gateway.pid)).peakBytes)} MiB`)

  const stored = await fetch(`${service}/studies`, {
    method: 'POST',
    body: Readable.toWeb(Readable.from(multipart(object))),
    headers: { 'content-type': 'multipart/related; type="application/dicom"; boundary=large' },
    duplex: 'half',
  })
  assert.equal(stored.status, 200, await stored.text())
  await note('stored')

  const expected = await digestOf(createReadStream(object.path, { highWaterMark: 1024 ** 2 }))
  const accept = { accept: 'application/dicom; transfer-syntax=*' }
  const whole = await fetch(`${service}${instance}`, { headers: accept })
  assert.equal(Number(whole.headers.get('content-length')), object.sizeBytes)
  assert.equal(await digestOf(whole.body), expected)
  const parts = await fetch(`${service}/studies/${seededUid('large-study', 1)}`)
  let bytes = 0
  for await (const chunk of parts.body ?? []) bytes += chunk.length
  assert.ok(bytes > object.sizeBytes && bytes < object.sizeBytes + 1000)
  await note('fetched')

  const last = await fetch(`${service}${instance}/frames/${frames}`, {
    headers: { accept: 'application/octet-stream' },
  })
  const frame = Buffer.from(await last.arrayBuffer())
  assert.deepEqual([frame.length, frame.readUInt32LE(0)], [frameBytes, frames - 1])
  const range = await fetch(`${service}${instance}/bulkdata/7FE00010`, {
    headers: { range: `bytes=${frameBytes * 500}-${frameBytes * 500 + 3}` },
  })
  assert.equal(range.status, 206)
  assert.equal(Buffer.from(await range.arrayBuffer()).readUInt32LE(0), 500)
  const metadata = await fetch(`${service}${instance}/metadata`)
  assert.match(await metadata.text(), /"7FE00010":\{"vr":"OW","BulkDataURI":/)
  await note('read in part')

  // The same by Orthanc's routes: stored in one request, and taken as an archive.
  const studies = await gateway.api<string[] & Record<string, unknown>>('GET', '/studies')
  await gateway.api('DELETE', `/studies/${studies[0]}`)
  const posted = await fetch(`${gateway.url}/instances`, {
    method: 'POST',
    body: Readable.toWeb(createReadStream(object.path, { highWaterMark: 1024 ** 2 })),
    headers: { 'content-type': 'application/dicom' },
    duplex: 'half',
  })
  assert.equal(posted.status, 200, await posted.text())
  await note('posted')
  const archive = await fetch(`${gateway.url}/studies/${studies[0]}/archive`)
  let archived = 0
  for await (const chunk of archive.body ?? []) archived += chunk.length
  assert.ok(archived > object.sizeBytes * 0.9, `${archived} bytes`)
  await note('archived')

  const { peakBytes } = await memoryOf(gateway.pid)
  assert.ok(peakBytes < allowedBytes, `${inMiB(peakBytes)} MiB`)
})

async function* multipart({ path }: LargeObject): AsyncGenerator<Uint8Array> {
  yield Buffer.from('--large\r\nContent-Type: application/dicom\r\n\r\n')
  yield* createReadStream(path, { highWaterMark: 1024 ** 2 })
  yield Buffer.from('\r\n--large--\r\n')
}

async function digestOf(chunks: AsyncIterable<Uint8Array> | null): Promise<string> {
  const hash = createHash('sha256')
  for await (const chunk of chunks ?? []) hash.update(chunk)
  return hash.digest('hex')
}
