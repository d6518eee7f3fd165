/**
 * What independent programs say of the output: DCMTK reads it without a complaint, David Clunie's dciodvfy finds no error
 * that the source did not have, character sets are what they were. Whatever is not written is held with a reason. Pixels
 * are compared by `corpus.test.ts`.
 */
import assert from 'node:assert/strict'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { bufferSource } from '../../gateway/dicom/byte-source.ts'
import { stringsOf } from '../../gateway/dicom/dataset.ts'
import { readPart10 } from '../../gateway/dicom/part10-reader.ts'
import { Deidentifier, memorySpool } from '../../policy/deid/engine.ts'
import type { HoldCode } from '../../policy/deid/hold.ts'
import { basicWith, presetNames, presetProfile } from '../../policy/deid/presets.ts'
import { optionNames } from '../../policy/deid/tables.ts'
import { temporaryDir } from '../support/blobs.ts'
import { type CorpusFile, openCorpus } from '../support/corpus.ts'
import { missing, run } from '../support/dcmtk.ts'
import { assertReadable, testKey } from './support.ts'

const isSoak = process.env['HANSE_SOAK'] === '1'
/** Each run takes another share of the files, named in its report; HANSE_SEED repeats one. */
const shares = 120
const seed = Number(process.env['HANSE_SEED'] ?? Math.floor(Math.random() * shares))
const tried = [...presetNames.map(presetProfile), ...optionNames.map(basicWith)].filter(one => one !== undefined)

/** Reasons that say the engine does not know what it does. */
const never: ReadonlySet<HoldCode> = new Set(['internal', 'verification'])

for (const [place, profile] of tried.entries()) {
  test(`dcmdump and dciodvfy find nothing in what ${profile.name} writes`, {
    skip: missing('dcmdump', 'dciodvfy'),
  }, async t => {
    const corpus = openCorpus(t)
    if (corpus === undefined) return
    const folder = await temporaryDir(t)
    const engine = new Deidentifier(profile, testKey)
    const counts = new Map<string, number>()
    const written: string[] = []
    for (const [index, file] of corpus.entries()) {
      if (!isSoak && (index + place) % shares !== seed % shares) continue
      const bytes = await file.bytes()
      const outcome = await engine.run(bufferSource(bytes), memorySpool)
      const kind = outcome.kind === 'held' ? outcome.code : 'written'
      counts.set(kind, (counts.get(kind) ?? 0) + 1)
      if (outcome.kind === 'held') {
        assert.ok(!never.has(outcome.code), `${file.name}: ${outcome.reason} ${JSON.stringify(outcome.evidence)}`)
        assert.ok(outcome.reason.length > 10, file.name)
        continue
      }
      const path = join(folder, `${index}.dcm`)
      const output = await outcome.output.read(0, outcome.output.sizeBytes)
      await writeFile(path, output)
      written.push(path)
      const [from, to] = [await charsets(bytes), await charsets(output)]
      assert.deepEqual(to, from, `${file.name}: the character set`)
      assert.deepEqual(await newErrors(t, file, path), [], file.name)
    }
    await assertReadable(t, folder, written.length)
    t.diagnostic(`${profile.name}, share ${isSoak ? 'all' : seed}: ${JSON.stringify(Object.fromEntries(counts))}`)
  })
}

async function charsets(bytes: Uint8Array): Promise<readonly string[]> {
  return stringsOf((await readPart10(bufferSource(bytes))).dataset, 0x00080005)
}

/** Errors that dciodvfy finds in the output and did not find in the source, without the values that it quotes. */
async function newErrors(t: TestContext, source: CorpusFile, path: string): Promise<readonly string[]> {
  const [before, after] = await Promise.all([errors(t, source.path), errors(t, path)])
  const known = new Set(before)
  return [...new Set(after)].filter(error => !known.has(error))
}

async function errors(t: TestContext, path: string): Promise<readonly string[]> {
  const { output } = await run(t, 'dciodvfy', [path])
  return output
    .split('\n')
    .filter(line => line.startsWith('Error'))
    .map(line => line.replace(/ Value=<[^>]*>|\b\d+(?:\.\d+){2,}\b|(?<=UID )\d+$| = .*$/g, ''))
}
