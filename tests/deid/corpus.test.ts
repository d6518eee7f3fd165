/** The project's real files through the engine: each is written and readable, or held with a reason. */
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { bufferSource } from '../../gateway/dicom/byte-source.ts'
import { type Dataset, findElement } from '../../gateway/dicom/dataset.ts'
import { type Part10, readPart10 } from '../../gateway/dicom/part10-reader.ts'
import { codestreamOf } from '../../policy/deid/codestream.ts'
import { Deidentifier, memorySpool } from '../../policy/deid/engine.ts'
import { basicWith, presetProfile } from '../../policy/deid/presets.ts'
import type { Profile } from '../../policy/deid/profile.ts'
import { optionNames } from '../../policy/deid/tables.ts'
import { temporaryDir } from '../support/blobs.ts'
import { type CorpusFile, openCorpus } from '../support/corpus.ts'
import { missing } from '../support/dcmtk.ts'
import { assertReadable } from './support.ts'

const isSoak = process.env['HANSE_SOAK'] === '1'
const key = new Uint8Array(32).fill(1)
/** Of a corpus of about 900 files, so many of one kind stay out of a quick run. */
const stride = 9
const options = isSoak ? optionNames : []
const profiles = ['basic', 'trial'].map(presetProfile)
const tried = [...profiles, ...options.map(basicWith)].filter(profile => profile !== undefined)

for (const profile of tried) {
  test(`every file of the corpus is written or held with a reason (${profile.name})`, async t => {
    const corpus = openCorpus(t)
    if (corpus === undefined) return
    const isRead = missing('dcmdump') === false && profile.name.length <= 5
    const folder = await temporaryDir(t)
    const engine = new Deidentifier(profile, key)
    const counts = { done: 0, held: 0 }
    for (const [index, file] of corpus.entries()) {
      if (!isSoak && index % stride !== 0) continue
      const bytes = await file.bytes()
      const outcome = await engine.run(bufferSource(bytes), memorySpool)
      counts[outcome.kind]++
      if (outcome.kind === 'held') {
        assert.notEqual(outcome.code, 'internal', file.name)
        assert.notEqual(
          outcome.code,
          'verification',
          `${file.name}: ${outcome.reason} ${JSON.stringify(outcome.evidence)}`,
        )
        assert.ok(outcome.reason.length > 10)
        continue
      }
      const output = await outcome.output.read(0, outcome.output.sizeBytes)
      await comparePixels(bytes, output, outcome.certificate.pixels.outcome, file.name)
      if (isRead) await writeFile(join(folder, `${index}.dcm`), output)
      const again = await new Deidentifier(profile, key).run(bufferSource(bytes), memorySpool)
      assert.ok(again.kind === 'done' && again.certificate.outputSha256 === outcome.certificate.outputSha256)
    }
    if (isRead) await assertReadable(t, folder, counts.done)
    assert.ok(counts.done > counts.held, JSON.stringify(counts))
    t.diagnostic(`${profile.name}: ${counts.done} written, ${counts.held} held`)
  })
}

/** Pixel data are the same bytes; in compressed frames only comments may differ. */
async function comparePixels(source: Uint8Array, output: Uint8Array, outcome: string, name: string): Promise<void> {
  if (outcome === 'no pixels' || outcome === 'blanked') return
  const [before, after] = await Promise.all([source, output].map(bytes => readPart10(bufferSource(bytes))))
  assert.ok(before && after)
  const [from, to] = [pixelBytes(before, source), pixelBytes(after, output)]
  if (from === undefined || to === undefined) return
  assert.equal(to.length, from.length, name)
  const family = codestreamOf(after.transferSyntaxUid)
  if (family === undefined || family === 'plain') {
    // What lies behind the last pixel is zero in the output.
    const first = digest(to) === digest(from) ? to.length : from.findIndex((byte, at) => byte !== to[at])
    assert.ok(to.subarray(first).every(byte => byte === 0) && first > to.length / 2, name)
  } else assert.ok(differing(from, to) < 4_096, `${name}: more than comments differ`)
}

function pixelBytes({ dataset, isDeflated }: Part10, bytes: Uint8Array): Uint8Array | undefined {
  const element = findElement(dataset, 0x7fe00010)
  if (element === undefined || isDeflated) return undefined
  const end = element.fragments?.at(-1)
  const length = end === undefined ? element.length : end.offset + end.length - element.valueOffset
  return bytes.subarray(element.valueOffset, element.valueOffset + length)
}

function differing(a: Uint8Array, b: Uint8Array): number {
  let count = 0
  for (let at = 0; at < a.length; at++) if (a[at] !== b[at]) count++
  return count
}

const digest = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex')

test('the same pixels in every transfer syntax are judged the same', async t => {
  const corpus = openCorpus(t)
  if (corpus === undefined) return
  const profile: Profile | undefined = presetProfile('basic')
  assert.ok(profile)
  const engine = new Deidentifier(profile, key)
  const names = ['DeflatedLE', 'ExplicitBE', 'J2K', 'J2K-Lossless', 'JPEG-LS-Lossless', 'JPEG-Lossless-SV1', 'RLE']
  for (const transferSyntax of names) {
    const file: CorpusFile | undefined = corpus.find(
      one => one.transferSyntax === transferSyntax && one.modality === 'MR' && !one.isMalformed,
    )
    if (file === undefined) continue
    const outcome = await engine.run(bufferSource(await file.bytes()), memorySpool)
    assert.equal(outcome.kind, 'done', file.name)
    if (outcome.kind === 'done') assert.ok((await datasetOf(outcome.output)).elements.length > 20)
  }
})

async function datasetOf(output: Parameters<typeof readPart10>[0]): Promise<Dataset> {
  return (await readPart10(output)).dataset
}
