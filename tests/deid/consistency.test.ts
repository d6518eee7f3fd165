import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { NewElement } from '../../gateway/dicom/part10-writer.ts'
import { presetProfile } from '../../policy/deid/presets.ts'
import { buildInstance, seededUid } from '../support/dicom-builder.ts'
import { deepStrings, deidentified, testProfile } from './support.ts'

const trial = presetProfile('trial') ?? testProfile()
const shifted = testProfile({ options: ['retainLongitudinalModifiedDates', 'cleanStructuredContent'] })
const days = (a: string, b: string): number =>
  (Date.parse(`${a.slice(0, 4)}-${a.slice(4, 6)}-${a.slice(6)}`) -
    Date.parse(`${b.slice(0, 4)}-${b.slice(4, 6)}-${b.slice(6)}`)) /
  86_400_000

test('the same instance twice to one recipient is the same bytes, to two recipients nothing in common', async () => {
  const { bytes } = buildInstance({ seed: 3 })

  const first = await deidentified(bytes, trial)
  const again = await deidentified(bytes, trial)
  const other = await deidentified(bytes, trial, { key: new Uint8Array(32).fill(6) })

  assert.deepEqual(first.bytes, again.bytes)
  for (const keyword of ['SOPInstanceUID', 'StudyInstanceUID', 'SeriesInstanceUID', 'PatientID', 'StudyDate']) {
    assert.ok(first.text(keyword))
    assert.notEqual(first.text(keyword), other.text(keyword), keyword)
  }
})

test('two studies of a patient a year apart stay 365 days apart, late objects refer to what was sent', async () => {
  const extra = (date: string): readonly NewElement[] => [
    { tag: 0x00080020, value: date },
    { tag: 0x0008002a, vr: 'DT', value: `${date}101500.25+0100` },
  ]
  const [first, second] = [
    buildInstance({ seed: 1, patientId: 'SAME', extra: extra('20240229') }),
    buildInstance({ seed: 2, patientId: 'SAME', extra: extra('20250228') }),
  ]
  const reference = (uid: string): NewElement => ({
    tag: 0x00081199,
    items: [
      [
        { tag: 0x00081150, value: '1.2.840.10008.5.1.4.1.1.2' },
        { tag: 0x00081155, value: uid },
      ],
    ],
  })
  // A structure set whose "instance" is a study, as senders write it, and a report.
  const late = buildInstance({
    seed: 4,
    patientId: 'SAME',
    sopClassUid: '1.2.840.10008.5.1.4.1.1.88.22',
    studyInstanceUid: first.studyInstanceUid,
    extra: [
      {
        tag: 0x0040a730,
        items: [
          [
            { tag: 0x0040a010, value: 'CONTAINS' },
            { tag: 0x0040a040, value: 'IMAGE' },
            reference(first.sopInstanceUid),
          ],
          [
            { tag: 0x0040a010, value: 'CONTAINS' },
            { tag: 0x0040a040, value: 'COMPOSITE' },
            reference(first.studyInstanceUid),
          ],
        ],
      },
    ],
  })

  const [a, b, c] = await Promise.all([first, second, late].map(({ bytes }) => deidentified(bytes, shifted)))

  assert.ok(a && b && c)
  assert.equal(days(b.text('StudyDate') ?? '', a.text('StudyDate') ?? ''), 365)
  assert.match(a.text('AcquisitionDateTime') ?? '', new RegExp(`^${a.text('StudyDate')}101500\\.25\\+0100$`))
  assert.ok(days('20240229', a.text('StudyDate') ?? '') > 0, 'dates move into the past')
  assert.equal(a.text('PatientID'), b.text('PatientID'))
  assert.deepEqual(deepStrings(c.dataset, 'ReferencedSOPInstanceUID'), [
    a.text('SOPInstanceUID'),
    a.text('StudyInstanceUID'),
  ])
  assert.deepEqual(deepStrings(c.dataset, 'ReferencedSOPClassUID'), Array(2).fill('1.2.840.10008.5.1.4.1.1.2'))
})

test('the same ID of two issuers is two subjects', async () => {
  const of = (issuer: string) =>
    buildInstance({ patientId: '12345', extra: [{ tag: 0x00100021, vr: 'LO', value: issuer }] }).bytes
  const [a, b] = await Promise.all([deidentified(of('HOSPITAL A'), trial), deidentified(of('HOSPITAL B'), trial)])

  assert.notEqual(a.text('PatientID'), b.text('PatientID'))
  assert.notEqual(a.text('StudyDate'), b.text('StudyDate'))
})

test('every UID is a valid one of at most 44 characters, multi-valued ones value by value, registered ones as they were', async () => {
  const relatedClass = '1.2.840.10008.5.1.4.1.1.4'
  const { bytes } = buildInstance({
    extra: [
      { tag: 0x00083010, vr: 'UI', value: [seededUid('event', 1), seededUid('event', 2), relatedClass] },
      { tag: 0x0008001a, vr: 'UI', value: relatedClass },
    ],
  })
  const output = await deidentified(bytes, trial)

  const events = deepStrings(output.dataset, 'IrradiationEventUID')
  assert.equal(new Set(events).size, 3)
  assert.equal(events[2], relatedClass)
  assert.equal(output.text('RelatedGeneralSOPClassUID'), relatedClass)
  for (const uid of events.slice(0, 2)) assert.match(uid, /^2\.25\.[1-9]\d{30,38}$/)
})

test('a lookup table decides pseudonyms, and holds whom it does not know', async () => {
  const { Deidentifier, memorySpool } = await import('../../policy/deid/engine.ts')
  const { bufferSource } = await import('../../gateway/dicom/byte-source.ts')
  const profile = testProfile({ pseudonym: { kind: 'lookup' } })
  const lookup = ({ id }: { id: string }) => (id === 'TEST-1' ? 'SUBJECT-007' : undefined)
  const engine = new Deidentifier(profile, new Uint8Array(32), lookup)

  const known = await engine.run(bufferSource(buildInstance({ seed: 1 }).bytes), memorySpool)
  const unknown = await engine.run(bufferSource(buildInstance({ seed: 2 }).bytes), memorySpool)

  assert.equal(known.kind, 'done')
  assert.ok(unknown.kind === 'held' && unknown.code === 'no-pseudonym')
})
