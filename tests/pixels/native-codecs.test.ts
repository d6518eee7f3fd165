/** The WebAssembly of dcmjs-codecs, whose functions are called by name: a contract with its pinned version. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { bufferSource } from '../../gateway/dicom/byte-source.ts'
import { readPixelLayout } from '../../gateway/pixels/layout.ts'
import { type CodecName, compileCodecs, startCodecs } from '../../gateway/pixels/native-codecs.ts'
import { openCorpus } from '../support/corpus.ts'

const samples = {
  ...{ rows: 40, columns: 56, samplesPerPixel: 1, bitsAllocated: 16, bitsStored: 16 },
  ...{ isSigned: false, isRgb: false },
}

test('every codec gives back what it encoded, and says what is wrong with other bytes', () => {
  const compiled = compileCodecs()
  const pixels = new Uint8Array(Uint16Array.from({ length: 40 * 56 }, (_, i) => (i * 37) & 0xffff).buffer)
  const codecs: CodecName[] = ['Jpeg', 'JpegLs', 'Jpeg2000', 'HtJpeg2000']
  for (const codec of codecs) {
    const encoded = startCodecs(compiled).encode(codec, pixels, samples)

    assert.deepEqual(startCodecs(compiled).decode(codec, encoded, samples), pixels, codec)
    assert.ok(encoded.length < pixels.length, codec)
    assert.throws(() => startCodecs(compiled).decode(codec, new Uint8Array(64), samples), codec)
  }
})

test('a JPEG that ends early is an error, not an image with grey below', () => {
  const compiled = compileCodecs()
  const pixels = new Uint8Array(40 * 56 * 2).map((_, i) => (i * 91) & 0xff)
  const encoded = startCodecs(compiled).encode('Jpeg', pixels, samples)

  assert.throws(() => startCodecs(compiled).decode('Jpeg', encoded.subarray(0, 700), samples), /ends early/)
})

test('two libraries see the same in the HTJ2K image of the corpus', async t => {
  const file = openCorpus(t)?.find(({ transferSyntax }) => transferSyntax === 'HTJ2K-Lossless')
  if (file === undefined) return
  const bytes = await file.bytes()
  const { pixels } = await readPixelLayout(bufferSource(bytes))
  const [fragment] = pixels?.fragments ?? []
  assert.ok(pixels?.format && fragment)
  const stream = bytes.subarray(fragment.offset, fragment.offset + fragment.length)
  const compiled = compileCodecs()
  const ofFile = { ...pixels.format, isRgb: false }

  const byOpenJph = startCodecs(compiled).decode('HtJpeg2000', stream, ofFile)
  const byOpenJpeg = startCodecs(compiled).decode('Jpeg2000', stream, ofFile)

  assert.deepEqual(byOpenJph, byOpenJpeg)
})
