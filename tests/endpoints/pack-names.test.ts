import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { csvCell } from '../../endpoints/pack/manifest.ts'
import {
  type DeliveryFields,
  deliveryFolder,
  type NameRules,
  nameRules,
  type PackageFields,
  packageName,
  refuseCollisions,
} from '../../endpoints/pack/names.ts'
import { decode } from '../../gateway/decode.ts'
import { isGatewayError } from '../../gateway/errors.ts'

const rulesOf = (raw: object): NameRules => {
  const found = decode(nameRules, raw)
  assert.ok(found.ok, JSON.stringify(found))
  return found.value
}
const own: PackageFields = { unit: 'series', number: 2, study: 1, series: 2, modality: 'CT', uid: '1.2.3' }

test('a template becomes a folder, and the name of each package', () => {
  const fields = { protocol: 'ABC-123', site: '07', subject: 'Müller ß', visit: 'Baseline 1', date: '20260304' }
  const template = '{protocol}/site{site}/{subject}/{visit}/{date}_{modality}_{number}'

  const rules = rulesOf({ template })
  const lower = rulesOf({ template, case: 'lower', charset: 'words', padding: 1 })
  const bare = rulesOf({ template, case: 'upper', charset: 'words', padding: 6 })

  assert.equal(deliveryFolder(rules, fields), 'ABC-123/site07/Muller__/Baseline_1')
  assert.equal(packageName(rules, { ...fields, ...own }, '.zip'), '20260304_CT_002')
  assert.equal(deliveryFolder(lower, fields), 'abc_123/site07/muller__/baseline_1')
  assert.equal(packageName(lower, { ...fields, ...own }, '.zip'), '20260304_ct_2')
  assert.equal(packageName(bare, { ...fields, ...own }, '.zip'), '20260304_CT_000002')
  assert.equal(deliveryFolder(rulesOf({}), fields), '')
  assert.equal(packageName(rulesOf({}), { ...fields, ...own }, '.zip'), 'series002')
})

test('a template that cannot work is refused when it is set', () => {
  for (const template of [
    '{patient}/',
    '{protocol',
    '/{protocol}/',
    '{protocol}//{site}/',
    '../{protocol}/',
    './',
    '{number}/',
    '{Protocol}/',
    'a b/',
    '{protocol}\\{site}/',
    '{protocol}:/',
    'a\u0000/',
    '{}/',
    'x/'.repeat(30),
  ]) {
    assert.equal(decode(nameRules, { template }).ok, false, template)
  }
  assert.equal(decode(nameRules, { template: '{site}_{visit}/', charset: 'alphanumeric' }).ok, false)
})

test('a delivery without a field of the template, or with too long a name, is refused', () => {
  const isRefused = (error: unknown): boolean => isGatewayError(error, 'BAD_REQUEST')
  const rules = rulesOf({ template: '{subject}/{visit}/{subject}', maxLength: 24 })

  assert.throws(() => deliveryFolder(rules, { subject: 'A' }), /\{visit\}/)
  assert.throws(() => deliveryFolder(rules, { subject: 'A', visit: 'x'.repeat(25) }), isRefused)
  assert.throws(() => deliveryFolder(rules, { subject: '///', visit: '..' }), isRefused)
  assert.throws(() => packageName(rules, { ...own, subject: 'x'.repeat(20) }, '.zip.age'), isRefused)
  assert.equal(packageName(rules, { ...own, subject: 'x'.repeat(16) }, '.zip.age').length, 16)
})

test('names that are the same but for case collide', () => {
  assert.doesNotThrow(() => refuseCollisions(['a', 'b']))
  assert.throws(
    () => refuseCollisions(['Ab.zip', 'aB.zip']),
    error => isGatewayError(error, 'BAD_REQUEST'),
  )
})

test('whatever the values, names stay in their folder and within what the endpoint allows', () => {
  const text = fc.oneof(
    fc.string({ unit: 'binary', maxLength: 40 }),
    fc.string({ unit: 'grapheme', maxLength: 20 }),
    fc.constantFrom('..', '.', '/', '\\', 'CON', 'con.txt', 'LPT1', '-rf', '=1+1', '@x', '~', 'a/../b', '\u202egpj'),
  )
  const allowed = { portable: /^[A-Za-z0-9._-]+$/, words: /^[A-Za-z0-9_]+$/, alphanumeric: /^[A-Za-z0-9]+$/ }
  const rules = fc.record({
    charset: fc.constantFrom('portable', 'words', 'alphanumeric'),
    case: fc.constantFrom('keep', 'upper', 'lower'),
    maxLength: fc.integer({ min: 24, max: 60 }),
  })
  fc.assert(
    fc.property(rules, text, text, (some, subject, visit) => {
      const decoded = rulesOf({ ...some, template: '{subject}/{visit}{subject}/{visit}' })
      const fields: DeliveryFields = { subject, visit }
      let names: string[]
      try {
        const last = packageName(decoded, { ...own, ...fields }, '.zip')
        names = [...deliveryFolder(decoded, fields).split('/'), last]
      } catch (error) {
        assert.ok(isGatewayError(error, 'BAD_REQUEST'))
        assert.equal(subject.length > 3 && error.message.includes(subject), false)
        return
      }
      assert.equal(names.length, 3)
      for (const name of names) {
        assert.match(name, allowed[decoded.charset])
        assert.ok(name.length <= decoded.maxLength)
        assert.doesNotMatch(name, /^[.\-=+@~]|\.\.|\.$|^(con|prn|aux|nul|com\d|lpt\d)(\.|$)/i)
        if (decoded.case === 'upper') assert.equal(name, name.toUpperCase())
        if (decoded.case === 'lower') assert.equal(name, name.toLowerCase())
      }
    }),
    { numRuns: 1000, seed: 6 },
  )
})

test('no cell of a table is taken for a formula', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'binary', maxLength: 20 }), value => {
      const cell = csvCell(value)
      assert.doesNotMatch(cell, /^"?[=+\-@\t\r]/)
      if (!cell.startsWith('"')) assert.doesNotMatch(cell, /[",\r\n]/)
    }),
    { seed: 6 },
  )
  assert.equal(csvCell('=HYPERLINK("x")'), `"'=HYPERLINK(""x"")"`)
  assert.equal(csvCell('1.2.840'), '1.2.840')
})
