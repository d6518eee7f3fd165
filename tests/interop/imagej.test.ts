import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { test } from 'node:test'
import { imageApp } from '../http/image-app.ts'
import { buildInstance } from '../support/dicom-builder.ts'
import { missingImageJ, seenByImageJ } from '../support/imagej.ts'

const [width, height] = [24, 16]

/** Slices of a series of its own, each with other samples. */
function gray(z: number): Uint8Array {
  return new Uint8Array(Uint16Array.from({ length: width * height }, (_, at) => at * 4 + z).buffer)
}

const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex')

test("ImageJ's Orthanc plug-in browses, previews and opens what is stored", {
  skip: missingImageJ,
}, async t => {
  const store = await imageApp(t)
  const common = { patientId: 'P1', patientName: 'DOE^JANE', studyInstanceUid: '1.2.3', rows: height, cols: width }
  // The order in space is another than that of the numbers, and of arrival.
  for (const [instanceNumber, z] of [
    [1, 20],
    [2, 10],
    [3, 30],
  ] as const) {
    const position = ['0', '0', String(z)]
    const ct = buildInstance({
      ...{ ...common, seriesInstanceUid: '1.2.3.1', instanceNumber, seed: z },
      extra: [
        { tag: 0x00200032, value: position },
        { tag: 0x00281052, value: '-1024' },
        { tag: 0x00281053, value: '2' },
        { tag: 0x7fe00010, vr: 'OW', value: gray(z) },
      ],
    })
    assert.equal((await store.upload(ct.bytes)).status, 200)
  }
  const colors = Uint8Array.from({ length: width * height * 3 }, (_, at) => (at * 7) % 256)
  const us = buildInstance({
    ...{ ...common, modality: 'US', seriesInstanceUid: '1.2.3.2', seed: 7, instanceNumber: 1 },
    extra: [
      { tag: 0x00280002, value: 3 },
      { tag: 0x00280004, value: 'RGB' },
      { tag: 0x00280006, value: 0 },
      { tag: 0x00280100, value: 8 },
      { tag: 0x00280101, value: 8 },
      { tag: 0x00280102, value: 7 },
      { tag: 0x7fe00010, vr: 'OB', value: colors },
    ],
  })
  assert.equal((await store.upload(us.bytes)).status, 200)

  const seen = await seenByImageJ(t, await store.app.listen({ host: '127.0.0.1', port: 0 }))
  const preview = [width, height]
  const opened = (...slices: readonly number[]): unknown => ({
    size: [width, height],
    slices: slices.map(z => sha256(gray(z))),
    valueOf100: -824,
    pixelSize: [0.5, 0.5, 'mm'],
    namesPatient: true,
  })
  const series = [
    {
      title: 'CT - Synthetic series',
      preview,
      image: opened(10, 20, 30),
      children: [20, 10, 30].map((z, at) => ({ title: String(at + 1), preview, image: opened(z) })),
    },
    // Of coloured pictures it asks 16 bits, which we refuse as Orthanc does: it shows their preview.
    { title: 'US - Synthetic series', preview, image: null, children: [{ title: '1', preview, image: null }] },
  ]
  const studies = [{ title: 'Synthetic study - 20260102', children: series }]
  assert.deepEqual(seen, [{ title: 'P1 - DOE^JANE', children: studies }])
})
