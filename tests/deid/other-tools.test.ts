/**
 * The marker file through the tools that people use today, as a table next to ours. Their numbers are reported and only
 * loosely asserted, since they depend on the installed releases; ours is none.
 */
import assert from 'node:assert/strict'
import { copyFile, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { presetProfile } from '../../policy/deid/presets.ts'
import { temporaryDir } from '../support/blobs.ts'
import { missing, run, runOk } from '../support/dcmtk.ts'
import { foundMarkers, markerFile, type Plant } from './marker-file.ts'
import { deidentified } from './support.ts'

/** Attributes that name somebody whatever the profile: names, private ones, texts of the patient's and visit's groups. */
function identifies({ tag, vr }: Plant): boolean {
  if (tag === patientSpecies) return false
  if (vr === 'PN' || (tag >>> 16) % 2 === 1) return true
  return [0x0010, 0x0038].includes(tag >>> 16) && ['LO', 'LT', 'ST', 'SH', 'UT'].includes(vr)
}

/** Patient Species Description: what kind of animal. */
const patientSpecies = 0x00102201

/** What a careful script empties, and where. */
const emptied = ['0010,0010', '0010,0020', '0010,0030', '0008,0050', '0008,0080', '0008,0081', '0008,0090', '0010,1040']

/** Its Basic Profile refuses a data set with Encrypted Attributes, so attributes are named to it as to dcmodify. */
async function gdcmanon(t: TestContext, source: string, folder: string): Promise<Uint8Array> {
  const target = join(folder, 'gdcmanon.dcm')
  await runOk(t, 'gdcmanon', ['--dumb', ...emptied.flatMap(tag => ['--empty', tag]), source, target])
  return await readFile(target)
}

async function dcmodify(t: TestContext, source: string, folder: string): Promise<Uint8Array> {
  const target = join(folder, 'dcmodify.dcm')
  await copyFile(source, target)
  const flags = ['-nb', '-imt', '-gst', '-gse', '-gin', '-ep']
  await run(t, 'dcmodify', [...flags, ...emptied.flatMap(tag => ['-ma', `(${tag})=`]), target])
  return await readFile(target)
}

test('no marker that identifies is left by Hanse, next to what gdcmanon and dcmodify leave', {
  skip: missing('gdcmanon', 'dcmodify'),
}, async t => {
  const { bytes, plants } = markerFile('1.2.840.10008.1.2.1')
  const folder = await temporaryDir(t)
  const source = join(folder, 'source.dcm')
  await writeFile(source, bytes)
  const basic = presetProfile('basic')
  assert.ok(basic)
  const count = (output: Uint8Array): number =>
    [...foundMarkers(output)].filter(number => {
      const plant = plants.get(number)
      return plant !== undefined && identifies(plant)
    }).length

  const left = {
    source: count(bytes),
    gdcmanon: count(await gdcmanon(t, source, folder)),
    dcmodify: count(await dcmodify(t, source, folder)),
    hanse: count((await deidentified(bytes, basic)).bytes),
  }

  t.diagnostic(`identifying markers left: ${JSON.stringify(left)}`)
  assert.equal(left.hanse, 0)
  assert.ok(left.source > 200, 'the markers are there')
  assert.ok(left.dcmodify > 0 && left.gdcmanon > 0, 'otherwise the comparison says nothing')
})
