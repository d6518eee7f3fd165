/** Real files through the codecs: samples against the digests of the manifest, data sets against the originals. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { bufferSource } from '../../gateway/dicom/byte-source.ts'
import type { Element } from '../../gateway/dicom/dataset.ts'
import { isPrivateTag, type Tag } from '../../gateway/dicom/tag.ts'
import {
  deflatedExplicitVrLittleEndian,
  explicitVrBigEndian,
  explicitVrLittleEndian,
  implicitVrLittleEndian,
  transferSyntax,
} from '../../gateway/dicom/uid.ts'
import { isGatewayError } from '../../gateway/errors.ts'
import { frameBytes, rearranged } from '../../gateway/pixels/image.ts'
import { readPixelLayout } from '../../gateway/pixels/layout.ts'
import type { Pixels } from '../../gateway/pixels/pixels.ts'
import { type CorpusFile, openCorpus, transferSyntaxUids } from '../support/corpus.ts'
import { flatElements, isSoak, manifestDigest, nativePixels, testPixels, transcoded } from './support.ts'

const uidOf = (file: CorpusFile): string => transferSyntaxUids[file.transferSyntax] ?? ''

/** A fixed share of the files, all of them in the long runs; of the rarer syntaxes always some. */
function shareOf(files: readonly CorpusFile[], every: number): CorpusFile[] {
  const seen = new Map<string, number>()
  return files.filter(({ isMalformed, transferSyntax }) => {
    if (isMalformed) return false
    const count = seen.get(transferSyntax) ?? 0
    seen.set(transferSyntax, count + 1)
    return isSoak || count % every === 0
  })
}

/** The file in Explicit VR Little Endian. */
async function explicit(pixels: Pixels, file: CorpusFile): Promise<Buffer> {
  const bytes = await file.bytes()
  return uidOf(file) === explicitVrLittleEndian ? bytes : transcoded(pixels, bytes, uidOf(file), explicitVrLittleEndian)
}

/** Where the manifest's digest is not that of the image, or there is none: what it is, and why. */
const known: ReadonlyMap<string, string> = new Map([
  // 8-bit samples with VR OW in big endian: the first was written without the swap of PS3.5 §6.2, and the reader behind
  // the manifest did not swap either.
  ['transfer-syntaxes/ExplicitBE/dicom-test-files__OBXXXX1A_expb.dcm', 'db744ef15b51bd34:uint8'],
  ['transfer-syntaxes/ExplicitBE/pydicom-data__OBXXXX1A_expb.dcm', '48abdc16b5064b61:uint8'],
  // The fragments of two frames without an offset table, which that reader mixed up; the digest of its siblings, and
  // that of DCMTK.
  [
    'transfer-syntaxes/JPEG-LS-Lossless/dicomParser__CT0012.fragmented_no_bot_jpeg_ls.80.dcm',
    'b6b202c4af4494a2:uint16',
  ],
  ['transfer-syntaxes/JPEG-LS-Near/dicomParser__CT0012.fragmented_no_bot_jpeg_ls.81.dcm', '280666ecce17e0be:uint16'],
  // Too much for CharLS; the digest of its siblings, and that of DCMTK.
  ['transfer-syntaxes/JPEG-LS-Lossless/dicom-test-files__MR1_JLSL.dcm', '2541a628cb676972:int16'],
  // Lossy, with samples beyond Bits Stored, which that reader cut; the digest of DCMTK.
  ['transfer-syntaxes/JPEG-Extended/dicom-test-files__RG3_JPLY.dcm', '9abaad3943504468:uint16'],
  // Of the same image in other syntaxes.
  ['transfer-syntaxes/JPEGXL-Lossless/orthanc-jxl__test_ct1_jxl.dcm', '8cb12625f08edb46:uint16'],
  ['non-image/pydicom-data__liver_deflate.dcm', '86ceb97b138085d0:uint8'],
  ['non-image/pydicom-data__liver_j2k.dcm', '86ceb97b138085d0:uint8'],
  ['non-image/pydicom-data__liver_rle.dcm', '86ceb97b138085d0:uint8'],
])

/** What does not decode: its header was tampered with. */
const undecodable: ReadonlySet<string> = new Set(['deid/dicognito__JPEG2000-embedded-sequence-delimiter.dcm'])

test('every file has the samples of the manifest after transcoding to Explicit VR Little Endian', async t => {
  const files = openCorpus(t)
  if (files === undefined) return
  const pixels = await testPixels(t)
  let compared = 0

  for (const file of shareOf(files, 12)) {
    const expected = known.get(file.name) ?? file.pixelSha256
    if (!expected.includes(':')) continue
    if (undecodable.has(file.name)) {
      await assert.rejects(explicit(pixels, file), error => isGatewayError(error, 'PIXELS_UNREADABLE'), file.name)
      continue
    }
    const samples = await nativePixels(await explicit(pixels, file))

    assert.ok(samples, file.name)
    assert.equal(manifestDigest(samples, { ...file, pixelSha256: expected }), expected, file.name)
    compared++
  }

  assert.ok(compared > 40, `${compared} compared`)
})

test('from one native syntax to another and back every element keeps its value', async t => {
  const files = openCorpus(t)
  if (files === undefined) return
  const pixels = await testPixels(t)
  const native = [implicitVrLittleEndian, explicitVrLittleEndian, explicitVrBigEndian, deflatedExplicitVrLittleEndian]

  for (const file of shareOf(files, 12)) {
    if (!native.includes(uidOf(file))) continue
    const bytes = await explicit(pixels, file)
    for (const to of [implicitVrLittleEndian, explicitVrBigEndian]) {
      // Implicit VR does not tell private sequences from other private values.
      const isLeftOut = ({ tag, items }: Element): boolean =>
        to === implicitVrLittleEndian && (items !== undefined ? isPrivateTag(tag) : privates.has(tag))
      const privates = await privateSequences(bytes)
      const elements = await flatElements(bytes, isLeftOut)
      const there: Buffer | undefined = await transcoded(pixels, bytes, explicitVrLittleEndian, to).catch(refused)
      if (there === undefined) continue
      const back = await transcoded(pixels, there, to, explicitVrLittleEndian)
      assert.deepEqual(await flatElements(there, isLeftOut), elements, `${file.name} in ${to}`)
      assert.deepEqual(await flatElements(back, isLeftOut), elements, `${file.name} by ${to}`)
    }
  }
})

/** The tags of private sequences. */
async function privateSequences(bytes: Uint8Array): Promise<Set<Tag>> {
  const found = new Set<Tag>()
  await flatElements(bytes, ({ tag, items }) => {
    if (items !== undefined && isPrivateTag(tag)) found.add(tag)
    return false
  })
  return found
}

function refused(error: unknown): undefined {
  if (!isGatewayError(error, 'TRANSCODE_UNSUPPORTED')) throw error
}

/** The lossless syntaxes that we write pixels in. */
const compressed = [
  '1.2.840.10008.1.2.5',
  '1.2.840.10008.1.2.4.80',
  '1.2.840.10008.1.2.4.70',
  '1.2.840.10008.1.2.4.90',
  '1.2.840.10008.1.2.4.201',
]

test('an image that was compressed without loss comes back the same, with every other element', async t => {
  const files = openCorpus(t)
  if (files === undefined) return
  const pixels = await testPixels(t)
  const images = files.filter(file => file.rows !== '' && !undecodable.has(file.name))
  let round = 0

  for (const [index, file] of shareOf(images, 30).entries()) {
    const bytes = await explicit(pixels, file)
    const samples = await nativePixels(bytes)
    const to = isSoak ? compressed : compressed.slice(index % compressed.length).slice(0, 1)
    for (const syntax of to) {
      const there = await transcoded(pixels, bytes, explicitVrLittleEndian, syntax).catch(refused)
      if (there === undefined || samples === undefined) continue
      const back = await transcoded(pixels, there, syntax, explicitVrLittleEndian)
      const was = (await readPixelLayout(bufferSource(bytes))).pixels?.format
      const is = (await readPixelLayout(bufferSource(back))).pixels?.format
      assert.ok(was && is)
      assert.deepEqual(is, { ...was, isPlanar: is.isPlanar }, `${file.name} by ${syntax}`)
      const expected = inFrames(samples, frameBytes(was), frame => rearranged(frame, was, is.isPlanar))
      assert.ok((await nativePixels(back))?.equals(expected), `${file.name} by ${syntax}`)
      assert.deepEqual(await flatElements(back, isOfPixels), await flatElements(bytes, isOfPixels), file.name)
      round++
    }
  }

  assert.ok(round > 20, `${round} went round`)
})

test('decompressing changes nothing but the attributes of the pixels', async t => {
  const files = openCorpus(t)
  if (files === undefined) return
  const pixels = await testPixels(t)

  for (const file of shareOf(files, 10)) {
    if (!transferSyntax(uidOf(file))?.encapsulated || undecodable.has(file.name)) continue
    const original = await file.bytes()
    const bytes = await explicit(pixels, file)

    assert.deepEqual(await flatElements(bytes, isOfPixels), await flatElements(original, isOfPixels), file.name)
    const after = (await readPixelLayout(bufferSource(bytes))).pixels
    const before = (await readPixelLayout(bufferSource(original))).pixels
    assert.equal(after?.frames, before?.frames, file.name)
    assert.doesNotMatch(after?.format?.photometric ?? '', /_(422|420|RCT|ICT)$/, file.name)
  }
})

/** Pixel Data, what is about its offsets, and the attributes that depend on its compression. */
const isOfPixels = ({ tag }: Element): boolean =>
  tag === 0x7fe00010 || tag === 0x7fe00001 || tag === 0x7fe00002 || tag === 0x00280004 || tag === 0x00280006

function inFrames(bytes: Buffer, size: number, change: (frame: Uint8Array) => Uint8Array): Buffer {
  const frames = Array.from({ length: bytes.length / size }, (_, i) => change(bytes.subarray(i * size, (i + 1) * size)))
  return Buffer.concat(frames)
}
