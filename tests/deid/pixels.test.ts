import assert from 'node:assert/strict'
import { test } from 'node:test'
import { inflateRawSync } from 'node:zlib'
import fc from 'fast-check'
import type { NewElement } from '../../gateway/dicom/part10-writer.ts'
import { cleanCodestream, codestreamOf } from '../../policy/deid/codestream.ts'
import { type Image, nativeLayout, painterOf, type Region } from '../../policy/deid/image.ts'
import { presetProfile } from '../../policy/deid/presets.ts'
import { type BuildOptions, buildInstance } from '../support/dicom-builder.ts'
import { deidentified, held, testProfile } from './support.ts'

const trial = presetProfile('trial') ?? testProfile()
const regions = [{ modality: 'US', blank: [[0, 0, 64, 8]] }]
const cleaning = testProfile({ options: ['cleanPixelData'], pixels: { regions } })

/** The place of a sample in the pixel data, by PS3.5 §8, one sample at a time. */
function bytesOfSample(
  image: Image,
  frame: number,
  x: number,
  y: number,
  sample: number,
  isSwapped: boolean,
): number[] {
  const { rows, columns, samples, bitsAllocated, isPlanar } = image
  const index = isPlanar
    ? ((frame * samples + sample) * rows + y) * columns + x
    : ((frame * rows + y) * columns + x) * samples + sample
  const width = bitsAllocated / 8
  return Array.from({ length: width }, (_, at) => (isSwapped ? (index * width + at) ^ 1 : index * width + at))
}

const anImage = fc.record({
  rows: fc.integer({ min: 1, max: 9 }),
  columns: fc.integer({ min: 1, max: 9 }),
  frames: fc.integer({ min: 1, max: 3 }),
  samples: fc.constantFrom(1, 3),
  bitsAllocated: fc.constantFrom(8, 16, 32),
  isPlanar: fc.boolean(),
  isSwapped: fc.boolean(),
})
const aRegion = fc.tuple(
  fc.integer({ min: 0, max: 10 }),
  fc.integer({ min: 0, max: 10 }),
  fc.integer({ min: 1, max: 10 }),
  fc.integer({ min: 1, max: 10 }),
)

test('regions are black and every other pixel is as it was, in every layout and however the bytes come', () => {
  fc.assert(
    fc.property(
      anImage,
      fc.array(aRegion, { minLength: 1, maxLength: 3 }),
      fc.integer({ min: 1, max: 50 }),
      (shape, boxes, step) => {
        const isSwapped = shape.isSwapped && shape.bitsAllocated === 8
        const image = imageOf(shape)
        const layout = nativeLayout(image)
        assert.ok(layout)
        const length = layout.totalBytes + (layout.totalBytes % 2)
        const painted = new Uint8Array(length).fill(0xaa)
        const painter = painterOf(image, layout, boxes, isSwapped, false)
        for (let at = 0; at < length; at += step) painter.paint(painted.subarray(at, at + step), at)

        const expected = new Uint8Array(length).fill(0xaa)
        for (let frame = 0; frame < image.frames; frame++)
          for (const [x0, y0, width, height] of boxes)
            for (let y = y0; y < Math.min(image.rows, y0 + height); y++)
              for (let x = x0; x < Math.min(image.columns, x0 + width); x++)
                for (let sample = 0; sample < image.samples; sample++)
                  for (const at of bytesOfSample(image, frame, x, y, sample, isSwapped)) expected[at] = 0
        if (length > layout.totalBytes && !isSwapped) expected[length - 1] = 0
        assert.deepEqual(painted, expected)
      },
    ),
    { numRuns: 400 },
  )
})

test('black is what the photometric interpretation says, one bit images are filled bit by bit', () => {
  const fill = (image: Image, region: Region, length: number): number[] => {
    const layout = nativeLayout(image)
    assert.ok(layout)
    const bytes = new Uint8Array(length).fill(0x55)
    painterOf(image, layout, [region], false, false).paint(bytes, 0)
    return [...bytes]
  }
  const shape = { rows: 1, columns: 2, frames: 1, samples: 1, bitsAllocated: 16, isPlanar: false }

  assert.deepEqual(
    fill({ ...imageOf(shape), photometric: 'MONOCHROME1', bitsStored: 12 }, [0, 0, 1, 1], 4),
    [0xff, 0x0f, 0x55, 0x55],
  )
  assert.deepEqual(
    fill({ ...imageOf({ ...shape, samples: 3, bitsAllocated: 8 }), photometric: 'YBR_FULL' }, [1, 0, 1, 1], 6),
    [0x55, 0x55, 0x55, 0, 128, 128],
  )
  assert.deepEqual(
    fill(
      { ...imageOf({ ...shape, columns: 4, samples: 3, bitsAllocated: 8 }), photometric: 'YBR_FULL_422' },
      [1, 0, 1, 1],
      8,
    ),
    [0, 0, 128, 128, 0x55, 0x55, 0x55, 0x55],
  )
  assert.deepEqual(
    fill(imageOf({ ...shape, rows: 2, columns: 6, bitsAllocated: 1 }), [1, 0, 4, 2], 2),
    [0b01000001, 0b01010000],
  )
})

function imageOf(shape: Omit<Image, 'bitsStored' | 'isSigned' | 'photometric' | 'pixelData'>): Image {
  return {
    ...shape,
    isPlanar: shape.isPlanar && shape.samples > 1,
    bitsStored: shape.bitsAllocated,
    isSigned: false,
    photometric: shape.samples === 3 ? 'RGB' : 'MONOCHROME2',
    pixelData: new Proxy({} as never, {}),
  }
}

// ---- burned-in text ---------------------------------------------------------------------------------

const us: BuildOptions = { modality: 'US' }
const declared = (value: string): NewElement => ({ tag: 0x00280301, vr: 'CS', value })
const pixelsOf = (
  output: { dataset: { elements: readonly { tag: number; valueOffset: number; length: number }[] } },
  bytes: Uint8Array,
) => {
  const element = output.dataset.elements.find(({ tag }) => tag === 0x7fe00010)
  assert.ok(element)
  return bytes.subarray(element.valueOffset, element.valueOffset + element.length)
}

test('captures and images that declare text are held, unless the profile says where the text is', async () => {
  const sc = '1.2.840.10008.5.1.4.1.1.7'
  for (const { bytes } of [
    buildInstance(us),
    buildInstance({ ...us, extra: [declared('NO')] }),
    buildInstance({ sopClassUid: sc }),
    buildInstance({ modality: 'CR' }),
    buildInstance({ extra: [declared('YES')] }),
    buildInstance({ extra: [{ tag: 0x00080008, value: ['DERIVED', 'SECONDARY', 'SCREEN SAVE'] }] }),
    buildInstance({ extra: [{ tag: 0x0008103e, vr: 'LO', value: 'Dose Report' }] }),
  ]) {
    assert.equal((await held(bytes, trial)).code, 'burned-in')
    assert.equal((await held(bytes, testProfile())).code, 'burned-in')
  }
  await deidentified(buildInstance({ modality: 'CR', extra: [declared('NO')] }).bytes, trial)
  await deidentified(
    buildInstance({ ...us, extra: [declared('NO')] }).bytes,
    testProfile({ pixels: { trustDeclaredNo: true } }),
  )
})

test('a region is blanked in every frame, and that is declared; the rest of the pixels is as it was', async () => {
  for (const transferSyntaxUid of ['1.2.840.10008.1.2', '1.2.840.10008.1.2.1', '1.2.840.10008.1.2.1.99']) {
    const instance = buildInstance({ ...us, frames: 3, transferSyntaxUid })
    const output = await deidentified(instance.bytes, cleaning)
    const same = await deidentified(buildInstance({ modality: 'MR', frames: 3 }).bytes, testProfile())

    const [blanked, original] = [output, same].map(file =>
      Buffer.from(pixelsOf(file, file.isDeflated ? inflated(file) : file.bytes)),
    )
    assert.ok(blanked && original)
    const frameBytes = 64 * 64 * 2
    for (let frame = 0; frame < 3; frame++) {
      const at = frame * frameBytes
      assert.ok(blanked.subarray(at, at + 64 * 8 * 2).every(byte => byte === 0))
      assert.deepEqual(
        blanked.subarray(at + 64 * 8 * 2, at + frameBytes),
        original.subarray(at + 64 * 8 * 2, at + frameBytes),
      )
    }
    assert.equal(output.text('BurnedInAnnotation'), 'NO')
    assert.equal(output.certificate.pixels.outcome, 'blanked')
    assert.ok(output.certificate.methods.includes('113101'))
  }
})

function inflated({ bytes, datasetOffset }: { bytes: Uint8Array; datasetOffset: number }): Uint8Array {
  return inflateRawSync(bytes.subarray(datasetOffset))
}

test('device signatures and the ultrasound calibration say where text is', async () => {
  const device = await deidentified(
    buildInstance({
      ...us,
      rows: 600,
      cols: 800,
      extra: [
        { tag: 0x00080070, vr: 'LO', value: 'Philips Medical Systems' },
        { tag: 0x00081090, vr: 'LO', value: 'iU22' },
      ],
    }).bytes,
    trial,
  )
  assert.deepEqual(device.certificate.pixels.regions[0], [0, 0, 800, 59])

  const box = (top: number): NewElement => ({
    tag: 0x00186011,
    items: [
      [
        { tag: 0x00186018, value: 4 },
        { tag: 0x0018601a, value: top },
        { tag: 0x0018601c, value: 63 },
        { tag: 0x0018601e, value: 63 },
      ],
    ],
  })
  const calibrated = await deidentified(buildInstance({ ...us, extra: [box(16)] }).bytes, trial)
  assert.deepEqual(calibrated.certificate.pixels.regions, [
    [0, 0, 64, 16],
    [0, 16, 4, 48],
  ])
  const everything: NewElement = { tag: 0x00186011, items: [[{ tag: 0x00186018, value: 0 }]] }
  assert.equal((await held(buildInstance({ ...us, extra: [everything] }).bytes, trial)).code, 'burned-in')
})

test('what lies behind the last pixel, and overlays in the bits of pixels, do not pass', async () => {
  const pixels = Buffer.alloc(64 * 64 * 2 + 40)
  pixels.write('Obermayer', 64 * 64 * 2 + 10, 'latin1')
  const output = await deidentified(
    buildInstance({ extra: [{ tag: 0x7fe00010, vr: 'OW', value: pixels }] }).bytes,
    testProfile(),
  )
  assert.doesNotMatch(Buffer.from(output.bytes).toString('latin1'), /Obermayer/)
  const overlay = await held(buildInstance({ extra: [{ tag: 0x60000100, vr: 'US', value: 16 }] }).bytes, testProfile())
  assert.equal(overlay.code, 'overlay-in-pixels')
})

test('compressed pixels with text are held without a codec; video is held always', async () => {
  const jpeg = '1.2.840.10008.1.2.4.50'
  assert.equal(
    (await held(buildInstance({ ...us, transferSyntaxUid: jpeg }).bytes, cleaning)).code,
    'pixels-compressed',
  )
  const mpeg = await held(buildInstance({ transferSyntaxUid: '1.2.840.10008.1.2.4.102' }).bytes, testProfile())
  assert.equal(mpeg.code, 'pixels-unsupported')
})

// ---- codestreams ------------------------------------------------------------------------------------

const segment = (marker: number, payload: string | number[]): number[] => {
  const bytes = typeof payload === 'string' ? [...Buffer.from(payload, 'latin1')] : payload
  return [0xff, marker, (bytes.length + 2) >> 8, (bytes.length + 2) & 0xff, ...bytes]
}

test('comments and application data of JPEG are overwritten, the image data are not touched', () => {
  const scan = [...segment(0xda, [1, 1, 0, 0, 63, 0]), 0x12, 0xff, 0x00, 0x34, 0xff, 0xd0, 0x56]
  const frame = Uint8Array.from([
    ...[0xff, 0xd8],
    ...segment(0xe0, 'JFIF\0\x01\x02\0\0\x01\0\x01\0\0'),
    ...segment(0xe1, 'Exif\0\0Obermayer^Josefine'),
    ...segment(0xfe, 'Patient: Obermayer'),
    ...scan,
    ...segment(0xfe, 'Obermayer'),
    ...[0xff, 0xd9],
    ...Buffer.from('Obermayer behind'),
  ])
  const before = Buffer.from(frame)
  cleanCodestream(frame, 'jpeg')

  const text = Buffer.from(frame)
  assert.doesNotMatch(text.toString('latin1'), /Obermayer|Exif/)
  assert.equal(frame.length, before.length)
  const at = before.indexOf(Buffer.from(scan))
  assert.deepEqual(text.subarray(at, at + scan.length), Buffer.from(scan))
  assert.ok(text.includes('JFIF'))
})

test('comments of JPEG 2000 in the main and in tile-part headers are overwritten', () => {
  const comment = [0xff, ...segment(0x64, [0, 1, ...Buffer.from('Obermayer')]).slice(1)]
  const data = [0xff, 0x93, 1, 2, 0xff, 0x64, 3, 4]
  const tile = [0xff, 0x90, 0, 10, 0, 0, 0, 0, 0, 12 + comment.length + data.length, 0, 1, ...comment, ...data]
  const frame = Uint8Array.from([0xff, 0x4f, ...comment, ...tile, 0xff, 0xd9, ...Buffer.from('Obermayer')])
  cleanCodestream(frame, 'jpeg-2000')

  assert.doesNotMatch(Buffer.from(frame).toString('latin1'), /Obermayer/)
  assert.ok(Buffer.from(frame).includes(Buffer.from(data)))
})

test('a codestream that cannot be followed holds the instance', async () => {
  assert.throws(
    () => cleanCodestream(Uint8Array.of(0xff, 0xd8, 0xff, 0xe1, 0xff, 0xff, 0), 'jpeg'),
    /longer than the frame/,
  )
  assert.throws(() => cleanCodestream(Uint8Array.of(1, 2, 3, 4), 'jpeg-2000'))
  assert.throws(() => cleanCodestream(Uint8Array.of(0, 0, 0, 12, 0x4a, 0x58), 'jpeg-xl'))
  // The builder's "frames" are no JPEG.
  const { bytes } = buildInstance({ transferSyntaxUid: '1.2.840.10008.1.2.4.70' })
  assert.equal((await held(bytes, testProfile())).code, 'codestream')
  assert.equal(codestreamOf('1.2.840.10008.1.2.4.100'), undefined)
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 60 }), fc.constantFrom('jpeg', 'jpeg-ls', 'jpeg-2000'), (noise, family) => {
      const start = family === 'jpeg-2000' ? [0xff, 0x4f] : [0xff, 0xd8]
      try {
        cleanCodestream(Uint8Array.from([...start, ...noise]), family)
      } catch (error) {
        assert.ok(error instanceof Error && error.name === 'HoldError')
      }
    }),
  )
})
