/** Compression with loss: what DCMTK decodes of it, what it says of itself, and what refuses it. */
import assert from 'node:assert/strict'
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { bufferSource } from '../../gateway/dicom/byte-source.ts'
import { type Dataset, itemsOf, numbersOf, stringOf, stringsOf } from '../../gateway/dicom/dataset.ts'
import { readPart10 } from '../../gateway/dicom/part10-reader.ts'
import type { NewElement } from '../../gateway/dicom/part10-writer.ts'
import { explicitVrLittleEndian } from '../../gateway/dicom/uid.ts'
import { isGatewayError } from '../../gateway/errors.ts'
import { readDisplay } from '../../gateway/pixels/display.ts'
import { readPixelLayout } from '../../gateway/pixels/layout.ts'
import type { Pixels } from '../../gateway/pixels/pixels.ts'
import { preferredSyntaxes } from '../../gateway/pixels/syntaxes.ts'
import { temporaryDir } from '../support/blobs.ts'
import { openCorpus, transferSyntaxUids } from '../support/corpus.ts'
import { missing, runOk } from '../support/dcmtk.ts'
import { buildInstance } from '../support/dicom-builder.ts'
import { allOf, never, testPixels } from './support.ts'

const baseline = '1.2.840.10008.1.2.4.50'
const extended = '1.2.840.10008.1.2.4.51'
const nearLossless = '1.2.840.10008.1.2.4.81'
const skip = missing('dcmdjpeg', 'dcmdjpls', 'dcmdump')

type How = Omit<Parameters<Pixels['recodeAsNamed']>[1], 'from'> & { from?: string }

async function compressed(pixels: Pixels, bytes: Uint8Array, how: How): Promise<Buffer> {
  const made = await pixels.recodeAsNamed(bufferSource(bytes), { from: explicitVrLittleEndian, ...how }, never)
  try {
    return await allOf(made.open())
  } finally {
    await made.close()
  }
}

/** The first frame as it is seen: grey values as they are stored, or RGB. */
async function seen(pixels: Pixels, bytes: Uint8Array): Promise<{ values: Uint8Array | Uint16Array; peak: number }> {
  const source = bufferSource(bytes)
  const layout = await readPixelLayout(source)
  const { samplesPerPixel = 1, photometric = '' } = layout.pixels?.format ?? {}
  if (samplesPerPixel === 1 && photometric !== 'PALETTE COLOR') {
    const { samples, format } = await pixels.decodeFrame(source, layout, 0, never)
    const values = format.bitsAllocated === 8 ? samples : new Uint16Array(new Uint8Array(samples).buffer)
    return { values, peak: Array.from(values).reduce((most, value) => Math.max(most, value), 1) }
  }
  const display = await readDisplay(source, 0)
  const picture = { mode: 'rendered', display, format: 'raw', quality: 90, isRescaled: false } as const
  const { bytes: values } = await pixels.drawFrame(source, layout, { index: 0, picture }, never)
  return { values, peak: 255 }
}

/** Peak signal-to-noise ratio in dB, and the greatest difference. */
async function difference(pixels: Pixels, one: Uint8Array, other: Uint8Array): Promise<{ psnr: number; most: number }> {
  const [{ values, peak }, { values: theirs }] = [await seen(pixels, one), await seen(pixels, other)]
  assert.equal(values.length, theirs.length)
  let [squares, most] = [0, 0]
  for (let i = 0; i < values.length; i++) {
    const apart = Math.abs((values[i] ?? 0) - (theirs[i] ?? 0))
    squares += apart ** 2
    most = Math.max(most, apart)
  }
  return { psnr: 10 * Math.log10((peak * peak * values.length) / Math.max(squares, 1e-9)), most }
}

async function decodedByDcmtk(t: TestContext, bytes: Uint8Array, tool: string): Promise<Buffer> {
  const path = join(await temporaryDir(t), 'compressed.dcm')
  await writeFile(path, bytes)
  assert.doesNotMatch(await runOk(t, 'dcmdump', ['-M', path]), /^[EF]:/m)
  await runOk(t, tool, [path, `${path}.out`])
  return await readFile(`${path}.out`)
}

const said = ({ dataset }: { readonly dataset: Dataset }) => ({
  type: stringsOf(dataset, 0x00080008)[0],
  lossy: stringOf(dataset, 0x00282110),
  method: stringsOf(dataset, 0x00282114).at(-1),
  derivation: itemsOf(dataset, 0x00089215)
    .map(item => stringOf(item, 0x00080100))
    .at(-1),
})

const cases = [
  ['modalities/DX/highdicom__dx_image.dcm', baseline],
  ['modalities/DX/highdicom__dx_image.dcm', extended],
  ['modalities/DX/highdicom__dx_image.dcm', nearLossless],
  ['modalities/US/pydicom__examples_rgb_color.dcm', baseline],
  ['modalities/US/pydicom__examples_rgb_color.dcm', extended],
  ['modalities/US/pydicom__examples_rgb_color.dcm', nearLossless],
  // Colors by plane.
  ['modalities/US/dicom-test-files__color-pl.dcm', baseline],
  ['modalities/US/dicom-test-files__color-pl.dcm', nearLossless],
  ['transfer-syntaxes/ExplicitLE-pixel-formats/dicom-test-files__SC_ybr_full_uncompressed.dcm', baseline],
  ['modalities/US/pydicom__examples_palette.dcm', baseline],
  ['modalities/US/weasis-dicom-tools__ybr422-raw.dcm', baseline],
  ['modalities/MR/dicom__3.dcm', nearLossless],
  ['modalities/MR/dicom__3.dcm', extended],
  ['modalities/MR-enhanced/dicom-test-files__emri_small.dcm', extended],
  ['modalities/MR/pydicom__examples_overlay.dcm', extended],
  ['transfer-syntaxes/ExplicitLE-pixel-formats/dicom-test-files__SC_rgb_2frame.dcm', baseline],
] as const

test('DCMTK decodes what is compressed with loss to nearly the same image', { skip }, async t => {
  const files = openCorpus(t)
  if (files === undefined) return
  const pixels = await testPixels(t)

  for (const [name, to] of cases) {
    const about = `${name} in ${to}`
    const file = files.find(each => each.name === name)
    assert.ok(file, name)
    const from = transferSyntaxUids[file.transferSyntax] ?? explicitVrLittleEndian
    const bytes = await file.bytes()
    const source = await readPart10(bufferSource(bytes))
    const predecessor = stringOf(source.dataset, 0x00080018) ?? ''

    const written = await compressed(pixels, bytes, { from, to, sopInstanceUid: '1.2.3.4', predecessor })

    assert.ok(written.length < bytes.length, about)
    const made = await readPart10(bufferSource(written))
    assert.equal(made.transferSyntaxUid, to)
    assert.deepEqual([stringOf(made.meta, 0x00020003), stringOf(made.dataset, 0x00080018)], ['1.2.3.4', '1.2.3.4'])
    assert.deepEqual(
      said(made),
      {
        type: 'DERIVED',
        lossy: '01',
        method: to === nearLossless ? 'ISO_14495_1' : 'ISO_10918_1',
        derivation: '113040',
      },
      about,
    )
    assert.match(stringOf(made.dataset, 0x00082111) ?? '', /^Lossy compression with JPEG/)
    const ratio = numbersOf(made.dataset, 0x00282112).at(-1) ?? 0
    assert.ok(ratio > 1.2 && ratio < 200, `${about}: ${ratio}`)
    const reference = itemsOf(made.dataset, 0x00082112).at(-1)
    assert.equal(reference && stringOf(reference, 0x00081155), predecessor)
    const decoded = await decodedByDcmtk(t, written, to === nearLossless ? 'dcmdjpls' : 'dcmdjpeg')
    for (const theirs of [decoded, written]) {
      const { psnr, most } = await difference(pixels, bytes, theirs)
      if (to === nearLossless) assert.ok(most <= 2, `${about}: ${most}`)
      else assert.ok(psnr > 30, `${about}: ${psnr}`)
    }
  }
})

const bytePixels = (value: Uint8Array): NewElement[] => [
  { tag: 0x00280100, value: 8 },
  { tag: 0x00280101, value: 8 },
  { tag: 0x00280102, value: 7 },
  { tag: 0x7fe00010, vr: 'OB', value },
]

test('each compression with loss is added to those before, and quality decides about size', async t => {
  const [fine, coarse] = [await testPixels(t, { lossyQuality: 95 }), await testPixels(t, { lossyQuality: 20 })]
  const noise = Uint8Array.from({ length: 128 * 96 }, (_, i) => (i * 7 + ((i / 128) | 0) * 13 + ((i * i) % 31)) & 255)
  const image = buildInstance({
    rows: 96,
    cols: 128,
    extra: [
      ...bytePixels(noise),
      { tag: 0x00082111, value: 'Edge enhanced' },
      { tag: 0x00089215, items: [[{ tag: 0x00080100, value: '113038' }]] },
      { tag: 0x00282110, value: '01' },
      { tag: 0x00282112, value: ['5.5'] },
      { tag: 0x00282114, value: ['ISO_15444_1'] },
    ],
  }).bytes

  const [large, small] = [
    await compressed(fine, image, { to: baseline }),
    await compressed(coarse, image, { to: baseline }),
  ]

  assert.ok(small.length < large.length * 0.7, `${small.length} of ${large.length}`)
  const { dataset } = await readPart10(bufferSource(small))
  assert.deepEqual(stringsOf(dataset, 0x00282114), ['ISO_15444_1', 'ISO_10918_1'])
  assert.equal(numbersOf(dataset, 0x00282112).length, 2)
  assert.match(stringOf(dataset, 0x00082111) ?? '', /quality 20, compression ratio \d+\.\d\d \[Edge enhanced\]$/)
  assert.deepEqual(
    itemsOf(dataset, 0x00089215).map(item => stringOf(item, 0x00080100)),
    ['113038', '113040'],
  )
  assert.equal(itemsOf(dataset, 0x00082112).length, 0)
})

test('nothing is compressed with loss unless it is asked for so, and only what a syntax has room for', async t => {
  const files = openCorpus(t)
  if (files === undefined) return
  const pixels = await testPixels(t)
  const refused = (error: unknown): boolean => isGatewayError(error, 'TRANSCODE_UNSUPPORTED')
  const image = buildInstance({ extra: bytePixels(new Uint8Array(64 * 64)) }).bytes

  for (const to of [baseline, extended, nearLossless]) {
    await assert.rejects(pixels.transcode(bufferSource(image), explicitVrLittleEndian, to, never), refused)
  }
  assert.deepEqual(preferredSyntaxes(explicitVrLittleEndian, [baseline, extended, nearLossless]), [])
  const jpegLossless = '1.2.840.10008.1.2.4.70'
  const lossy = await compressed(pixels, image, { to: baseline })
  assert.deepEqual(preferredSyntaxes(baseline, [jpegLossless, extended]), [])
  // Whoever names another syntax for it gets it, but loses no more.
  const again = await readPart10(bufferSource(await compressed(pixels, lossy, { from: baseline, to: jpegLossless })))
  assert.deepEqual([again.transferSyntaxUid, said(again).lossy], [jpegLossless, '01'])
  assert.equal(
    (await difference(pixels, lossy, await compressed(pixels, lossy, { from: baseline, to: jpegLossless }))).most,
    0,
  )
  for (const [name, to] of [
    ['modalities/MR/dicom__3.dcm', baseline],
    ['modalities/US/pydicom__examples_palette.dcm', nearLossless],
    ['modalities/US/weasis-dicom-tools__ybr422-raw.dcm', nearLossless],
    ['modalities/CT/cornerstone3D__CTImage.dcm_LittleEndianExplicitTransferSyntax_1.2.840.10008.1.2.1.dcm', extended],
  ] as const) {
    const bytes = await files.find(file => file.name === name)?.bytes()
    assert.ok(bytes, name)
    await assert.rejects(compressed(pixels, bytes, { to }), refused, `${name} in ${to}`)
  }
})

test('twelve bits of any size and content are what libjpeg decodes, the nearer the better the quality', async t => {
  let seed = 7
  const random = (): number => {
    seed = (seed * 1_103_515_245 + 12_345) % 2_147_483_648
    return seed / 2_147_483_648
  }
  const images: readonly [string, number, number, (row: number, column: number) => number][] = [
    ['one sample', 1, 1, () => 4095],
    ['black', 9, 17, () => 0],
    ['a ramp', 23, 41, (row, column) => (row * 90 + column * 40) % 4096],
    ['edges', 40, 33, (row, column) => (((row >> 2) + (column >> 2)) % 2 === 0 ? 0 : 4095)],
    ['noise', 61, 50, () => Math.floor(random() * 4096)],
  ]
  for (const [name, rows, cols, valueAt] of images) {
    const values = Uint16Array.from({ length: rows * cols }, (_, i) => valueAt(Math.floor(i / cols), i % cols))
    const extra: NewElement[] = [{ tag: 0x7fe00010, vr: 'OW', value: new Uint8Array(values.buffer) }]
    const image = buildInstance({ rows, cols, extra }).bytes
    let before = Number.POSITIVE_INFINITY
    for (const lossyQuality of [1, 50, 90, 100]) {
      const pixels = await testPixels(t, { lossyQuality, threads: 1 })
      const written = await compressed(pixels, image, { to: extended })
      const { values: decoded } = await seen(pixels, written)
      const error = Math.sqrt(
        values.reduce((sum, value, i) => sum + (value - (decoded[i] ?? 0)) ** 2, 0) / values.length,
      )
      assert.ok(error <= before + 0.5, `${name} ${lossyQuality}: ${error} after ${before}`)
      before = error
    }
    assert.ok(before < 1, `${name}: ${before}`)
  }
})
