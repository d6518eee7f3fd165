import assert from 'node:assert/strict'
import { existsSync, readFileSync } from 'node:fs'
import { test } from 'node:test'
import { entryOf } from '../../gateway/dicom/dictionary.ts'
import { formatTag, isPrivateTag, keywordOf, parseTag, tagOf } from '../../gateway/dicom/tag.ts'
import { renderDictionary } from '../../scripts/generate-dictionary.ts'

test('the generated dictionary is what its source gives', t => {
  const source = new URL('../../../shared/standards/ps3.6-data-dictionary.json', import.meta.url)
  const folder = process.env['HANSE_STANDARDS']
  const path = folder === undefined ? source : `${folder}/ps3.6-data-dictionary.json`
  if (!existsSync(path)) return t.skip('no standards folder beside the project; set HANSE_STANDARDS')

  const generated = readFileSync(new URL('../../gateway/dicom/dictionary.data.ts', import.meta.url), 'utf8')

  assert.equal(generated, renderDictionary(readFileSync(path, 'utf8')))
})

test('tags and keywords find each other', () => {
  assert.equal(tagOf('PatientName'), 0x00100010)
  assert.equal(keywordOf(0x7fe00010), 'PixelData')
  assert.equal(tagOf('NoSuchKeyword'), undefined)
  assert.equal(keywordOf(0x00091001), undefined)
})

test('repeating groups are known for even groups only', () => {
  assert.equal(keywordOf(0x60000010), 'OverlayRows')
  assert.equal(keywordOf(0x601e3000), 'OverlayData')
  assert.equal(keywordOf(0x60010010), undefined)
  assert.equal(keywordOf(0x00203105), 'SourceImageIDs')
})

test('attributes of several VRs list all of them', () => {
  assert.deepEqual(entryOf(0x00280106)?.vrs, ['US', 'SS'])
  assert.deepEqual(entryOf(0x7fe00010)?.vrs, ['OB', 'OW'])
})

test('tags are written and read as eight hex digits', () => {
  assert.equal(formatTag(0x0008103e), '0008103E')
  assert.equal(parseTag('(0008,103e)'), 0x0008103e)
  assert.equal(parseTag('0008103E'), 0x0008103e)
  assert.equal(parseTag('8103E'), undefined)
  assert.ok(isPrivateTag(0x00091001))
})
