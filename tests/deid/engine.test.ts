import assert from 'node:assert/strict'
import { test } from 'node:test'
import { type ByteSource, bufferSource } from '../../gateway/dicom/byte-source.ts'
import { itemsOf, stringOf } from '../../gateway/dicom/dataset.ts'
import { encodeDataset, type NewElement } from '../../gateway/dicom/part10-writer.ts'
import { Deidentifier, memorySpool, steps } from '../../policy/deid/engine.ts'
import { noIdentifiers } from '../../policy/deid/identifiers.ts'
import { presetProfile } from '../../policy/deid/presets.ts'
import { verifyOutput } from '../../policy/deid/verify.ts'
import { buildInstance } from '../support/dicom-builder.ts'
import { deepStrings, deidentified, firstItem, held, testKey, testProfile } from './support.ts'

const basic = presetProfile('basic') ?? testProfile()
const trial = presetProfile('trial') ?? testProfile()

test('the output says what was done to it, and nothing else', async () => {
  const { bytes } = buildInstance()
  const plain = await deidentified(bytes, basic)
  const cleaned = await deidentified(bytes, trial)

  const codes = (output: typeof plain): unknown =>
    itemsOf(output.dataset, 0x00120064).map(item => stringOf(item, 0x00080100))
  assert.deepEqual(codes(plain), ['113100'])
  assert.deepEqual(codes(cleaned), ['113100', '113101', '113103', '113104', '113105', '113107', '113108', '113111'])
  assert.deepEqual(
    [plain, cleaned].map(output => output.text('LongitudinalTemporalInformationModified')),
    ['REMOVED', 'MODIFIED'],
  )
  assert.deepEqual(
    [plain, cleaned].map(output => output.text('BurnedInAnnotation')),
    [undefined, 'NO'],
  )
  assert.equal(plain.text('PatientIdentityRemoved'), 'YES')
  assert.deepEqual(plain.preamble, Buffer.alloc(128))
  assert.equal(plain.certificate.verified, true)
  assert.equal(plain.certificate.sopInstanceUid, plain.text('SOPInstanceUID'))
})

test('what is de-identified already can be de-identified again', async () => {
  const once = await deidentified(buildInstance().bytes, trial)
  const twice = await deidentified(once.bytes, trial)

  assert.notEqual(twice.text('SOPInstanceUID'), once.text('SOPInstanceUID'))
  assert.equal(itemsOf(twice.dataset, 0x0018a001).length, 2)
})

test('whoever has a name that the engine or a device writes is de-identified all the same', async () => {
  for (const patientName of ['De La Cruz^Hanse', 'Finding^Equipment', 'GEMS_ACQU_01^DCM', 'Anonymized^Other']) {
    const { bytes } = buildInstance({
      patientName,
      extra: [
        { tag: 0x00190010, vr: 'LO', value: 'GEMS_ACQU_01' },
        { tag: 0x00191023, vr: 'DS', value: '5' },
      ],
    })
    for (const profile of [basic, trial]) await deidentified(bytes, profile)
  }
})

test('an option that the engine does not carry out is named as not done', async () => {
  const profile = testProfile({ options: ['cleanRecognizableVisualFeatures'] })

  const { certificate } = await deidentified(buildInstance().bytes, profile)

  assert.deepEqual(certificate.notDone, ['113102'])
  assert.deepEqual(certificate.methods, ['113100'])
})

for (const step of steps) {
  test(`a fault at the step ${step} holds the instance, with an alert and without output`, async () => {
    const fault = await held(buildInstance().bytes, trial, {
      onStep: at => {
        if (at === step) throw new Error('a fault that quotes TEST^PATIENT')
      },
    })

    assert.equal(fault.code, 'internal')
    assert.equal(fault.isAlert, true)
    assert.doesNotMatch(JSON.stringify(fault), /TEST\^PATIENT/)
  })
}

test('a source that fails at any of its reads, and a spool that fails, hold the instance', async () => {
  const { bytes } = buildInstance({ rows: 256, cols: 256 })
  const failing = (failAt: number): ByteSource & { reads: number } => {
    const source = {
      sizeBytes: bytes.length,
      reads: 0,
      async read(offset: number, length: number) {
        if (source.reads++ === failAt) throw new Error('disk')
        return bytes.subarray(offset, offset + length)
      },
    }
    return source
  }
  const whole = failing(-1)
  assert.equal((await new Deidentifier(basic, testKey).run(whole, memorySpool)).kind, 'done')

  for (let at = 0; at < whole.reads; at++)
    assert.equal((await new Deidentifier(basic, testKey).run(failing(at), memorySpool)).kind, 'held', `read ${at}`)
  const spooled = await new Deidentifier(basic, testKey).run(bufferSource(bytes), async () => {
    throw new Error('full')
  })
  assert.equal(spooled.kind, 'held')
})

test('an output that was changed behind the engine is found by the verification', async () => {
  const { bytes } = buildInstance({ patientName: 'Obermayer^Josefine' })
  const changed = await new Deidentifier(basic, testKey).run(bufferSource(bytes), async chunks => {
    const output = await memorySpool(chunks)
    const raw = Buffer.from(await output.read(0, output.sizeBytes))
    raw.write('Obermayer1', raw.indexOf('Hanse tests'), 'latin1')
    return bufferSource(raw)
  })
  // "Obermayer1" is not the name; "Obermayer " is.
  const named = await new Deidentifier(basic, testKey).run(bufferSource(bytes), async chunks => {
    const output = await memorySpool(chunks)
    const raw = Buffer.from(await output.read(0, output.sizeBytes))
    raw.write('OBERMAYER  ', raw.indexOf('Hanse tests'), 'latin1')
    return bufferSource(raw)
  })

  assert.equal(changed.kind, 'done')
  assert.ok(named.kind === 'held' && named.code === 'verification' && named.isAlert)
  const findings = await verifyOutput(bufferSource(bytes), {
    profile: basic,
    identifiers: noIdentifiers(),
    record: { uids: new Map(), dates: new Set() },
    pseudonym: 'P',
    sopInstanceUid: '1.2',
    pixels: { outcome: 'unchanged' },
  })
  assert.equal(findings.length, 10)
})

test('what cannot be judged is held with a reason: documents, directories, private classes, unknown character sets', async () => {
  const classes = ['1.2.840.10008.5.1.4.1.1.104.1', '1.2.840.10008.5.1.4.1.1.66', '1.3.12.2.1107.5.9.1', '1.2.3']
  for (const sopClassUid of classes)
    assert.equal((await held(buildInstance({ sopClassUid }).bytes, basic)).code, 'sop-class', sopClassUid)
  assert.equal((await held(buildInstance({ charset: 'EBCDIC' }).bytes, basic)).code, 'character-set')
  assert.equal((await held(Buffer.from('not DICOM at all, whatever it is'), basic)).code, 'unreadable')
  const only = testProfile({ sopClasses: { only: ['1.2.840.10008.5.1.4.1.1.4'] } })
  assert.equal((await held(buildInstance().bytes, only)).code, 'sop-class')
  const sliced = buildInstance().bytes
  assert.equal((await held(sliced.subarray(0, sliced.length - 100), basic)).code, 'unreadable')
})

test('a kept attribute that is encoded as something else is held, an over-long number or text loses its value', async () => {
  const conflict = await held(buildInstance({ extra: [{ tag: 0x00280a02, vr: 'FD', value: 1.5 }] }).bytes, basic)
  assert.equal(conflict.code, 'vr-conflict')
  assert.equal(conflict.evidence[0]?.attribute, 'PixelSpacingCalibrationType')

  const output = await deidentified(
    buildInstance({
      extra: [
        { tag: 0x00281050, vr: 'DS', value: 'John Doe' },
        { tag: 0x00180060, vr: 'DS', value: '120' },
        { tag: 0x00280106, vr: 'US', value: Array.from({ length: 40 }, (_, i) => 0x4141 + i) },
      ],
    }).bytes,
    basic,
  )
  assert.deepEqual(
    ['WindowCenter', 'KVP', 'SmallestImagePixelValue'].map(keyword => output.text(keyword)),
    [undefined, '120', undefined],
  )
})

test('hostile texts end in bounded time: a long one is held where it would be kept, contours are not', async () => {
  const points = Array.from({ length: 300_000 }, (_, i) => `${i}.5`)
  const contour = await deidentified(
    buildInstance({ extra: [{ tag: 0x30060050, vr: 'DS', value: points }] }).bytes,
    trial,
  )
  assert.equal(contour.dataset.elements.find(({ tag }) => tag === 0x30060050)?.length, points.join('\\').length + 1)
  const long = (tag: number): NewElement => ({ tag, vr: 'UT', value: 'Dr '.repeat(500_000) })
  assert.equal((await held(buildInstance({ extra: [long(0x00080119)] }).bytes, trial)).code, 'too-large')
  await deidentified(buildInstance({ extra: [long(0x00204000)] }).bytes, basic)
  const evil = ['9'.repeat(900_000), 'a^'.repeat(400_000), `${'x'.repeat(900_000)}@`, '1 '.repeat(400_000)]
  for (const text of evil) {
    const output = await deidentified(
      buildInstance({ extra: [{ tag: 0x00204000, vr: 'LT', value: text }] }).bytes,
      testProfile({ options: ['cleanDescriptors'] }),
    )
    assert.ok(output.bytes.length > 0)
  }
})

test('safe private attributes stay in whatever block, others, those without creator and of another VR go', async () => {
  const block = (number: number, creator: string | undefined, vr: 'DS' | 'LO'): NewElement[] => [
    ...(creator === undefined ? [] : [{ tag: (0x00190000 | number) >>> 0, vr: 'LO' as const, value: creator }]),
    { tag: (0x00190023 | (number << 8)) >>> 0, vr, value: '55.5' },
    { tag: (0x0019009f | (number << 8)) >>> 0, vr: 'LO', value: 'secret' },
  ]
  const kept = async (extra: NewElement[]): Promise<number> => {
    const { dataset } = await deidentified(buildInstance({ extra }).bytes, trial)
    return dataset.elements.filter(({ tag }) => tag >>> 16 === 0x19).length
  }

  assert.equal(await kept(block(0x11, 'GEMS_ACQU_01', 'DS')), 2)
  assert.equal(await kept(block(0x12, 'GEMS_ACQU_01', 'DS')), 2)
  assert.equal(await kept(block(0x11, 'GEMS_ACQU_01', 'LO')), 0)
  assert.equal(await kept(block(0x11, undefined, 'DS')), 0)
  assert.equal(await kept(block(0x11, 'SOMEBODY ELSE', 'DS')), 0)
})

test('trial attributes are put in after everything else was taken out', async () => {
  const profile = testProfile({
    trial: { sponsor: 'Sponsor Ltd', protocolId: 'PROTO-1', siteId: '042', timePointId: 'Week 12' },
  })
  const output = await deidentified(
    buildInstance({ extra: [{ tag: 0x00120020, vr: 'LO', value: 'old trial' }] }).bytes,
    profile,
  )

  assert.equal(output.text('ClinicalTrialProtocolID'), 'PROTO-1')
  assert.equal(output.text('ClinicalTrialSponsorName'), 'Sponsor Ltd')
  assert.equal(output.text('ClinicalTrialSubjectID'), output.text('PatientID'))
})

test('a report keeps codes, numbers and references, loses what people wrote, and shifts its dates', async () => {
  const concept = (code: string, scheme: string): NewElement => ({
    tag: 0x0040a043,
    items: [
      [
        { tag: 0x00080100, value: code },
        { tag: 0x00080102, value: scheme },
        { tag: 0x00080104, value: 'whatever' },
      ],
    ],
  })
  const item = (type: string, code: string, value: NewElement): NewElement[] => [
    { tag: 0x0040a010, value: 'CONTAINS' },
    { tag: 0x0040a040, value: type },
    concept(code, 'DCM'),
    value,
  ]
  const { bytes } = buildInstance({
    sopClassUid: '1.2.840.10008.5.1.4.1.1.88.22',
    extra: [
      {
        tag: 0x0040a730,
        items: [
          item('TEXT', '121071', { tag: 0x0040a160, vr: 'UT', value: 'Mrs. Obermayer has a nodule' }),
          item('PNAME', '121008', { tag: 0x0040a123, vr: 'PN', value: 'Reader^Rita' }),
          item('NUM', '121206', { tag: 0x0040a30a, vr: 'DS', value: '12.5' }),
          item('DATETIME', '111060', { tag: 0x0040a120, vr: 'DT', value: '20260102101500' }),
          item('TEXT', '999999', { tag: 0x0040a160, vr: 'UT', value: 'unlisted' }),
          item('TEXT', '121022', { tag: 0x0040a160, vr: 'UT', value: 'A1' }),
        ],
      },
    ],
  })
  const output = await deidentified(bytes, trial)

  const types = deepStrings(output.dataset, 'ValueType')
  assert.deepEqual(types, ['TEXT', 'PNAME', 'NUM', 'DATETIME'])
  assert.deepEqual(deepStrings(output.dataset, 'TextValue'), ['nodule'])
  assert.deepEqual(deepStrings(output.dataset, 'PersonName'), ['ANONYMIZED'])
  const [date = ''] = deepStrings(output.dataset, 'DateTime')
  assert.match(date, /^\d{8}101500$/)
  assert.notEqual(date, '20260102101500')
  const dummy = firstItem((await deidentified(bytes, basic)).dataset, 'ContentSequence')
  assert.equal(stringOf(dummy, 0x0040a160), 'ANONYMIZED')
})

test('sequences keep their form of length, in every encoding, and a sequence hidden as UN is gone through', async () => {
  const hidden = encodeDataset(
    [{ tag: 0x00081032, items: [[{ tag: 0x00100010, value: 'HIDDEN^NAME' }]] }],
    '1.2.840.10008.1.2',
  ).subarray(8)
  for (const transferSyntaxUid of ['1.2.840.10008.1.2', '1.2.840.10008.1.2.1', '1.2.840.10008.1.2.2']) {
    const { bytes } = buildInstance({
      transferSyntaxUid,
      extra: [
        {
          tag: 0x00289110,
          items: [
            [
              { tag: 0x00280030, value: ['0.5', '0.5'] },
              { tag: 0x00100010, value: 'NESTED^NAME' },
            ],
          ],
        },
        { tag: 0x0040a504, vr: 'UN', value: hidden },
      ],
    })
    const output = await deidentified(bytes, basic)

    assert.equal(stringOf(firstItem(output.dataset, 'PixelMeasuresSequence'), 0x00280030), '0.5', transferSyntaxUid)
    assert.doesNotMatch(Buffer.from(output.bytes).toString('latin1'), /HIDDEN|NESTED/)
    assert.equal(output.transferSyntaxUid, transferSyntaxUid)
  }
})
