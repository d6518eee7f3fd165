/** Arrays for numpy: of series too, in the order of the slices, and as archives; byte for byte those of Orthanc. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { inflateRawSync } from 'node:zlib'
import { openCorpus } from '../support/corpus.ts'
import { buildInstance } from '../support/dicom-builder.ts'
import { missingOrthanc, startOrthanc } from '../support/orthanc.ts'
import { imageApp } from './image-app.ts'
import type { StoreApp } from './store-app.ts'

const stored = ['?rescale=0', '?rescale=0&compress=1']

async function ask({ app }: StoreApp, url: string): Promise<{ status: number; bytes: Buffer }> {
  const { statusCode, rawPayload } = await app.inject({ url, headers: { host: 'localhost' } })
  return { status: statusCode, bytes: rawPayload }
}

/** The one file of an archive, whose name and sizes stand in the central directory. */
function unpacked(archive: Buffer): { readonly name: string; readonly bytes: Buffer } {
  const directory = archive.indexOf('PK\x01\x02', 0, 'latin1')
  const [packed, size] = [archive.readUInt32LE(directory + 20), archive.readUInt32LE(directory + 24)]
  const name = archive.toString('latin1', directory + 46, directory + 46 + archive.readUInt16LE(directory + 28))
  const start = 30 + archive.readUInt16LE(26) + archive.readUInt16LE(28)
  const bytes = inflateRawSync(archive.subarray(start, start + packed))
  assert.equal(bytes.length, size)
  return { name, bytes }
}

test('a series is one array in the order of its slices, and an archive holds the same', async t => {
  const store = await imageApp(t)
  const uids = { patientId: 'P1', studyInstanceUid: '1.2.3', seriesInstanceUid: '1.2.3.1' }
  const parents = new Set<string>()
  const pixels: Buffer[] = []
  for (const seed of [3, 1, 2]) {
    const number = { tag: 0x00200013, value: String(seed) }
    const built = buildInstance({ ...uids, rows: 4, cols: 4, seed, sopInstanceUid: `1.2.3.1.${seed}`, extra: [number] })
    const { body } = await store.upload(built.bytes)
    parents.add(String(body['ParentSeries']))
    pixels[seed - 1] = Buffer.from(built.bytes.subarray(built.bytes.length - 32))
  }
  const [series = ''] = parents

  const plain = await ask(store, `/series/${series}/numpy?rescale=0`)
  const packed = await ask(store, `/series/${series}/numpy?rescale=0&compress`)

  assert.match(plain.bytes.toString('latin1'), /^\x93NUMPY.*'<u2'.*\(3, 4,4,1\)/s)
  assert.ok(plain.bytes.subarray(128).equals(Buffer.concat(pixels)))
  assert.deepEqual(unpacked(packed.bytes), { name: 'arr_0', bytes: plain.bytes })
  assert.equal((await ask(store, '/series/none/numpy')).status, 404)

  const other = buildInstance({ ...uids, rows: 2, cols: 2, seed: 9, sopInstanceUid: '1.2.3.1.9', extra: [] })
  await store.upload(other.bytes)
  assert.equal((await ask(store, `/series/${series}/numpy?compress`)).status, 415)
})

test('arrays are those of Orthanc', { skip: missingOrthanc }, async t => {
  const corpus = openCorpus(t)
  if (corpus === undefined) return
  const store = await imageApp(t)
  const orthanc = await startOrthanc(t, {})
  // Orthanc does not rescale by functional groups of frames: of those, stored values are compared.
  const series = new Map<string, readonly string[]>()
  const wanted = /mr-mini-siemens|examples_rgb_color|modalities\/MR-enhanced/
  for (const file of corpus.filter(({ name }) => wanted.test(name))) {
    const bytes = await file.bytes()
    await fetch(`${orthanc.url}/instances`, { method: 'POST', body: bytes })
    const id = String((await store.upload(bytes)).body['ParentSeries'])
    series.set(id, file.name.includes('MR-enhanced') ? stored : [...stored, '', '?compress=1'])
  }
  assert.ok(series.size > 3)

  for (const [id, queries] of series) {
    for (const query of queries) {
      const theirs = Buffer.from(await (await fetch(`${orthanc.url}/series/${id}/numpy${query}`)).arrayBuffer())
      const ours = await ask(store, `/series/${id}/numpy${query}`)
      assert.equal(ours.status, 200)
      const [one, other] = query.includes('compress')
        ? [unpacked(ours.bytes), unpacked(theirs)]
        : [{ bytes: ours.bytes }, { bytes: theirs }]
      assert.ok(one.bytes.equals(other.bytes), `${id}${query}`)
    }
  }
})
