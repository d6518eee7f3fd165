/** The Modality Worklist SCP beside DCMTK's, asked by findscu. */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { sql } from 'kysely'
import type { Db } from '../../gateway/db/db.ts'
import { bufferSource } from '../../gateway/dicom/byte-source.ts'
import { toJson } from '../../gateway/dicom/json.ts'
import { jsonItems, jsonText } from '../../gateway/dicom/json-read.ts'
import { readPart10 } from '../../gateway/dicom/part10-reader.ts'
import { encodeDataset, fileMeta, type NewElement } from '../../gateway/dicom/part10-writer.ts'
import { explicitVrLittleEndian } from '../../gateway/dicom/uid.ts'
import { worklistEntriesFromDicom } from '../../gateway/dicom/worklist-item.ts'
import { encodeQueryRequest } from '../../gateway/dimse/command.ts'
import { openScp } from '../../gateway/dimse/listener.ts'
import { openAssociation } from '../../gateway/dimse/scu-association.ts'
import { worklistService, worklistSopClass } from '../../gateway/dimse/worklist.ts'
import { openLog } from '../../gateway/log.ts'
import { openWorklist, type Worklist } from '../../gateway/services/worklist.ts'
import { everybody, fileStore } from '../dimse/fixture.ts'
import { temporaryDir } from '../support/blobs.ts'
import { testDatabase } from '../support/database.ts'
import { missing, run, runOk, untilListening } from '../support/dcmtk.ts'
import { freePort } from '../support/free-port.ts'
import { missingOrthanc, startOrthanc } from '../support/orthanc.ts'
import { caller, rights } from '../support/principals.ts'
import { worklistDocument } from './documents.ts'

const principal = caller('alice')
const skip = missing('findscu', 'wlmscpfs', 'dump2dcm')

async function open(t: TestContext): Promise<{ worklist: Worklist; port: number; dir: string; db: Db }> {
  const db = await testDatabase(t)
  const worklist = openWorklist({ db })
  const dir = await temporaryDir(t)
  const { service } = await fileStore(dir)
  const scp = await openScp({
    rights,
    host: '127.0.0.1',
    port: 0,
    aeTitle: 'HANSE',
    identifyCaller: everybody,
    store: service,
    services: [worklistService({ worklist })],
    log: openLog({ level: 'silent' }),
  })
  t.after(() => scp.close({ graceMs: 0 }))
  return { worklist, port: scp.address.port, dir, db }
}

interface Step {
  readonly name: string
  readonly id: string
  readonly accession: string
  readonly station: string
  readonly modality: string
  readonly date: string
  readonly time: string
  readonly physician: string
}

/** What dump2dcm reads. */
function dumpOf(step: Step, index: number): string {
  return [
    `(0008,0050) SH [${step.accession}]`,
    '(0008,0090) PN [REFERRING^DOCTOR]',
    `(0010,0010) PN [${step.name}]`,
    `(0010,0020) LO [${step.id}]`,
    '(0010,0030) DA [19700101]',
    '(0010,0040) CS [O]',
    `(0020,000d) UI [2.25.100${index}]`,
    '(0032,1032) PN [REQUESTING^DOCTOR]',
    '(0032,1060) LO [EXAM]',
    '(0040,0100) SQ',
    '(fffe,e000) -',
    `(0008,0060) CS [${step.modality}]`,
    `(0040,0001) AE [${step.station}]`,
    `(0040,0002) DA [${step.date}]`,
    `(0040,0003) TM [${step.time}]`,
    `(0040,0006) PN [${step.physician}]`,
    '(0040,0007) LO [STEP]',
    `(0040,0009) SH [S${index}]`,
    '(0040,0010) SH [STATION]',
    '(0040,0011) SH [ROOM]',
    '(fffe,e00d) -',
    '(fffe,e0dd) -',
    `(0040,1001) SH [P${index}]`,
    '(0040,1003) SH [LOW]',
  ].join('\n')
}

/** A small generator with a seed: the same queries in every run. */
function generator(seed: number): <T>(...choices: readonly T[]) => T {
  let state = seed
  return (...choices) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    const chosen = choices[Math.floor((state / 2 ** 32) * choices.length)]
    if (chosen === undefined) throw new Error('nothing to choose from')
    return chosen
  }
}

/** Accession numbers of the matches that findscu wrote to files. */
async function ask(t: TestContext, port: number, keys: readonly string[], dir: string, aeTitle: string) {
  await mkdir(dir, { recursive: true })
  const wanted = ['0008,0050', '0010,0010', '0010,0020', '0040,0100[0].0040,0001', '0040,0100[0].0040,0002']
  const given = new Set(keys.map(key => key.split('=')[0]))
  const args = [...keys, ...wanted.filter(tag => !given.has(tag))].flatMap(key => ['-k', key])
  await runOk(t, 'findscu', [
    '-W',
    '-X',
    '-ta',
    '180',
    '-td',
    '180',
    '-to',
    '180',
    '-od',
    dir,
    '-aec',
    aeTitle,
    ...args,
    '127.0.0.1',
    String(port),
  ])
  const found = []
  for (const file of await readdir(dir)) {
    const { dataset } = await readPart10(bufferSource(await readFile(join(dir, file))))
    found.push(toJson(dataset))
  }
  return found
}

test('generated queries have the same answers as from wlmscpfs with the same files', { skip }, async t => {
  const { worklist, port, dir } = await open(t)
  const folder = join(dir, 'wl/HANSE')
  await mkdir(folder, { recursive: true })
  await writeFile(join(folder, 'lockfile'), '')
  const pick = generator(7)
  for (let index = 0; index < 16; index++) {
    const step: Step = {
      name: pick('TEST^ANNA', 'TEST^BERTA^B', 'TESTER^CARL', 'SAMPLE^ANNA', 'SAMPLE^DORA^^DR'),
      id: pick('T1', 'T2', 'T10', 'X1'),
      accession: `A${index}`,
      station: pick('CT_1', 'CT_2', 'MR_1'),
      modality: pick('CT', 'MR', 'US'),
      date: pick('20260301', '20260302', '20260303', '20260310'),
      time: pick('080000', '093000', '120000', '174500'),
      physician: pick('HOUSE^GREG', 'WILSON^JAMES'),
    }
    const [dump, file] = [join(dir, `${index}.dump`), join(folder, `${index}.wl`)]
    await writeFile(dump, dumpOf(step, index))
    await runOk(t, 'dump2dcm', ['+te', dump, file])
    await worklist.putFile(principal, file, await worklistEntriesFromDicom(await readFile(file), file))
  }
  const reference = await freePort()
  const server = spawn('wlmscpfs', ['-dfp', join(dir, 'wl'), String(reference)], {
    env: { ...process.env, TCP_NODELAY: '1' },
    stdio: 'ignore',
  })
  t.after(() => server.kill('SIGKILL'))
  await untilListening(reference)

  const rounds = process.env['HANSE_SOAK'] ? 300 : 14
  let matched = 0
  for (let round = 0; round < rounds; round++) {
    const keys = [
      pick('', '', '0010,0010=TEST*', '0010,0010=*ANNA', '0010,0010=SAMPLE^DORA^^DR', '0010,0010=TEST^?ER*'),
      // Here wlmscpfs knows no wildcards, and none in accession numbers.
      pick('', '', '', '0010,0020=T1', '0010,0020=T2'),
      pick('', '', '0040,0100[0].0040,0001=CT_1', '0040,0100[0].0040,0001=CT_2'),
      pick('', '', '0040,0100[0].0008,0060=CT', '0040,0100[0].0008,0060=MR'),
      ...pick(
        [],
        ['0040,0100[0].0040,0002=20260302'],
        ['0040,0100[0].0040,0002=20260301-20260302'],
        ['0040,0100[0].0040,0002=20260302-'],
        ['0040,0100[0].0040,0002=-20260303'],
        ['0040,0100[0].0040,0003=-120000'],
        ['0040,0100[0].0040,0002=-20260303', '0040,0100[0].0040,0003=-120000'],
        ['0040,0100[0].0040,0003=090000-130000'],
        ['0040,0100[0].0040,0002=20260301-20260303', '0040,0100[0].0040,0003=090000-130000'],
      ),
      pick('', '', '', '0040,0100[0].0040,0006=HOUSE*'),
      pick('', '', '', '', '0008,0050=A1'),
    ].filter(key => key !== '')
    const once = [...new Map(keys.map(key => [key.split('=')[0], key])).values()]

    const [ours, theirs] = await Promise.all([
      ask(t, port, once, join(dir, `ours-${round}`), 'HANSE'),
      ask(t, reference, once, join(dir, `theirs-${round}`), 'HANSE'),
    ])

    const summary = (answers: typeof ours): string[] =>
      answers
        .map(answer => {
          const step = jsonItems(answer, 0x00400100)[0] ?? {}
          const [number, name, id] = [0x00080050, 0x00100010, 0x00100020].map(tag => jsonText(answer, tag))
          return [number, name, id, jsonText(step, 0x00400001), jsonText(step, 0x00400002)].join('|')
        })
        .sort()
    assert.deepEqual(summary(ours), summary(theirs), once.join(' '))
    matched += ours.length
  }
  assert.ok(matched > rounds, `${matched} matches`)
})

/** A document in a character set, as Part 10 bytes. */
function encoded(charset: readonly string[], name: string): Uint8Array {
  const elements: NewElement[] = [
    { tag: 0x00080005, value: [...charset] },
    { tag: 0x00080050, value: 'A1' },
    { tag: 0x00100010, value: name },
    { tag: 0x00100020, value: 'T1' },
    {
      tag: 0x00400100,
      items: [
        [
          { tag: 0x00080060, value: 'CT' },
          { tag: 0x00400001, value: 'CT_1' },
          { tag: 0x00400002, value: '20260301' },
          { tag: 0x00400003, value: '0800' },
        ],
      ],
    },
  ]
  const meta = fileMeta({ sopClassUid: '1.2', sopInstanceUid: '1.3', transferSyntaxUid: explicitVrLittleEndian })
  return Buffer.concat([meta, encodeDataset(elements, explicitVrLittleEndian)])
}

test('names are found whatever set they came and are asked in, and answers are in the set of the question', {
  skip,
}, async t => {
  const { worklist, port, dir } = await open(t)
  const put = async (path: string, charset: readonly string[], name: string): Promise<void> =>
    worklist.putFile(principal, path, await worklistEntriesFromDicom(encoded(charset, name), path))
  await put('latin.wl', ['ISO_IR 100'], 'MÜLLER^JÖRG')
  await put('japan.wl', ['', 'ISO 2022 IR 87'], 'YAMADA^TAROU=山田^太郎=やまだ^たろう')
  let round = 0
  const names = async (charset: readonly string[], name: string): Promise<string[]> => {
    // As a file, because findscu's own keys are bytes of its terminal.
    const elements: NewElement[] = [
      ...(charset.length > 0 ? [{ tag: 0x00080005, value: [...charset] }] : []),
      { tag: 0x00100010, value: name },
      { tag: 0x00400100, items: [[{ tag: 0x00400001, value: '' }]] },
    ]
    round++
    const [query, out] = [join(dir, `query-${round}.dcm`), join(dir, `out-${round}`)]
    const meta = fileMeta({ sopClassUid: '1.2', sopInstanceUid: '1.3', transferSyntaxUid: explicitVrLittleEndian })
    await writeFile(query, Buffer.concat([meta, encodeDataset(elements, explicitVrLittleEndian)]))
    await mkdir(out)
    await runOk(t, 'findscu', [
      '-W',
      '-X',
      '-ta',
      '180',
      '-td',
      '180',
      '-to',
      '180',
      '-od',
      out,
      '127.0.0.1',
      String(port),
      query,
    ])
    const found: string[] = []
    for (const file of (await readdir(out)).sort()) {
      const { dataset } = await readPart10(bufferSource(await readFile(join(out, file))))
      found.push(`${dataset.charset.terms.join('\\')} ${jsonText(toJson(dataset), 0x00100010)}`)
    }
    return found
  }

  assert.deepEqual(await names(['ISO_IR 192'], 'müller*'), ['ISO_IR 192 MÜLLER^JÖRG'])
  assert.deepEqual(await names(['ISO_IR 100'], 'MÜLLER^JÖRG'), ['ISO_IR 100 MÜLLER^JÖRG'])
  assert.deepEqual(await names([], 'MULLER*'), ['ISO_IR 100 MÜLLER^JÖRG'])
  assert.deepEqual(await names(['', 'ISO 2022 IR 87'], '=山田*'), [
    '\\ISO 2022 IR 87 YAMADA^TAROU=山田^太郎=やまだ^たろう',
  ])
  assert.deepEqual(await names(['ISO_IR 100'], 'yamada^tarou'), ['ISO_IR 192 YAMADA^TAROU=山田^太郎=やまだ^たろう'])
})

test('only what is scheduled is told, unless a status is asked for; ranges of date and time are one period', {
  skip,
}, async t => {
  const { worklist, port, dir } = await open(t)
  const entryAt = async (date: string, time: string) =>
    (await worklistEntriesFromDicom(encoded([], 'TEST^ONE'), `${date}${time}`)).map(({ document, keys }) => ({
      document: {
        ...document,
        '00080050': { vr: 'SH' as const, Value: [`${date.slice(6)}-${time}`] },
        '00400100': {
          vr: 'SQ' as const,
          Value: jsonItems(document, 0x00400100).map(step => ({
            ...step,
            '00400002': { vr: 'DA' as const, Value: [date] },
            '00400003': { vr: 'TM' as const, Value: [time] },
          })),
        },
      },
      keys: { ...keys, startDate: date, startTime: time },
    }))
  for (const [date, time] of [
    ['20260705', '0900'],
    ['20260705', '1000'],
    ['20260706', '0500'],
    ['20260707', '1800'],
    ['20260707', '1900'],
  ] as const) {
    const [entry] = await entryAt(date, time)
    assert.ok(entry)
    const externalKey = `${date}${time}`
    await worklist.apply(principal, [{ kind: 'schedule', orderKey: externalKey, entries: [{ externalKey, entry }] }])
  }
  await worklist.apply(principal, [{ kind: 'state', orderKey: '202607060500', state: 'completed' }])
  let round = 0
  const accessions = async (...keys: string[]): Promise<string[]> => {
    const answers = await ask(t, port, keys, join(dir, `status-${round++}`), 'HANSE')
    return answers.map(answer => jsonText(answer, 0x00080050)).sort()
  }
  const period = ['0040,0100[0].0040,0002=20260705-20260707', '0040,0100[0].0040,0003=1000-1800']

  assert.deepEqual(await accessions(...period), ['05-1000', '07-1800'])
  assert.deepEqual(await accessions(...period, '0040,0100[0].0040,0020=COMPLETED'), ['06-0500'])
  assert.deepEqual(await accessions('0040,0100[0].0040,0003=1900'), ['07-1900'])
  assert.deepEqual(await accessions('0040,0100[0].0040,0002=20260707-'), ['07-1800', '07-1900'])
  assert.deepEqual(await accessions('0040,0100[0].0040,0002=-20260705', '0040,0100[0].0040,0003=0930-'), [
    '05-0900',
    '05-1000',
  ])
})

test('a query that is cancelled ends as cancelled, and one that cannot be read is refused', { skip }, async t => {
  const { worklist, port, db } = await open(t)
  await worklist.putFile(principal, 'one.wl', await worklistEntriesFromDicom(encoded([], 'TEST^ONE'), 'x'))
  await sql`
    insert into worklist_items (id, source, start_date, start_time, modality, document)
    select gen_random_uuid(), 'rest', start_date, start_time, modality, document
      from worklist_items, generate_series(1, 20000)`.execute(db.kysely)

  const timeouts = ['-ta', '180', '-td', '180']
  const keys = ['-k', '0008,0050', '-k', '0010,0010']
  const { output } = await run(t, 'findscu', [
    '-v',
    '-W',
    ...timeouts,
    '--cancel',
    '3',
    ...keys,
    '127.0.0.1',
    String(port),
  ])
  assert.match(output, /Received Final Find Response \(.*Cancel.*\)/)
  const pending = output.match(/Find Response: \d+ \(Pending\)/g) ?? []
  assert.ok(pending.length >= 3 && pending.length < 20_000, `${pending.length} answers`)

  const association = await openAssociation({ host: '127.0.0.1', port, calledAe: 'HANSE', callingAe: 'CT_1' }, [
    { sopClassUid: worklistSopClass, transferSyntaxUids: [explicitVrLittleEndian] },
  ])
  t.after(() => association.release())
  const { status } = await association.ask({
    context: { sopClassUid: worklistSopClass, transferSyntaxUid: explicitVrLittleEndian },
    command: messageId => encodeQueryRequest(0x0020, messageId, worklistSopClass),
    dataset: Buffer.from('080005004353ff', 'hex'),
  })
  assert.equal(status, 0xa900)
})

test('Orthanc asks for the worklist', { skip: missingOrthanc }, async t => {
  const { worklist, port } = await open(t)
  await worklist.put(principal, worklistDocument({ accession: 'A1', modality: 'CT' }))
  await worklist.put(principal, worklistDocument({ accession: 'A2', modality: 'MR', patientName: 'TEST^ÄNNE' }))
  const orthanc = await startOrthanc(t, { hanse: ['HANSE', '127.0.0.1', port] })

  const answers: unknown = await orthanc.call('POST', '/modalities/hanse/find-worklist', {
    PatientName: 'test*',
    AccessionNumber: '',
    ScheduledProcedureStepSequence: [{ Modality: 'MR', ScheduledStationAETitle: '' }],
  })

  assert.ok(Array.isArray(answers) && answers.length === 1, JSON.stringify(answers))
  assert.match(JSON.stringify(answers), /"AccessionNumber":"A2".*"TEST\^ÄNNE"/)
})
