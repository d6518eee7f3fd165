import assert from 'node:assert/strict'
import { test } from 'node:test'
import { inflateRawSync } from 'node:zlib'
import { bufferSource } from '../../gateway/dicom/byte-source.ts'
import { entryOf } from '../../gateway/dicom/dictionary.ts'
import { findLayout } from '../../gateway/dicom/part10-layout.ts'
import { formatTag, isPrivateTag } from '../../gateway/dicom/tag.ts'
import { Deidentifier, memorySpool } from '../../policy/deid/engine.ts'
import { basicWith, presetProfile } from '../../policy/deid/presets.ts'
import type { Profile } from '../../policy/deid/profile.ts'
import { retainedBulk, retainedText } from '../../policy/deid/retained.ts'
import { optionNames, rowOf } from '../../policy/deid/tables.ts'
import { foundMarkers, markerFile, type Plant } from './marker-file.ts'

const key = new Uint8Array(32).fill(9)
const isSoak = process.env['HANSE_SOAK'] === '1'
const syntaxes = [
  '1.2.840.10008.1.2',
  ...(isSoak ? ['1.2.840.10008.1.2.1', '1.2.840.10008.1.2.1.99'] : []),
  '1.2.840.10008.1.2.2',
]

/** What the profile keeps, said without the engine: options by the table, and without a row what cannot name anybody. */
function mayStay({ tag, vr }: Plant, profile: Profile): boolean {
  const entry = entryOf(tag)
  if (isPrivateTag(tag) || entry === undefined || tag < 0x00080000) return false
  if ([0x50, 0x60].includes(tag >>> 24)) return false
  const row = rowOf(tag)
  if (row !== undefined) return profile.options.some(option => option in row.options) || row.basic === 'X/Z/U*'
  if (['PN', 'DA', 'DT', 'TM', 'AE', 'UR', 'UI'].includes(vr))
    return (
      retainedText.has(tag) ||
      (vr === 'UI' && profile.options.includes('retainUIDs')) ||
      (['DT', 'TM'].includes(vr) && profile.options.some(option => option.startsWith('retainLong')))
    )
  if (['LO', 'ST', 'LT', 'UT', 'UC'].includes(vr))
    return retainedText.has(tag) || profile.options.includes('cleanDescriptors')
  if (vr.startsWith('O') || vr === 'UN') return retainedBulk.has(tag)
  return true
}

async function leaks(transferSyntaxUid: string, profile: Profile): Promise<{ leaked: string[]; kept: number }> {
  const { bytes, plants } = markerFile(transferSyntaxUid)
  // Words of big endian are swapped, and a marker in them with them.
  assert.ok(foundMarkers(await inflated(bytes)).size > plants.size * 0.9)
  const outcome = await new Deidentifier(profile, key).run(bufferSource(bytes), memorySpool)
  assert.ok(
    outcome.kind === 'done',
    outcome.kind === 'held' ? `${outcome.reason} ${JSON.stringify(outcome.evidence)}` : '',
  )
  const found = foundMarkers(await inflated(await outcome.output.read(0, outcome.output.sizeBytes)))
  const leaked = [...found]
    .map(number => plants.get(number))
    .filter(plant => plant !== undefined && !mayStay(plant, profile))
    .map(plant => plant && `${formatTag(plant.tag)} ${plant.vr} ${plant.depth}`)
  return { leaked: leaked.map(String), kept: found.size }
}

async function inflated(bytes: Uint8Array): Promise<Uint8Array> {
  const { isDeflated, datasetOffset } = await findLayout(bufferSource(bytes))
  return isDeflated
    ? Buffer.concat([bytes.subarray(0, datasetOffset), inflateRawSync(bytes.subarray(datasetOffset))])
    : bytes
}

const basic = presetProfile('basic')
const options = isSoak ? optionNames : []
const profiles = [presetProfile('trial'), ...options.map(basicWith)].filter(profile => profile !== undefined)

for (const syntax of syntaxes) {
  test(`no marker of any attribute at any depth stays under the basic profile (${syntax})`, async () => {
    assert.ok(basic)
    const { leaked, kept } = await leaks(syntax, basic)

    assert.deepEqual(leaked, [])
    assert.ok(kept > 1000, `${kept} markers kept: attributes that say nothing of the patient stay`)
  })
}

for (const profile of profiles) {
  test(`only what ${profile.name} keeps stays`, async () => {
    const { leaked } = await leaks('1.2.840.10008.1.2.1', profile)

    assert.deepEqual(leaked, [])
  })
}
