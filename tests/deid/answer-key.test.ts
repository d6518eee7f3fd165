/**
 * A rehearsal of an answer key: synthetic identifiers planted in the places where they turn up, and what has to become of
 * each: removed from a text that otherwise stays, the text kept whole, dates moved by one offset, UIDs and patients
 * replaced consistently, required attributes neither missing nor empty.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { type Dataset, stringsOf } from '../../gateway/dicom/dataset.ts'
import type { NewElement } from '../../gateway/dicom/part10-writer.ts'
import { type Tag, tagOf } from '../../gateway/dicom/tag.ts'
import { shiftDate } from '../../policy/deid/dates.ts'
import { presetProfile } from '../../policy/deid/presets.ts'
import { type BuildOptions, buildInstance } from '../support/dicom-builder.ts'
import { deepStrings, deidentified, type Output, testProfile } from './support.ts'

const trial = presetProfile('trial') ?? testProfile()
const tag = (keyword: string): Tag => {
  const found = tagOf(keyword)
  assert.ok(found !== undefined, keyword)
  return found
}

/** What is planted of the patient and of others; none of it may be in any output byte. */
const secrets = [
  'Kowalczyk',
  'Bogumila',
  'MRN-7730145',
  '7730145',
  'ACC-556677',
  'Dr. Thistlewood',
  'Thistlewood',
  'Fenwick',
  'St. Brannock Infirmary',
  'Brannock',
  '555-0147',
  '078-05-1120',
  'bk@example.org',
  '14 Larkspur Lane',
  'Larkspur',
  'SN-99812',
  'STATION-ZULU',
  '1.2.826.0.1.3680043.10.511',
  '19580214',
  '14.02.1958',
  'Feb 14, 1958',
] as const

const code = (value: string, scheme: string, meaning: string): NewElement[] => [
  { tag: 0x00080100, vr: 'SH', value },
  { tag: 0x00080102, vr: 'SH', value: scheme },
  { tag: 0x00080104, vr: 'LO', value: meaning },
]

/** Text by attribute: planted, what has to stay of it, and what must be gone is in `secrets`. */
const texts: readonly (readonly [keyword: string, planted: string, stays: readonly string[]])[] = [
  ['StudyDescription', 'CT CHEST W/O CONTRAST Kowalczyk 7730145', ['CT CHEST W/O CONTRAST']],
  ['SeriesDescription', 'AX 2.5 MM for Dr. Thistlewood 555-0147', ['AX 2.5 MM']],
  ['ProtocolName', '5.1 ChestAbdPelvis 02/14/1958 bk@example.org', ['5.1 ChestAbdPelvis']],
  ['ImageComments', 'motion artifact; SSN 078-05-1120', ['motion artifact']],
  ['AcquisitionComments', 'breath hold, lives at 14 Larkspur Lane', ['breath hold']],
  ['AdditionalPatientHistory', 'nodule seen Feb 14, 1958 by Fenwick', ['nodule seen']],
  ['ContrastBolusAgent', 'OMNIPAQUE 350', ['OMNIPAQUE 350']],
  ['ConvolutionKernel', 'B30f', ['B30f']],
  ['Manufacturer', 'SIEMENS', ['SIEMENS']],
  ['ManufacturerModelName', 'Sensation 64', ['Sensation 64']],
  ['SoftwareVersions', 'VA44A', ['VA44A']],
  ['BodyPartExamined', 'CHEST', ['CHEST']],
  ['PatientSex', 'F', ['F']],
  ['PatientAge', '061Y', ['061Y']],
  ['PatientWeight', '64.5', ['64.5']],
  ['KVP', '120', ['120']],
  ['SliceThickness', '2.5', ['2.5']],
  ['RescaleType', 'HU', ['HU']],
]

/** Attributes whose value must be gone whatever it was. */
const removed: readonly (readonly [keyword: string, planted: string])[] = [
  ['InstitutionName', 'St. Brannock Infirmary'],
  ['InstitutionAddress', '14 Larkspur Lane'],
  ['StationName', 'STATION-ZULU'],
  ['DeviceSerialNumber', 'SN-99812'],
  ['AccessionNumber', 'ACC-556677'],
  ['PatientAddress', '14 Larkspur Lane'],
  ['PatientTelephoneNumbers', '555-0147'],
  ['OtherPatientIDs', '078-05-1120'],
  ['PatientBirthName', 'Fenwick^Bogumila'],
  ['ReferringPhysicianName', 'Thistlewood^Amos'],
  ['OperatorsName', 'Fenwick^Lou'],
  ['PerformingPhysicianName', 'Thistlewood^Amos=^'],
  ['PatientComments', 'call 555-0147 or bk@example.org'],
  ['CurrentPatientLocation', 'Brannock ward 7'],
  ['RequestingPhysician', 'Thistlewood^Amos'],
  ['RequestedProcedureDescription', 'Kowalczyk'],
  ['IssuerOfPatientID', 'St. Brannock Infirmary'],
  ['PatientBirthDate', '19580214'],
  ['PatientBirthDateInAlternativeCalendar', '14.02.1958'],
]

const dates = ['StudyDate', 'SeriesDate', 'AcquisitionDate', 'ContentDate', 'PerformedProcedureStepStartDate']
/** Type 1 or 2 of a CT image (PS3.3 §A.3): there whatever was in them. */
const required = [
  ...['PatientName', 'PatientID', 'PatientBirthDate', 'PatientSex', 'StudyInstanceUID', 'StudyDate', 'StudyTime'],
  ...['ReferringPhysicianName', 'StudyID', 'AccessionNumber', 'Modality', 'SeriesInstanceUID', 'SeriesNumber'],
  ...['FrameOfReferenceUID', 'PositionReferenceIndicator', 'Manufacturer', 'SOPClassUID', 'SOPInstanceUID'],
]
const notEmpty = [
  'PatientName',
  'PatientID',
  'StudyInstanceUID',
  'SeriesInstanceUID',
  'FrameOfReferenceUID',
  'Modality',
]
const uids = '1.2.826.0.1.3680043.10.511'

function planted(change: BuildOptions = {}): Uint8Array {
  const { extra = [], ...rest } = change
  const own: NewElement[] = [
    ...texts.map(([keyword, value]) => ({ tag: tag(keyword), value })),
    ...removed.map(([keyword, value]) => ({ tag: tag(keyword), value })),
    ...dates.map(keyword => ({ tag: tag(keyword), value: '20190305' })),
    { tag: tag('AcquisitionDateTime'), value: '20190305101112.5+0100' },
    { tag: tag('FrameOfReferenceUID'), value: `${uids}.9` },
    { tag: tag('PositionReferenceIndicator'), value: 'SN' },
    { tag: tag('StudyID'), value: 'ACC-556677' },
    {
      tag: tag('ReferencedImageSequence'),
      items: [
        [
          { tag: tag('ReferencedSOPClassUID'), value: '1.2.840.10008.5.1.4.1.1.2' },
          { tag: tag('ReferencedSOPInstanceUID'), value: `${uids}.1.1` },
        ],
      ],
    },
    {
      tag: tag('RequestAttributesSequence'),
      items: [
        [
          { tag: tag('ScheduledProcedureStepDescription'), value: 'CT CHEST of Kowalczyk' },
          { tag: tag('RequestedProcedureID'), value: 'ACC-556677' },
        ],
      ],
    },
    { tag: tag('ProcedureCodeSequence'), items: [code('CTCH', 'L', 'CT chest, Kowalczyk Bogumila')] },
    // Private: a safe one of Table E.3.10-1, one of the same block that is not, a UID and a name in others.
    { tag: 0x00190010, vr: 'LO', value: 'SIEMENS MR HEADER' },
    { tag: 0x0019100c, vr: 'IS', value: '1000' },
    { tag: 0x00191099, vr: 'LO', value: 'Kowalczyk' },
    { tag: 0x00290010, vr: 'LO', value: 'ACME 1.1' },
    { tag: 0x00291001, vr: 'LO', value: `${uids}.77` },
    { tag: 0x00291002, vr: 'UN', value: Buffer.from('Kowalczyk^Bogumila  ') },
    { tag: 0x00291003, items: [[{ tag: 0x00100010, vr: 'PN', value: 'Kowalczyk^Bogumila' }]] },
    ...extra,
  ]
  const replaced = new Set(extra.map(element => element.tag))
  return buildInstance({
    patientName: 'Kowalczyk^Bogumila^^Dr.',
    patientId: 'MRN-7730145',
    studyInstanceUid: `${uids}.1`,
    seriesInstanceUid: `${uids}.1.2`,
    sopInstanceUid: `${uids}.1.3`,
    ...rest,
    extra: own.filter((element, index) => index >= own.length - extra.length || !replaced.has(element.tag)),
  }).bytes
}

const folded = (text: string): string => text.toLowerCase()
const one = (dataset: Dataset, keyword: string): string => stringsOf(dataset, tag(keyword)).join('\\')

function assertNoSecret(output: Output, except: readonly string[] = []): void {
  const bytes = folded(Buffer.from(output.bytes).toString('latin1'))
  const found = secrets.filter(secret => !except.includes(secret) && bytes.includes(folded(secret)))
  assert.deepEqual(found, [])
}

test('text is kept but for the identifiers in it, and what identifies is removed', async () => {
  const output = await deidentified(planted(), trial)

  assertNoSecret(output)
  const missing = texts.flatMap(([keyword, , stays]) =>
    stays.filter(text => !one(output.dataset, keyword).includes(text)).map(text => `${keyword}: ${text}`),
  )
  assert.deepEqual(missing, [])
  const kept = removed.filter(([keyword, value]) => one(output.dataset, keyword).includes(value))
  assert.deepEqual(kept, [])
  assert.deepEqual(stringsOf(output.dataset, 0x0019100c), ['1000'], 'safe private attributes stay')
  assert.deepEqual(deepStrings(output.dataset, 'ScheduledProcedureStepDescription'), ['CT CHEST of'])
})

test('what the IOD requires is there, and not empty where it must have a value', async () => {
  for (const profile of [trial, presetProfile('basic') ?? trial]) {
    const output = await deidentified(planted(), profile)
    assert.deepEqual(
      required.filter(keyword => !output.has(keyword)),
      [],
      profile.name,
    )
    assert.deepEqual(
      notEmpty.filter(keyword => one(output.dataset, keyword) === ''),
      [],
      profile.name,
    )
  }
})

test('all dates of a patient move by one offset, and intervals stay exact', async () => {
  const first = await deidentified(planted(), trial)
  const later = await deidentified(
    planted({
      studyInstanceUid: `${uids}.2`,
      extra: [...dates, 'InstanceCreationDate'].map(keyword => ({ tag: tag(keyword), value: '20200306' })),
    }),
    trial,
  )

  const [from, to] = [one(first.dataset, 'StudyDate'), one(later.dataset, 'StudyDate')]
  assert.notEqual(from, '20190305')
  assert.equal(shiftDate(from, 367), to)
  assert.deepEqual(new Set(dates.map(keyword => one(first.dataset, keyword))), new Set([from]))
  assert.equal(one(first.dataset, 'AcquisitionDateTime'), `${from}101112.5+0100`)
})

test('UIDs and patients are replaced consistently, and those of the standard stay', async () => {
  const first = await deidentified(planted(), trial)
  const other = await deidentified(planted({ sopInstanceUid: `${uids}.1.1` }), trial)
  const stranger = await deidentified(planted({ patientId: 'MRN-1', patientName: 'Roe^Jane' }), trial)

  for (const keyword of ['StudyInstanceUID', 'SeriesInstanceUID', 'FrameOfReferenceUID', 'PatientID', 'PatientName'])
    assert.equal(one(other.dataset, keyword), one(first.dataset, keyword), keyword)
  assert.deepEqual(deepStrings(first.dataset, 'ReferencedSOPInstanceUID'), [one(other.dataset, 'SOPInstanceUID')])
  assert.deepEqual(deepStrings(first.dataset, 'ReferencedSOPClassUID'), ['1.2.840.10008.5.1.4.1.1.2'])
  assert.notEqual(one(stranger.dataset, 'PatientID'), one(first.dataset, 'PatientID'))
})

test('names of three groups, in other character sets and orders, are found in every text', async () => {
  for (const [charset, name, description, stays] of [
    ['ISO_IR 100', 'Müßiggang^Jörg', 'Kopf MÜSSIGGANG Jorg MUESSIGGANG T1', 'Kopf'],
    ['ISO_IR 100', 'Mueller^Groß', 'Hals Müller Gross', 'Hals'],
    ['ISO_IR 192', 'Sørensen^Łukasz', 'hip Sorensen LUKASZ Soerensen', 'hip'],
    [['', 'ISO 2022 IR 87'], 'Yamada^Tarou=山田^太郎=やまだ^たろう', 'CHEST 太郎 Yamada', 'CHEST'],
    ['GB18030', 'Wang^XiaoDong=王^小东', '胸部 小东 Wang', '胸部'],
    ['ISO_IR 192', 'Ångström^Åse', 'knee ANGSTROM,Ase', 'knee'],
  ] as const) {
    const bytes = planted({
      charset,
      patientName: name,
      extra: [{ tag: tag('SeriesDescription'), vr: 'LO', value: description }],
    })
    const output = await deidentified(bytes, trial)

    const [text = ''] = stringsOf(output.dataset, tag('SeriesDescription'))
    assert.doesNotMatch(
      text,
      /m[uü]e?ss|jorg|m[uü]ller|gro|s[oø]e?rens|lukasz|yamada|太郎|wang|小东|angstr|ase/i,
      description,
    )
    assert.ok(text.includes(stays), `${description}: ${text}`)
  }
})

test('a structured report keeps its codes and numbers, and loses who and where', async () => {
  const item = (type: string, concept: NewElement[], value: NewElement): NewElement[] => [
    { tag: 0x0040a010, vr: 'CS', value: 'CONTAINS' },
    { tag: 0x0040a040, vr: 'CS', value: type },
    { tag: 0x0040a043, items: [concept] },
    value,
  ]
  const measured: NewElement[] = [
    { tag: 0x0040a30a, vr: 'DS', value: '12.5' },
    { tag: 0x004008ea, items: [code('mm', 'UCUM', 'millimeter')] },
  ]
  const bytes = planted({
    sopClassUid: '1.2.840.10008.5.1.4.1.1.88.33',
    extra: [
      { tag: tag('Modality'), value: 'SR' },
      {
        tag: 0x0040a730,
        items: [
          item('TEXT', code('121071', 'DCM', 'Finding'), {
            tag: 0x0040a160,
            vr: 'UT',
            value: 'Kowalczyk has a nodule',
          }),
          item('PNAME', code('121008', 'DCM', 'Person Observer Name'), {
            tag: 0x0040a123,
            vr: 'PN',
            value: 'Thistlewood^Amos',
          }),
          item('NUM', code('103339001', 'SCT', 'Long axis'), { tag: 0x0040a300, items: [measured] }),
          item('DATE', code('111060', 'DCM', 'Study Date'), { tag: 0x0040a121, vr: 'DA', value: '20190305' }),
          item('UIDREF', code('112002', 'DCM', 'Series Instance UID'), {
            tag: 0x0040a124,
            vr: 'UI',
            value: `${uids}.1.2`,
          }),
        ],
      },
    ],
  })
  const output = await deidentified(bytes, trial)

  assertNoSecret(output)
  assert.deepEqual(deepStrings(output.dataset, 'NumericValue'), ['12.5'])
  assert.deepEqual(deepStrings(output.dataset, 'UID'), [one(output.dataset, 'SeriesInstanceUID')])
  const shifted = one(output.dataset, 'StudyDate')
  for (const date of deepStrings(output.dataset, 'Date')) assert.equal(date, shifted)
})
