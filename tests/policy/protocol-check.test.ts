import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { isGatewayError } from '../../gateway/errors.ts'
import { type ChosenStudy, checkProtocol, type SeriesFacts } from '../../policy/protocol-check.ts'
import { decodeTrialProtocol } from '../../policy/trial-protocol.ts'

const document = {
  ...{ sponsor: 'ACME', protocol: 'ABC-1', site: '017', endpoint: 'CRO', profile: 'trial' },
  visits: [
    {
      ...{ name: 'WEEK-4', day: 28, before: 3, after: 7 },
      series: [
        { name: 'CT chest', modality: 'CT', bodyPart: 'CHEST', sliceThickness: { max: 5 }, images: { min: 20 } },
        { name: 'Any CT', modality: 'CT' },
      ],
    },
    { name: 'EXTRA', series: [{ name: 'MR', modality: 'MR', description: 't2', count: 2 }] },
  ],
}
const [week4, extra] = decodeTrialProtocol(document).visits
assert.ok(week4 && extra)

const ct = (number: string, change: Partial<SeriesFacts> = {}): SeriesFacts => ({
  ...{ seriesInstanceUid: `1.2.${number}`, number, modality: 'CT', bodyPart: 'CHEST', images: 40 },
  ...{ sliceThickness: { min: 2.5, max: 2.5 }, ...change },
})
const study = (date: string | undefined, ...series: SeriesFacts[]): ChosenStudy => ({ date, series })

test('a study that is what the visit asks for has no finding, also at both ends of its window', () => {
  for (const date of ['20260126', '20260129', '20260205'])
    assert.deepEqual(checkProtocol(week4, '2026-01-01', [study(date, ct('1'), ct('2'))]), [])
})

test('a wide requirement does not take the series that only a narrow one can use', () => {
  const wideFirst = { ...week4, series: [...week4.series].reverse() }
  const chosen = [study('20260129', ct('1'), ct('2', { sliceThickness: { min: 8, max: 8 } }))]
  assert.deepEqual(checkProtocol(wideFirst, '2026-01-01', chosen), [])
})

test('each finding is a sentence with what is asked for and what is there', () => {
  const messages = (...args: Parameters<typeof checkProtocol>): string[] =>
    checkProtocol(...args).map(({ code, severity, message }) => `${severity} ${code}: ${message}`)

  assert.deepEqual(messages(week4, '2026-01-01', [study('20260310', ct('1'), ct('2'))]), [
    'deviation visit-window: Visit WEEK-4 is due from 2026-01-26 to 2026-02-05; the study is of 2026-03-10, 33 days too late.',
  ])
  assert.deepEqual(messages(week4, '2026-01-01', [study('20260125', ct('1'), ct('2'))]), [
    'deviation visit-window: Visit WEEK-4 is due from 2026-01-26 to 2026-02-05; the study is of 2026-01-25, 1 day too early.',
  ])
  assert.deepEqual(messages(week4, undefined, [study('20260129', ct('1'), ct('2'))]), [
    'deviation no-day-zero: Day 0 of the subject is not known, so that the window of visit WEEK-4 cannot be checked.',
  ])
  assert.deepEqual(messages(week4, '2026-01-01', [study(undefined, ct('1'), ct('2'))]), [
    'deviation no-study-date: A chosen study has no date, so that the window of visit WEEK-4 cannot be checked.',
  ])
  assert.deepEqual(messages(week4, '2026-01-01', [study('20260129', ct('1', { modality: 'MR' }))]), [
    'stop wrong-modality: Visit WEEK-4 asks for CT; the chosen studies have MR only. Is it the right study?',
  ])
  const thick = ct('3', { sliceThickness: { min: 5, max: 7.5 }, images: 12 })
  assert.deepEqual(messages(week4, '2026-01-01', [study('20260129', ct('2', { bodyPart: undefined }), thick)]), [
    'deviation series-missing: Visit WEEK-4 asks for 1 series "CT chest" (CT, CHEST, slices of at most 5 mm, at least 20 images); ' +
      'there is none: series 2 names no body part; series 3 has slices of 5 to 7.5 mm and has 12 images.',
  ])
  const mr = ct('7', { modality: 'MR', description: 'AX T2 FLAIR' })
  assert.deepEqual(messages(extra, undefined, [study(undefined, mr)]), [
    'deviation series-missing: Visit EXTRA asks for 2 series "MR" (MR, called "t2"); 1 of them missing.',
  ])
})

test('a protocol that cannot be meant is refused with everything that is wrong', () => {
  const twice = { ...document, visits: [document.visits[1], document.visits[1]], sponsor: 'a/b', secret: 1 }
  assert.throws(
    () => decodeTrialProtocol(twice),
    error => {
      assert.ok(isGatewayError(error, 'BAD_REQUEST'))
      assert.match(error.message, /secret: unknown field/)
      assert.match(error.message, /sponsor: expected a sponsor/)
      assert.match(error.message, /two visits are called EXTRA/)
      return true
    },
  )
  const range = { name: 'V', series: [{ name: 'CT', modality: 'CT', images: { min: 5, max: 2 } }] }
  assert.throws(() => decodeTrialProtocol({ ...document, visits: [range] }), /minimum that is not above the maximum/)
})

test('the example in the documents is a protocol', () => {
  const text = readFileSync(join(import.meta.dirname, '../../deploy/TRIALS.md'), 'utf8')
  const example: unknown = JSON.parse(/```json\n(.*?)```/s.exec(text)?.[1] ?? '')
  assert.deepEqual(
    decodeTrialProtocol(example).visits.map(({ name }) => name),
    ['BASELINE', 'WEEK-8', 'UNSCHEDULED'],
  )
})
