/** Pictures and values of real numbers: Float Pixel Data and Double Float Pixel Data. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { NewElement } from '../../gateway/dicom/part10-writer.ts'
import { openCorpus } from '../support/corpus.ts'
import { buildInstance } from '../support/dicom-builder.ts'
import { imageApp } from './image-app.ts'

const parametricMap = '1.2.840.10008.5.1.4.1.1.30'
const pam = 'image/x-portable-arbitrarymap'

/** Two frames of two rows and two columns. */
function map(samples: Float32Array | Float64Array, extra: readonly NewElement[] = []): Uint8Array {
  const isDouble = samples instanceof Float64Array
  const bytes = new Uint8Array(samples.buffer)
  const built = buildInstance({
    seed: samples.BYTES_PER_ELEMENT,
    sopClassUid: parametricMap,
    rows: 2,
    cols: 2,
    extra: [
      { tag: 0x00280008, value: 2 },
      { tag: 0x00280100, value: isDouble ? 64 : 32 },
      ...[0x00280101, 0x00280102, 0x00280103].map(tag => ({ tag, value: [] })),
      isDouble ? { tag: 0x7fe00009, vr: 'OD', value: bytes } : { tag: 0x7fe00008, vr: 'OF', value: bytes },
      // The builder has pixels of its own, which would be the picture.
      { tag: 0x7fe00010, vr: 'OW', value: new Uint8Array() },
      ...extra,
    ],
  }).bytes
  // Without the empty Pixel Data at the end.
  return built.subarray(0, built.length - 12)
}

test('real numbers are drawn from the least to the greatest that is finite, or by a window', async t => {
  const store = await imageApp(t)
  const draw = async (url: string): Promise<number[]> => {
    const { statusCode, rawPayload } = await store.app.inject({ url, headers: { host: 'localhost', accept: pam } })
    assert.equal(statusCode, 200, `${url}: ${rawPayload}`)
    return [...rawPayload.subarray(rawPayload.indexOf('ENDHDR\n') + 7)]
  }
  const values = [-0.5, 0, 0.25, 0.5, Number.NaN, Number.POSITIVE_INFINITY, 1e-3, 2e-3]

  for (const samples of [Float32Array.from(values), Float64Array.from(values)]) {
    const { body } = await store.upload(map(samples))
    const url = `/instances/${body['ID']}`

    assert.deepEqual(await draw(`${url}/preview`), [0, 128, 191, 255])
    assert.deepEqual(await draw(`${url}/frames/1/preview`), [0, 255, 0, 255])
    assert.deepEqual(await draw(`${url}/rendered`), [0, 128, 191, 255])
    assert.deepEqual(await draw(`${url}/rendered?window-center=0.25&window-width=0.5`), [0, 0, 127, 255])
    const raw = await store.app.inject({ url: `${url}/frames/1/raw`, headers: { host: 'localhost' } })
    assert.ok(raw.rawPayload.equals(Buffer.from(samples.buffer).subarray(samples.byteLength / 2)))
    const none = await store.app.inject({ url: `${url}/frames/2/preview`, headers: { host: 'localhost' } })
    assert.notEqual(none.statusCode, 200)
  }
})

test('a parametric map of the collection is seen', async t => {
  const file = openCorpus(t)?.find(({ name }) => name.endsWith('parametric_map_float.dcm'))
  if (file === undefined) return
  const store = await imageApp(t)
  const { body } = await store.upload(await file.bytes())
  const url = `/instances/${body['ID']}/preview`
  const { statusCode, rawPayload } = await store.app.inject({ url, headers: { host: 'localhost', accept: pam } })

  assert.equal(statusCode, 200)
  const levels = rawPayload.subarray(rawPayload.indexOf('ENDHDR\n') + 7)
  assert.equal(levels.length, 128 * 128)
  assert.ok(new Set(levels).size > 50)
})
