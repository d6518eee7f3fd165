/** What DCMTK makes of what we write, and whether it decodes to the same samples. */
import assert from 'node:assert/strict'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { bufferSource } from '../../gateway/dicom/byte-source.ts'
import { explicitVrBigEndian, explicitVrLittleEndian, implicitVrLittleEndian } from '../../gateway/dicom/uid.ts'
import { isGatewayError } from '../../gateway/errors.ts'
import { rearranged } from '../../gateway/pixels/image.ts'
import { readPixelLayout } from '../../gateway/pixels/layout.ts'
import { onEnd } from '../support/cleanup.ts'
import { type CorpusFile, openCorpus, transferSyntaxUids } from '../support/corpus.ts'
import { missing, runOk } from '../support/dcmtk.ts'
import { isSoak, nativePixels, testPixels, transcoded } from './support.ts'

/** `+cn`: without conversion to RGB, which is DCMTK's, not that of the code stream. */
const decoders: Readonly<Record<string, readonly [string, ...string[]]>> = {
  '1.2.840.10008.1.2.5': ['dcmdrle'],
  '1.2.840.10008.1.2.4.70': ['dcmdjpeg', '+cn'],
  '1.2.840.10008.1.2.4.80': ['dcmdjpls'],
}
/** DCMTK has no decoder for these, but reads their data sets. */
const others = ['1.2.840.10008.1.2.4.90', '1.2.840.10008.1.2.4.201', implicitVrLittleEndian, explicitVrBigEndian]

const skip = missing('dcmdrle', 'dcmdjpeg', 'dcmdjpls', 'dcmdump')

test('DCMTK reads what we write, and decodes what we encode to the same samples', { skip }, async t => {
  const files = openCorpus(t)
  if (files === undefined) return
  const pixels = await testPixels(t)
  const path = await testFile(t)
  const images = files.filter(
    ({ isMalformed, transferSyntax, rows }) => !isMalformed && transferSyntax === 'ExplicitLE' && rows !== '',
  )
  let decoded = 0

  for (const [index, file] of share(images, 60).entries()) {
    const bytes = await file.bytes()
    for (const to of [...Object.keys(decoders), ...(isSoak ? others : others.slice(index % 4, (index % 4) + 1))]) {
      const written = await transcoded(pixels, bytes, explicitVrLittleEndian, to).catch(refused)
      if (written === undefined) continue
      await writeFile(path, written)
      assert.doesNotMatch(await runOk(t, 'dcmdump', ['-M', path]), /^[EF]:/m, `${file.name} in ${to}`)
      const decoder = decoders[to]
      if (decoder === undefined) continue
      const [tool, ...options] = decoder
      await runOk(t, tool, [...options, path, `${path}.out`])
      const theirs = await readFile(`${path}.out`)

      assert.ok((await byPixel(theirs)).equals(await byPixel(bytes)), `${file.name} by ${tool}`)
      decoded++
    }
  }

  assert.ok(decoded > 10, `${decoded} decoded`)
})

test('compressed images have the samples that DCMTK decodes', { skip }, async t => {
  const files = openCorpus(t)
  if (files === undefined) return
  const pixels = await testPixels(t)
  const path = await testFile(t)
  const tools: Readonly<Record<string, string>> = {
    'JPEG-Baseline': 'dcmdjpeg',
    'JPEG-Extended': 'dcmdjpeg',
    'JPEG-Spectral-retired': 'dcmdjpeg',
    'JPEG-Progressive-retired': 'dcmdjpeg',
    'JPEG-LS-Near': 'dcmdjpls',
    RLE: 'dcmdrle',
  }
  let compared = 0

  for (const file of share(files, 6)) {
    const tool = tools[file.transferSyntax]
    if (tool === undefined || file.isMalformed) continue
    const decoded = await runOk(t, tool, [file.path, path]).catch(() => undefined)
    if (decoded === undefined) continue
    const uid = transferSyntaxUids[file.transferSyntax] ?? ''
    const ours = await transcoded(pixels, await file.bytes(), uid, explicitVrLittleEndian)

    assert.ok((await byPixel(ours)).equals(await byPixel(await readFile(path))), file.name)
    compared++
  }

  assert.ok(compared > 5, `${compared} compared`)
})

function share(files: readonly CorpusFile[], every: number): CorpusFile[] {
  return files.filter((_, index) => isSoak || index % every === 1)
}

async function testFile(t: TestContext): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'hanse-dcmtk-'))
  onEnd(t, () => rm(dir, { recursive: true, force: true }))
  return join(dir, 'image.dcm')
}

/** The samples, color by pixel. */
async function byPixel(bytes: Uint8Array): Promise<Buffer> {
  const format = (await readPixelLayout(bufferSource(bytes))).pixels?.format
  const samples = await nativePixels(bytes)
  assert.ok(format && samples)
  const size = (format.rows * format.columns * format.samplesPerPixel * format.bitsAllocated) / 8
  const frames = Array.from({ length: samples.length / size }, (_, i) => samples.subarray(i * size, (i + 1) * size))
  return Buffer.concat(frames.map(frame => rearranged(frame, format, false)))
}

function refused(error: unknown): undefined {
  if (!isGatewayError(error, 'TRANSCODE_UNSUPPORTED')) throw error
}
