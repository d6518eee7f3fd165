import assert from 'node:assert/strict'
import { existsSync, readFileSync } from 'node:fs'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { isObject } from '../../gateway/decode.ts'
import { dictionaryLines } from '../../gateway/dicom/dictionary.data.ts'
import { tagOf } from '../../gateway/dicom/tag.ts'
import { isBulkVr, isVr } from '../../gateway/dicom/vr.ts'
import { ActionTable } from '../../policy/deid/action.ts'
import { basicWith, presetProfile } from '../../policy/deid/presets.ts'
import { decodeProfile } from '../../policy/deid/profile.ts'
import { conceptRowOf, rowOf, safePrivateVrs, tagsWithRow } from '../../policy/deid/tables.ts'
import { renderProfileData, renderSignatures, sourceFiles } from '../../scripts/generate-deid-tables.ts'

const standards = process.env['HANSE_STANDARDS'] ?? fileURLToPath(new URL('../../../shared/standards', import.meta.url))
const generated = (name: string): string => readFileSync(new URL(`../../policy/deid/${name}`, import.meta.url), 'utf8')
const ct = '1.2.840.10008.5.1.4.1.1.2'

test('the generated tables are what their sources give', t => {
  if (!existsSync(standards)) return t.skip('no standards folder beside the project; set HANSE_STANDARDS')
  const load = (name: keyof typeof sourceFiles): string => readFileSync(`${standards}/${sourceFiles[name]}`, 'utf8')

  assert.equal(
    generated('profile.data.ts'),
    renderProfileData({
      attributes: load('attributes'),
      safePrivate: load('safePrivate'),
      concepts: load('concepts'),
      methods: load('methods'),
      signatures: load('signatures'),
    }),
  )
  assert.equal(generated('burned-in.data.ts'), renderSignatures(load('signatures')))
})

test('every row of Table E.1-1 is found with its code and options', t => {
  if (!existsSync(standards)) return t.skip('no standards folder beside the project; set HANSE_STANDARDS')
  const source: unknown = JSON.parse(readFileSync(`${standards}/${sourceFiles.attributes}`, 'utf8'))
  assert.ok(isObject(source) && Array.isArray(source['rows']))

  for (const row of source['rows']) {
    const key = String(row.key)
    if (key === 'private') continue
    const found = rowOf(Number.parseInt(key.replaceAll('x', '0'), 16))
    assert.equal(found?.basic, row.basicProfile, key)
    assert.deepEqual(found?.options, row.options, key)
  }
  assert.equal(tagsWithRow().length, 653)
})

test('repeating groups, concepts and safe private attributes are found', () => {
  assert.equal(rowOf(0x50123000)?.basic, 'X')
  assert.equal(rowOf(0x601e4000)?.basic, 'X')
  assert.equal(rowOf(0x60000010), undefined)
  assert.equal(conceptRowOf('DCM', '121022')?.valueType, 'TEXT')
  assert.deepEqual(safePrivateVrs('GEMS_ACQU_01', 0x00191223), ['DS'])
  assert.deepEqual(safePrivateVrs('Philips Imaging DD 001', 0x2001110a), ['IS'])
  assert.equal(safePrivateVrs('GEMS_ACQU_02', 0x00191223), undefined)
})

const actionOf = (profile: Parameters<typeof decodeProfile>[0], keyword: string, vr: string): string => {
  const table = new ActionTable(decodeProfile(profile))
  return table.decide(tagOf(keyword) ?? 0, isVr(vr) ? vr : 'UN', ct).action
}
const base = { format: 'hanse-deid-1', name: 'x', basis: 'consent' }
const withOptions = (...options: string[]) => ({ ...base, options })

test('an option goes before the basic profile, a modified date before the device it belongs to', () => {
  assert.equal(actionOf(base, 'PatientSex', 'CS'), 'empty')
  assert.equal(actionOf(withOptions('retainPatientCharacteristics'), 'PatientSex', 'CS'), 'echo')
  assert.equal(actionOf(base, 'StudyInstanceUID', 'UI'), 'uid')
  assert.equal(actionOf(withOptions('retainUIDs'), 'StudyInstanceUID', 'UI'), 'keep')
  assert.equal(actionOf(base, 'StudyDescription', 'LO'), 'remove')
  assert.equal(actionOf(withOptions('cleanDescriptors'), 'StudyDescription', 'LO'), 'clean')
  assert.equal(actionOf(withOptions('retainDeviceIdentity'), 'DateOfLastDetectorCalibration', 'DA'), 'keep')
  assert.equal(
    actionOf(
      withOptions('retainDeviceIdentity', 'retainLongitudinalModifiedDates'),
      'DateOfLastDetectorCalibration',
      'DA',
    ),
    'shift',
  )
})

test('compound codes keep the IOD valid where the type is not known, and remove where it is', () => {
  assert.equal(actionOf(base, 'SeriesDate', 'DA'), 'remove')
  const table = new ActionTable(decodeProfile(base))
  assert.equal(table.decide(0x00080021, 'DA', '1.2.840.10008.5.1.4.1.1.128').action, 'dummy')
  assert.equal(table.decide(0x00080021, 'DA', '1.2.840.10008.5.1.4.1.1.2.1').action, 'dummy')
  assert.equal(table.decide(0x00081140, 'SQ', ct).action, 'enter')
})

test('without a row, what can hold a name, a date or an address is not kept', () => {
  const expected: readonly (readonly [string, string, string])[] = [
    ['PatientBirthDateInAlternativeCalendar', 'LO', 'remove'],
    ['EvaluatorName', 'PN', 'empty'],
    ['SecondaryReviewDate', 'DA', 'empty'],
    ['RetrieveURL', 'UR', 'remove'],
    ['SegmentLabel', 'LO', 'dummy'],
    ['Manufacturer', 'LO', 'echo'],
    ['RecordKey', 'OB', 'remove'],
    ['WaveformData', 'OW', 'keep'],
    ['SOPInstanceUIDOfConcatenationSource', 'UI', 'uid'],
  ]
  for (const [keyword, vr, action] of expected) assert.equal(actionOf(base, keyword, vr), action, keyword)
})

test('every attribute of the dictionary has an action under every profile', () => {
  const profiles = ['basic', 'trial', 'teaching', 'safe-harbor'].map(presetProfile)
  for (const profile of profiles) {
    assert.ok(profile)
    const table = new ActionTable(profile)
    for (const line of dictionaryLines.split('\n')) {
      const [tag = '', , vrs = ''] = line.split(' ')
      for (const vr of vrs.split('|').filter(isVr)) {
        const { action, because } = table.decide(Number.parseInt(tag.replaceAll('x', '0'), 16), vr, ct)
        assert.ok(because.length > 0)
        if (isBulkVr(vr)) assert.notEqual(action, 'clean')
        if (vr === 'SQ') assert.ok(['enter', 'remove', 'empty', 'dummy'].includes(action), `${tag} ${action}`)
      }
    }
  }
})

test('a profile with contradictions is refused with all of them', () => {
  const document = {
    ...base,
    basis: 'safe-harbor',
    options: ['retainLongitudinalFullDates', 'retainLongitudinalModifiedDates', 'retainUIDs'],
    overrides: [{ attribute: 'SOPInstanceUID', action: 'keep', justification: 'because I want to' }],
  }

  assert.throws(() => decodeProfile(document), /exclude each other.*no full dates.*retainUIDs.*engine itself/s)
  assert.throws(
    () => decodeProfile({ ...base, options: ['x'], overrides: [{ attribute: 'Nope', action: 'keep' }] }),
    /options\[0\].*overrides\[0\]\.attribute.*overrides\[0\]\.justification/s,
  )
  assert.ok(basicWith('cleanGraphics'))
  assert.equal(presetProfile('toString'), undefined)
})
