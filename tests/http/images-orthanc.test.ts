import assert from 'node:assert/strict'
import { test } from 'node:test'
import { isSoak } from '../pixels/support.ts'
import { openCorpus } from '../support/corpus.ts'
import { missingOrthanc, startOrthanc } from '../support/orthanc.ts'
import { imageApp } from './image-app.ts'

const headers = { host: 'localhost', accept: 'image/x-portable-arbitrarymap' }
const routes = ['preview', 'rendered', 'image-uint8', 'image-uint16', 'image-int16', 'frames/0/raw', 'matlab']
const exact = /^(image-|frames|matlab)/

/**
 * Where we differ on purpose: Orthanc's JPEG decoder has other bits for 12-bit JPEG; it follows no lookup tables, takes
 * embedded overlays for samples, and shows YBR_FULL of RLE without conversion.
 */
const differs =
  /[mvx]lut|overlay|ybrFull|CT0012|RG3|JPEG-Extended|Progressive|Spectral|mono2-CT-16bit|weasis-dicom-tools__mr/

test('pictures and frames are those of Orthanc, sample by sample', { skip: missingOrthanc }, async t => {
  const corpus = openCorpus(t)
  if (corpus === undefined) return
  const usable = corpus.filter(
    ({ name, isMalformed }) =>
      /^(modalities|rt|transfer-syntaxes|non-image)\//.test(name) && !isMalformed && !differs.test(name),
  )
  const store = await imageApp(t)
  const orthanc = await startOrthanc(t, {})
  const step = isSoak ? 1 : 6
  let compared = 0

  for (const file of usable.filter((_, index) => index % step === 0)) {
    const bytes = await file.bytes()
    if (bytes.length > 300_000) continue
    const stored = await fetch(`${orthanc.url}/instances`, { method: 'POST', body: bytes })
    if (!stored.ok) continue
    const { body } = await store.upload(bytes)
    // The same instance in another transfer syntax is kept beside the first one.
    if (body['Status'] !== 'Success') continue
    for (const route of routes) {
      const url = `/instances/${body['ID']}/${route}`
      const theirs = await fetch(`${orthanc.url}${url}`, { headers })
      // What Orthanc cannot decode, JPEG 2000 without its plug-in above all, is compared elsewhere.
      if (!theirs.ok) continue
      const expected = Buffer.from(await theirs.arrayBuffer())
      const ours = await store.app.inject({ url, headers })
      const what = `${file.name} ${route}`
      assert.equal(ours.statusCode, 200, what)
      assert.equal(ours.headers['content-type'], theirs.headers.get('content-type'), what)
      assert.equal(ours.rawPayload.length, expected.length, what)
      const difference = greatestDifference(ours.rawPayload, expected)
      assert.ok(difference <= (exact.test(route) ? 0 : 1), `${what}: ${difference}`)
      compared++
    }
  }

  assert.ok(compared > 80, `${compared}`)
})

function greatestDifference(one: Uint8Array, other: Uint8Array): number {
  let greatest = 0
  for (let i = 0; i < one.length; i++) greatest = Math.max(greatest, Math.abs((one[i] ?? 0) - (other[i] ?? 0)))
  return greatest
}
