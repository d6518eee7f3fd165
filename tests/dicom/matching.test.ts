import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { DicomJson } from '../../gateway/dicom/json.ts'
import { type TextRules, textPattern } from '../../gateway/dicom/match-text.ts'
import { matches, matchKeys } from '../../gateway/dicom/matching.ts'

test('a name of one component group is looked for in every group', () => {
  const name = (value: object): DicomJson => ({ '00100010': { vr: 'PN', Value: [{ ...value }] } })
  const stored = name({ Alphabetic: 'Yamada^Tarou', Ideographic: '山田^太郎', Phonetic: 'やまだ^たろう' })
  const isFound = (key: object): boolean => matches(matchKeys(name(key)), stored)

  assert.ok(isFound({ Alphabetic: '山田*' }))
  assert.ok(isFound({ Alphabetic: 'YAMADA^tarou' }))
  assert.ok(isFound({ Alphabetic: '*', Ideographic: '山田^太郎' }))
  assert.ok(!isFound({ Ideographic: 'Yamada*' }))
  assert.ok(!isFound({ Alphabetic: '山田', Ideographic: '山田^太郎' }))
  // Without a literal beginning no index can help; with one it must.
  const [key] = matchKeys(name({ Alphabetic: 'Yam*' }))
  assert.ok(key?.condition.kind === 'text')
  assert.equal(key.condition.patterns[0]?.literal, 'yam')
})

test('where a protocol asks for it, letters match in any case in every text but UIDs', () => {
  const isFound = (vr: 'LO' | 'UI', key: string, value: string): boolean =>
    textPattern(vr, key, { anyCase: true })?.matches(value) ?? true

  assert.ok(isFound('LO', 'THORAX*', 'Thorax nativ'))
  assert.ok(isFound('LO', 'schadel', 'Schädel'))
  assert.ok(!isFound('LO', 'schade', 'Schädel'))
  assert.ok(!isFound('UI', '1.2.A', '1.2.a'))
  assert.equal(textPattern('LO', '2026-A7', { anyCase: true })?.literal, '2026-')
  assert.equal(textPattern('LO', 'thorax')?.matches('THORAX'), false)
})

test('a fuzzy name has the beginnings of words in any order', () => {
  const isFound = (key: string, rules: TextRules = { fuzzyNames: true }): boolean =>
    textPattern('PN', key, rules)?.matches('Müller-Lüdenscheidt^Hans Jürgen') ?? true

  assert.ok(isFound('jürg müll'))
  assert.ok(isFound('Hans^MULLER'))
  assert.ok(isFound('muller*, h*'))
  assert.ok(!isFound('muller peter'))
  assert.ok(!isFound('jürg müll', {}))
})
