/**
 * C-FIND of a gateway process as DCMTK and Orthanc ask: all models and levels, keys and character sets, cancel, and
 * thousands of matches.
 */
import assert from 'node:assert/strict'
import { readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { bufferSource } from '../../gateway/dicom/byte-source.ts'
import { type Dataset, stringOf, stringsOf } from '../../gateway/dicom/dataset.ts'
import { readPart10 } from '../../gateway/dicom/part10-reader.ts'
import { encodeDataset, fileMeta, type NewElement } from '../../gateway/dicom/part10-writer.ts'
import { explicitVrLittleEndian } from '../../gateway/dicom/uid.ts'
import { findScu } from '../../gateway/dimse/find-scu.ts'
import { type InformationModel, queryRetrieveSopClass } from '../../gateway/dimse/query-retrieve.ts'
import { temporaryDir } from '../support/blobs.ts'
import { missing, run } from '../support/dcmtk.ts'
import { type BuildOptions, buildInstance, seededUid } from '../support/dicom-builder.ts'
import { missingOrthanc, startOrthanc } from '../support/orthanc.ts'
import { type ProcessGateway, startProcessGateway } from '../support/process-gateway.ts'
import { inMiB, memoryOf } from './process-memory.ts'

const skip = missing('findscu') || missingOrthanc
const callers = ['FINDSCU', 'ORTHANC']
const generated = 10_000

const [charset, level, name, patientId] = [0x00080005, 0x00080052, 0x00100010, 0x00100020]
const [studyUid, seriesUid, instanceUid, modality] = [0x0020000d, 0x0020000e, 0x00080018, 0x00080060]
const [studyDate, studyTime, description] = [0x00080020, 0x00080030, 0x00081030]
const [modalitiesInStudy, seriesInStudy, instancesInStudy] = [0x00080061, 0x00201206, 0x00201208]

/** Three patients of three writing systems; the first has two series, one of them of two instances. */
const stored: readonly BuildOptions[] = [
  { seed: 1, ...latin('101500'), modality: 'CT', instanceNumber: 1 },
  { seed: 2, ...latin('101500'), modality: 'CT', instanceNumber: 2, seriesInstanceUid: seededUid('series', 1) },
  { seed: 3, ...latin('101500'), modality: 'OT', instanceNumber: 1 },
  {
    seed: 4,
    patientId: 'JP-1',
    patientName: 'Yamada^Tarou=山田^太郎=やまだ^たろう',
    charset: ['', 'ISO 2022 IR 87'],
    modality: 'MR',
    extra: [{ tag: studyDate, value: '20260301' }],
  },
  {
    seed: 5,
    patientId: 'GR-1',
    patientName: 'Διονυσιος',
    charset: 'ISO_IR 126',
    modality: 'US',
    extra: [
      { tag: studyDate, value: '20251231' },
      { tag: studyTime, value: '235959.5' },
    ],
  },
]

function latin(time: string): BuildOptions {
  return {
    studyInstanceUid: seededUid('study', 1),
    patientId: 'DE-1',
    patientName: 'Müller^Jürgen',
    charset: 'ISO_IR 100',
    extra: [
      { tag: studyDate, value: '20260105' },
      { tag: studyTime, value: time },
      { tag: description, value: 'Schädel' },
    ],
  }
}

/** What a tool was answered. */
interface Answered {
  readonly datasets: readonly Dataset[]
  readonly output: string
  readonly code: number | null
}

const modelOptions: Readonly<Record<InformationModel, string>> = {
  'patient-root': '-P',
  'study-root': '-S',
  'patient-study-only': '-O',
}

test('DCMTK and Orthanc find what is stored, as they ask for it', { skip }, async t => {
  const gateway = await startProcessGateway(t, 'Find')
  for (const aeTitle of callers) await gateway.api('PUT', `/api/v1/modalities/${aeTitle}`, { host: '127.0.0.1' })
  for (const options of stored) await post(gateway, buildInstance(options).bytes)

  /** Asks by findscu with an identifier in a file, so that it may be in any character set. */
  const ask = async (
    identifier: readonly NewElement[],
    model: InformationModel = 'study-root',
    options: readonly string[] = [],
  ): Promise<Answered> => {
    const directory = await temporaryDir(t)
    const file = join(directory, 'query')
    const ids = { sopClassUid: '1.2.3', sopInstanceUid: '1.2.3.4', transferSyntaxUid: explicitVrLittleEndian }
    const ordered = identifier.toSorted((a, b) => a.tag - b.tag)
    await writeFile(file, Buffer.concat([fileMeta(ids), encodeDataset(ordered, explicitVrLittleEndian)]))
    const peer = ['127.0.0.1', String(gateway.ports.dicom)]
    const out = ['-X', '-od', directory]
    const { code, output } = await run(t, 'findscu', ['-v', modelOptions[model], ...out, ...options, ...peer, file])
    const responses = (await readdir(directory)).filter(each => each.startsWith('rsp')).sort()
    const datasets: Dataset[] = []
    for (const each of responses) {
      const bytes = await readFile(join(directory, each))
      datasets.push((await readPart10(bufferSource(bytes))).dataset)
    }
    return { datasets, output, code }
  }
  const found = async (tag: number, identifier: readonly NewElement[], model?: InformationModel): Promise<string[]> => {
    const asked = identifier.some(element => element.tag === tag) ? identifier : [...identifier, { tag, value: '' }]
    const { datasets, output, code } = await ask(asked, model)
    assert.equal(code, 0, output.slice(-2000))
    assert.match(output, /Received Final Find Response \(Success\)/)
    return datasets.map(dataset => stringOf(dataset, tag) ?? '').sort()
  }

  await t.test('at every level of every model', async () => {
    const uids = stored.map(options => buildInstance(options))
    const of = (pick: (built: (typeof uids)[number]) => string, some = uids): string[] =>
      [...new Set(some.map(pick))].sort()
    const ofFirst = uids.slice(0, 3)
    const study = { tag: studyUid, value: seededUid('study', 1) }
    const series = { tag: seriesUid, value: seededUid('series', 1) }
    const patient = { tag: patientId, value: 'DE-1' }
    const at = (value: string): NewElement => ({ tag: level, value })

    assert.deepEqual(await found(patientId, [at('PATIENT')], 'patient-root'), ['DE-1', 'GR-1', 'JP-1'])
    assert.deepEqual(await found(patientId, [at('PATIENT')], 'patient-study-only'), ['DE-1', 'GR-1', 'JP-1'])
    assert.deepEqual(await found(studyUid, [at('STUDY'), patient], 'patient-study-only'), [seededUid('study', 1)])
    assert.deepEqual(
      await found(studyUid, [at('STUDY')]),
      of(({ studyInstanceUid }) => studyInstanceUid),
    )
    for (const model of ['patient-root', 'study-root'] as const) {
      const above = model === 'patient-root' ? [patient] : []
      assert.deepEqual(
        await found(seriesUid, [at('SERIES'), ...above, study], model),
        of(({ seriesInstanceUid }) => seriesInstanceUid, ofFirst),
      )
      assert.deepEqual(
        await found(instanceUid, [at('IMAGE'), ...above, study, series], model),
        of(({ sopInstanceUid }) => sopInstanceUid, ofFirst.slice(0, 2)),
      )
    }
  })

  await t.test('with what is counted and worked out', async () => {
    const { datasets } = await ask([
      { tag: level, value: 'STUDY' },
      { tag: studyUid, value: seededUid('study', 1) },
      { tag: modalitiesInStudy, value: '' },
      { tag: seriesInStudy, value: '' },
      { tag: instancesInStudy, value: '' },
      { tag: 0x00080056, value: '' },
    ])

    const [answer] = datasets
    assert.ok(answer)
    assert.deepEqual(stringsOf(answer, modalitiesInStudy).sort(), ['CT', 'OT'])
    assert.equal(stringOf(answer, seriesInStudy), '2')
    assert.equal(stringOf(answer, instancesInStudy), '3')
    assert.equal(stringOf(answer, 0x00080054), 'HANSE')
    assert.equal(stringOf(answer, 0x00080056), 'ONLINE')
  })

  await t.test('by single values, lists, wildcards, ranges and sequences', async () => {
    const by = async (tag: number, value: string | readonly string[]): Promise<string[]> =>
      await found(patientId, [
        { tag: level, value: 'STUDY' },
        { tag, value: typeof value === 'string' ? value : [...value] },
      ])

    assert.deepEqual(await by(patientId, 'JP-1'), ['JP-1'])
    assert.deepEqual(await by(patientId, '?P*'), ['JP-1'])
    assert.deepEqual(await by(patientId, 'jp-1'), [])
    assert.deepEqual(await by(studyUid, [seededUid('study', 4), seededUid('study', 5), '1.2.3']), ['GR-1', 'JP-1'])
    assert.deepEqual(await by(studyDate, '20260101-20260131'), ['DE-1'])
    assert.deepEqual(await by(studyDate, '-20260105'), ['DE-1', 'GR-1'])
    assert.deepEqual(await by(studyDate, '20260106-'), ['JP-1'])
    assert.deepEqual(await by(studyTime, '1015-1016'), ['DE-1', 'JP-1'])
    assert.deepEqual(await by(studyTime, '2359-'), ['GR-1'])
    assert.deepEqual(await by(modalitiesInStudy, 'OT'), ['DE-1'])
    assert.deepEqual(await by(modality, ''), ['DE-1', 'GR-1', 'JP-1'])
  })

  await t.test('by names in the character set of the request, and answers in it where it can', async () => {
    const asked = async (terms: string | string[], key: string): Promise<readonly [string, string][]> => {
      const { datasets } = await ask([
        { tag: charset, value: terms },
        { tag: level, value: 'STUDY' },
        { tag: name, value: key },
      ])
      return datasets.map(each => [stringOf(each, name) ?? '', stringsOf(each, charset).join('\\')] as const)
    }
    const japanese = 'Yamada^Tarou=山田^太郎=やまだ^たろう'

    assert.deepEqual(await asked('ISO_IR 100', 'MÜLLER*'), [['Müller^Jürgen', 'ISO_IR 100']])
    assert.deepEqual(await asked('ISO_IR 192', 'müller^jürgen'), [['Müller^Jürgen', 'ISO_IR 192']])
    assert.deepEqual(await asked([], 'muller^*'), [['Müller^Jürgen', 'ISO_IR 100']])
    assert.deepEqual(await asked(['', 'ISO 2022 IR 87'], '山田*'), [[japanese, '\\ISO 2022 IR 87']])
    assert.deepEqual(await asked(['', 'ISO 2022 IR 87'], '*=山田^太郎'), [[japanese, '\\ISO 2022 IR 87']])
    assert.deepEqual(await asked('ISO_IR 192', 'やまだ^*'), [[japanese, 'ISO_IR 192']])
    assert.deepEqual(await asked('ISO_IR 100', 'yamada*'), [[japanese, 'ISO_IR 192']])
    assert.deepEqual(await asked('ISO_IR 126', 'ΔΙΟΝΥΣΙΟΣ'), [['Διονυσιος', 'ISO_IR 126']])
  })

  await t.test('and are told what is not supported, and what is wrong', async () => {
    const study = { tag: level, value: 'STUDY' }
    const unsupported = await ask([study, { tag: patientId, value: 'DE-1' }, { tag: 0x00280010, value: 512 }])
    assert.match(unsupported.output, /Received Find Response 1 \(Pending: WarningUnsupportedOptionalKeys\)/)
    assert.equal(unsupported.datasets.length, 1)

    const noLevel = await ask([{ tag: patientId, value: 'DE-1' }])
    assert.match(
      noLevel.output,
      /Received Final Find Response \((Failed|Error): .*(DataSetDoesNotMatch|IdentifierDoesNotMatch)/i,
    )
    const wrongLevel = await ask([{ tag: level, value: 'PATIENT' }])
    assert.match(
      wrongLevel.output,
      /Received Final Find Response \((Failed|Error): .*(DataSetDoesNotMatch|IdentifierDoesNotMatch)/i,
    )
  })

  await t.test('Orthanc as the client', async orthancTest => {
    const orthanc = await startOrthanc(orthancTest, { hanse: ['HANSE', '127.0.0.1', gateway.ports.dicom] })
    const query = async (at: string, keys: Readonly<Record<string, string>>): Promise<unknown[]> => {
      const made = await orthanc.call('POST', '/modalities/hanse/query', { Level: at, Query: keys })
      const answers = await orthanc.call('GET', `/queries/${Object(made).ID}/answers?expand&simplify`)
      assert.ok(Array.isArray(answers))
      return answers
    }

    const studies = await query('Study', { PatientName: 'müll*', StudyDescription: '', ModalitiesInStudy: '' })
    const instances = await query('Instance', {
      StudyInstanceUID: seededUid('study', 1),
      SeriesInstanceUID: seededUid('series', 1),
      SOPInstanceUID: '',
      InstanceNumber: '',
    })
    const patients = await query('Patient', { PatientID: '*-1', PatientName: '' })

    assert.deepEqual(
      studies.map(study => [
        Object(study).PatientName,
        Object(study).StudyDescription,
        Object(study).ModalitiesInStudy,
      ]),
      [['Müller^Jürgen', 'Schädel', 'CT\\OT']],
    )
    assert.deepEqual(instances.map(instance => Object(instance).InstanceNumber).sort(), ['1', '2'])
    assert.equal(patients.length, 3)
  })

  await t.test('thousands of matches, whole or cancelled, without holding them in memory', async bulkTest => {
    await insertStudies(gateway)
    const target = { host: '127.0.0.1', port: gateway.ports.dicom, callingAe: 'FINDSCU', calledAe: 'HANSE' }
    const identifier = [
      { tag: level, value: 'STUDY' },
      { tag: name, value: 'BULK*' },
      { tag: studyUid, value: '' },
      { tag: description, value: '' },
    ]
    const all = async (): Promise<number> => {
      const uids = new Set<string>()
      const query = { sopClassUid: queryRetrieveSopClass('study-root', 'find'), identifier }
      for await (const match of findScu(target, query)) uids.add(stringOf(match, studyUid) ?? '')
      return uids.size
    }

    assert.equal(await all(), generated)
    const before = await memoryOf(gateway.pid)
    const since = performance.now()
    for (let count = 0; count < 2; count += 1) assert.equal(await all(), generated)
    const tookMs = (performance.now() - since) / 2
    const grownBytes = (await memoryOf(gateway.pid)).peakBytes - before.peakBytes
    bulkTest.diagnostic(`${generated} matches in ${tookMs.toFixed(0)} ms, peak memory grew by ${inMiB(grownBytes)} MiB`)
    assert.ok(grownBytes < 100 * 1024 ** 2, `${inMiB(grownBytes)} MiB`)

    const whole = await ask(identifier, 'study-root', ['-Xlo', '1'])
    assert.equal(whole.output.match(/Received Find Response \d+ \(Pending\)/g)?.length, generated)
    const cancelled = await ask(identifier, 'study-root', ['-Xlo', '1', '--cancel', '10'])
    assert.match(cancelled.output, /Received Final Find Response \(Cancel/)
    const answered = cancelled.output.match(/Received Find Response \d+ \(Pending\)/g)?.length ?? 0
    assert.ok(answered >= 10 && answered < generated / 2, `${answered} answers came in spite of the cancel`)
  })
})

async function post(gateway: ProcessGateway, bytes: Uint8Array): Promise<void> {
  const answer = await fetch(`${gateway.url}/instances`, { method: 'POST', body: Buffer.from(bytes) })
  await answer.body?.cancel()
  assert.equal(answer.status, 200)
}

/** Studies as rows alone: queries read no bytes. */
async function insertStudies(gateway: ProcessGateway): Promise<void> {
  const admin = await gateway.admin()
  try {
    await admin.query(
      `with p as (
         insert into patients (patient_id, orthanc_id, name_folded, attributes)
         select 'BULK-' || n, 'bulk-patient-' || n, 'bulk^' || n,
                jsonb_build_object('00100010', jsonb_build_object('vr', 'PN', 'Value',
                  jsonb_build_array(jsonb_build_object('Alphabetic', 'BULK^' || n))))
           from generate_series(1, $1::int) n
         returning id, patient_id, name_folded, attributes
       )
       insert into studies (patient, study_instance_uid, orthanc_id, study_date, modalities, instance_count, name_folded, attributes)
       select id, '1.2.3.' || substr(patient_id, 6), 'bulk-study-' || patient_id, '20260101', '{CT}', 1, name_folded,
              attributes || jsonb_build_object('00081030', jsonb_build_object('vr', 'LO', 'Value',
                jsonb_build_array('Generated study of patient ' || patient_id)))
         from p`,
      [generated],
    )
    await admin.query('analyze patients')
    await admin.query('analyze studies')
  } finally {
    await admin.end()
  }
}
