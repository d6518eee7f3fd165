import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { type ByteSource, bufferSource } from '../../gateway/dicom/byte-source.ts'
import { findElement } from '../../gateway/dicom/dataset.ts'
import { readPart10 } from '../../gateway/dicom/part10-reader.ts'
import { explicitVrLittleEndian } from '../../gateway/dicom/uid.ts'
import { openPixels, type Pixels } from '../../gateway/pixels/pixels.ts'
import { nativePixels } from '../../gateway/services/native-pixels.ts'
import { Deidentifier, memorySpool } from '../../policy/deid/engine.ts'
import { temporaryDir } from '../support/blobs.ts'
import { onEnd } from '../support/cleanup.ts'
import { openCorpus } from '../support/corpus.ts'
import { buildInstance } from '../support/dicom-builder.ts'
import { testKey, testProfile } from './support.ts'

const rows = 64
const banner = 8
const signal = new AbortController().signal
const syntaxes = {
  RLE: '1.2.840.10008.1.2.5',
  'JPEG lossless': '1.2.840.10008.1.2.4.70',
  'JPEG-LS': '1.2.840.10008.1.2.4.80',
  'JPEG 2000': '1.2.840.10008.1.2.4.90',
  HTJ2K: '1.2.840.10008.1.2.4.201',
}
const classes = {
  US: '1.2.840.10008.5.1.4.1.1.6.1',
  SC: '1.2.840.10008.5.1.4.1.1.7',
  CR: '1.2.840.10008.5.1.4.1.1.1',
}
const profile = testProfile({
  options: ['cleanPixelData'],
  pixels: { regions: [{ rows, blank: [[0, 0, rows, banner]] }] },
})

async function openCodecs(t: TestContext): Promise<Pixels> {
  const pixels = await openPixels({ dir: await temporaryDir(t), threads: 1 })
  onEnd(t, () => pixels.close())
  return pixels
}

async function nativeBytes(source: ByteSource, pixels: Pixels, from: string): Promise<Buffer> {
  const transcoded =
    from === explicitVrLittleEndian ? undefined : await pixels.transcode(source, from, explicitVrLittleEndian, signal)
  const native = transcoded?.open() ?? source
  const element = findElement((await readPart10(native)).dataset, 0x7fe00010)
  assert.ok(element)
  const bytes = Buffer.from(await native.read(element.valueOffset, element.length))
  await transcoded?.close()
  return bytes
}

for (const [name, transferSyntaxUid] of Object.entries(syntaxes)) {
  test(`text in ${name} is blanked in every frame, and all other pixels stay what they were`, async t => {
    const pixels = await openCodecs(t)
    for (const [modality, sopClassUid] of Object.entries(classes)) {
      const frames = modality === 'US' ? 3 : 1
      const native = buildInstance({ sopClassUid, modality: modality === 'CR' ? 'CR' : 'US', rows, cols: rows, frames })
      const source = await pixels.transcode(
        bufferSource(native.bytes),
        explicitVrLittleEndian,
        transferSyntaxUid,
        signal,
      )
      const codec = nativePixels(async () => pixels, signal)

      const outcome = await new Deidentifier(profile, testKey).run(source.open(), memorySpool, { codec })

      assert.ok(outcome.kind === 'done', outcome.kind === 'held' ? outcome.reason : '')
      const output = await readPart10(outcome.output)
      assert.equal(output.transferSyntaxUid, transferSyntaxUid)
      assert.equal(outcome.certificate.pixels.outcome, 'blanked')
      assert.ok(outcome.certificate.methods.includes('113101'))
      const before = await nativeBytes(bufferSource(native.bytes), pixels, explicitVrLittleEndian)
      const after = await nativeBytes(outcome.output, pixels, transferSyntaxUid)
      const frameBytes = rows * rows * 2
      for (let frame = 0; frame < frames; frame++)
        before.fill(0, frame * frameBytes, frame * frameBytes + rows * banner * 2)
      assert.ok(after.equals(before), `${modality}: not just the banner has changed`)
      await source.close()
    }
  })
}

test('text in lossy JPEG is blanked in native pixels: nothing is lost a second time', async t => {
  const corpus = openCorpus(t)
  if (corpus === undefined) return
  const file = corpus.find(one => one.modality === 'US' && one.transferSyntax === 'JPEG-Baseline')
  assert.ok(file)
  const pixels = await openCodecs(t)
  const bytes = await file.bytes()
  const source = bufferSource(bytes)
  const everywhere = testProfile({
    options: ['cleanPixelData'],
    pixels: { regions: [{ modality: 'US', blank: [[0, 0, 10_000, 20]] }] },
  })

  const codec = nativePixels(async () => pixels, signal)
  const outcome = await new Deidentifier(everywhere, testKey).run(source, memorySpool, { codec })

  assert.ok(outcome.kind === 'done', outcome.kind === 'held' ? outcome.reason : '')
  assert.equal((await readPart10(outcome.output)).transferSyntaxUid, explicitVrLittleEndian)
  const before = await nativeBytes(source, pixels, '1.2.840.10008.1.2.4.50')
  const after = await nativeBytes(outcome.output, pixels, explicitVrLittleEndian)
  assert.equal(after.length, before.length)
  const columns = Number(file.cols)
  const samples = before.length / (Number(file.rows) * columns * Math.max(1, Number(file.frames || 1)))
  const hidden = 20 * columns * samples
  assert.ok(
    !after.subarray(0, hidden).equals(before.subarray(0, hidden)) ||
      before.subarray(0, hidden).every(byte => byte === 0),
  )
  assert.ok(after.subarray(hidden, 100_000).equals(before.subarray(hidden, 100_000)))
})

test('frames that no codec can read hold the instance', async t => {
  const pixels = await openCodecs(t)
  const broken = buildInstance({ modality: 'US', transferSyntaxUid: '1.2.840.10008.1.2.4.70', rows, cols: rows })
  const outcome = await new Deidentifier(profile, testKey).run(bufferSource(broken.bytes), memorySpool, {
    codec: nativePixels(async () => pixels, signal),
  })

  assert.ok(outcome.kind === 'held')
  assert.equal(outcome.code, 'pixels-unsupported')
})
