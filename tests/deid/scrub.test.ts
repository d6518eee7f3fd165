import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { shiftDate, shiftDateTime } from '../../policy/deid/dates.ts'
import { fold, type Identifiers, noIdentifiers } from '../../policy/deid/identifiers.ts'
import { presetProfile } from '../../policy/deid/presets.ts'
import { Scrubber } from '../../policy/deid/scrub.ts'
import { buildInstance } from '../support/dicom-builder.ts'
import { deepStrings, deidentified, testProfile } from './support.ts'

const trial = presetProfile('trial') ?? testProfile()
const scrubber = (names: string[], ids: string[] = [], birthDates: string[] = []): Scrubber => {
  const identifiers: Identifiers = noIdentifiers()
  for (const name of names) identifiers.names.add(fold(name))
  for (const id of ids) identifiers.ids.add(fold(id))
  for (const date of birthDates) identifiers.birthDates.add(date)
  return new Scrubber(identifiers, { dates: 'removed' })
}

test('a name is found in any case, with or without accents, glued, abbreviated by punctuation', () => {
  const one = scrubber(['Müller', 'Anneliese', 'Müller-Anneliese'])
  for (const text of ['MULLER chest', 'mueller? no: Müller', 'CHEST_Müller_2', 'AnnelieseMuller CT', 'xMULLERx'])
    assert.doesNotMatch(fold(one.scrub(text, 'echo')), /muller|anneliese/, text)
  assert.equal(one.scrub('T1 MPRAGE sag', 'echo'), 'T1 MPRAGE sag')
})

test('an ID is removed as a whole only', () => {
  const one = scrubber([], ['4711', 'AB-12/3'])
  assert.equal(one.scrub('scan 4711 done', 'echo'), 'scan done')
  assert.equal(one.scrub('scan 47110', 'echo'), 'scan 47110')
  assert.equal(one.scrub('for ab-12/3.', 'echo'), 'for .')
})

test('a birth date is removed in the forms people write', () => {
  const one = scrubber([], [], ['19700402'])
  for (const date of ['19700402', '02.04.1970', '2.4.70', '04/02/1970', '1970-04-02', '02041970'])
    assert.equal(one.scrub(`born ${date} x`, 'echo'), 'born x', date)
})

test('descriptions lose what looks like a person, a date, a number or an address, and keep what was examined', () => {
  const one = scrubber([])
  const kept = [
    'CT CHEST W/O CONTRAST 5.0 B30f',
    'MR BRAIN T2 FLAIR 3D',
    'Thorax 120 kV 1.5 mm',
    'Follow-up 6 months',
    'Head^Routine',
    'G1.2e#1.60-0.10',
  ]
  for (const text of kept) assert.equal(one.scrub(text, 'clean'), text)
  const removed: readonly (readonly [string, RegExp])[] = [
    ['CHEST Dr. Hans Sauer', /Sauer|Hans/],
    ['seen 12/03/2024', /2024/],
    ['on 3 Mar 2024', /2024/],
    ['MRN: 12345678', /1234/],
    ['call +49 89 1234 5678', /1234/],
    ['mail a.b@example.org', /example/],
    ['DOE^JOHN', /DOE|JOHN/],
    ['read by Jane Roe', /Roe/],
    ['see 1.2.840.113619.2.55.3.1', /113619/],
  ]
  for (const [text, pattern] of removed) assert.doesNotMatch(one.scrub(text, 'clean'), pattern, text)
})

test('no name survives in any text that holds it', () => {
  const name = fc.stringMatching(/^[A-Za-zÀ-ÖØ-öø-ÿ]{3,12}$/)
  const around = fc.stringMatching(/^[ ,.;:/()_-]{1,3}$/)
  fc.assert(
    fc.property(
      name,
      fc.string({ maxLength: 20 }),
      around,
      fc.string({ maxLength: 20 }),
      (word, before, gap, after) => {
        const scrubbed = scrubber([word]).scrub(`${before}${gap}${word}${gap}${after}`, 'echo')
        const words = fold(scrubbed).split(/[^\p{L}\p{N}]+/u)
        assert.ok(!words.includes(fold(word)))
      },
    ),
    { numRuns: 500 },
  )
})

test('names are found in Japanese, Korean, Chinese and Cyrillic text of the instance’s own character set', async () => {
  const cases: readonly (readonly [string | string[], string, string])[] = [
    [['', 'ISO 2022 IR 87'], 'Yamada^Tarou=山田^太郎=やまだ^たろう', '胸部 山田太郎 CT'],
    [['', 'ISO 2022 IR 149'], 'Hong^Gildong=洪^吉洞=홍^길동', '흉부 홍길동'],
    ['GB18030', 'Wang^XiaoDong=王^小东=', '胸部 王小东'],
    ['ISO_IR 192', 'Люкceмбypг^Анна', 'ОГК Люкceмбypг'],
    ['ISO_IR 144', 'Люкceмбypг', 'голова ЛЮКCEМБYPГ'],
  ]
  for (const [charset, patientName, description] of cases) {
    const { bytes } = buildInstance({
      charset,
      patientName,
      extra: [{ tag: 0x0008103e, vr: 'LO', value: description }],
    })
    const output = await deidentified(bytes, trial)

    const [text = ''] = deepStrings(output.dataset, 'SeriesDescription')
    assert.doesNotMatch(text, /山田|太郎|홍길동|길동|王小东|小东|Люк|ЛЮК/, description)
    assert.equal(output.text('SpecificCharacterSet') ?? '', Array.isArray(charset) ? '' : charset)
  }
})

test('the patient’s name goes from every place it was typed into, whatever the profile keeps there', async () => {
  const { bytes } = buildInstance({
    patientName: 'Obermayer^Josefine',
    patientId: 'MRN-998877',
    extra: [
      { tag: 0x0008103e, vr: 'LO', value: 'THORAX Obermayer 998877 MRN-998877' },
      { tag: 0x00080070, vr: 'LO', value: 'Siemens (Josefine)' },
      { tag: 0x00180015, vr: 'CS', value: 'OBERMAYER' },
      { tag: 0x00181020, vr: 'LO', value: ['VB10', 'obermayer_josefine'] },
      { tag: 0x00321064, items: [[{ tag: 0x00080104, vr: 'LO', value: 'CT of Ms. Obermayer' }]] },
      { tag: 0x00190010, vr: 'LO', value: 'GEMS_ACQU_01' },
      { tag: 0x00191023, vr: 'DS', value: '5' },
    ],
  })
  const output = await deidentified(bytes, trial)

  assert.doesNotMatch(Buffer.from(output.bytes).toString('latin1'), /obermayer|josefine|998877/i)
  assert.match(output.text('SeriesDescription') ?? '', /THORAX/)
})

test('names and numbers written in one word are found too', async () => {
  const { bytes } = buildInstance({
    patientName: "O'Brien^Una",
    patientId: '12-345-678',
    extra: [
      { tag: 0x00181020, vr: 'LO', value: ['V1 OBRIEN', 'UOBRIEN', 'obrienuna', '12345678', 'unaobrien'] },
      { tag: 0x0008103e, vr: 'LO', value: 'Thorax obrienu' },
    ],
  })
  const output = await deidentified(bytes, trial)

  assert.doesNotMatch(Buffer.from(output.bytes).toString('latin1'), /obrien|12345678/i)
})

test('dates move by whole days, in all precisions, and what is no date has none', () => {
  assert.equal(shiftDate('20240229', -366), '20230228')
  assert.equal(shiftDate('2024.03.01', -1), '2024.02.29')
  assert.equal(shiftDate('20230229', -1), undefined)
  assert.equal(shiftDate('00010101', -1), undefined)
  assert.equal(shiftDate('99991231', -1), undefined)
  assert.equal(shiftDateTime('2024', -400), '2023')
  assert.equal(shiftDateTime('202401', -31), '202312')
  assert.equal(shiftDateTime('20240101235959.999999-0500', -1), '20231231235959.999999-0500')
  assert.equal(shiftDateTime('yesterday', -1), undefined)
  fc.assert(
    fc.property(fc.integer({ min: -200_000, max: 20_000 }), fc.integer({ min: -3650, max: -1 }), (day, offset) => {
      const date = new Date(day * 86_400_000).toISOString().slice(0, 10).replaceAll('-', '')
      const moved = shiftDate(date, offset)
      assert.equal(moved && shiftDate(moved, -offset), date)
    }),
  )
})
