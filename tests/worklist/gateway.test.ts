/** The worklist of a gateway process: by files, API, Orthanc's API, command line and HL7, asked by findscu. */
import assert from 'node:assert/strict'
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { connect } from 'node:net'
import { join } from 'node:path'
import { test } from 'node:test'
import { frame } from '../../gateway/hl7/mllp.ts'
import { temporaryDir } from '../support/blobs.ts'
import { missing, runOk } from '../support/dcmtk.ts'
import { freePort } from '../support/free-port.ts'
import { startProcessGateway } from '../support/process-gateway.ts'
import { until } from '../support/until.ts'
import { worklistDocument } from './documents.ts'
import { message, orm } from './hl7-messages.ts'

interface Page {
  readonly items: readonly { readonly id: string; readonly source: string; readonly state: string }[]
  readonly next: string | null
}

test('a worklist comes from files, API, command line and HL7, and goes to modalities', {
  skip: missing('findscu', 'dump2dcm'),
}, async t => {
  const dir = await temporaryDir(t)
  const folder = join(dir, 'worklist')
  await mkdir(folder)
  await writeFile(join(folder, 'one.json'), JSON.stringify(worklistDocument({ accession: 'FILE1', time: '08' })))
  const hl7Port = await freePort()
  const gateway = await startProcessGateway(t, 'worklist', {
    HANSE_WORKLIST_FOLDER: folder,
    HANSE_HL7_PORT: String(hl7Port),
  })
  const list = async (query = ''): Promise<Page> =>
    await gateway.api<Page & Record<string, unknown>>('GET', `/api/v1/worklist${query}`)

  // By the API, with an id of the client's: twice the same is once.
  const id = '6b1f6f0e-6f0e-4c8e-9a53-1d2f3a4b5c6d'
  await gateway.api('PUT', `/api/v1/worklist/${id}`, worklistDocument({ accession: 'REST1', time: '09' }))
  await gateway.api('PUT', `/api/v1/worklist/${id}`, worklistDocument({ accession: 'REST1', time: '09' }))
  // By Orthanc's API.
  const created = await gateway.api<{ ID: string; Path: string }>('POST', '/worklists/create', {
    Tags: {
      PatientID: 'TEST-2',
      PatientName: 'TEST^ORTHANC',
      AccessionNumber: 'ORTH1',
      ScheduledProcedureStepSequence: [
        {
          Modality: 'CT',
          ScheduledStationAETitle: 'CT_1',
          ScheduledProcedureStepStartDate: '20260301',
          ScheduledProcedureStepStartTime: '100000',
        },
      ],
    },
  })
  assert.equal(created.Path, `/worklists/${created.ID}`)
  const read = await gateway.api<{ Tags: Record<string, unknown> }>('GET', created.Path)
  assert.equal(read.Tags['AccessionNumber'], 'ORTH1')
  // By HL7.
  const socket = connect({ host: '127.0.0.1', port: hl7Port })
  t.after(() => socket.destroy())
  let answer = ''
  socket.on('data', (chunk: Buffer) => {
    answer += chunk.toString()
  })
  socket.write(frame(message(orm())))
  await until('the order is acknowledged', 60_000, () => answer.includes('MSA|AA|MSG1'))
  // By the command line, from a file of dump2dcm.
  const dump = join(dir, 'two.dump')
  await writeFile(
    dump,
    [
      '(0008,0050) SH [CLI1]',
      '(0010,0010) PN [TEST^CLI]',
      '(0010,0020) LO [TEST-3]',
      '(0040,0100) SQ',
      '(fffe,e000) -',
      '(0008,0060) CS [CT]',
      '(0040,0001) AE [CT_1]',
      '(0040,0002) DA [20260301]',
      '(0040,0003) TM [120000]',
      '(fffe,e00d) -',
      '(fffe,e0dd) -',
    ].join('\n'),
  )
  await runOk(t, 'dump2dcm', ['+te', dump, join(dir, 'two.wl')])
  const added = await gateway.hanse('worklist', 'add', join(dir, 'two.wl'))
  assert.equal(added.code, 0, added.output)

  assert.deepEqual(
    (await list()).items.map(({ source }) => source),
    ['file', 'rest', 'rest', 'hl7', 'rest'],
  )
  const first = await list('?limit=2')
  assert.equal((await list(`?limit=100&after=${first.next}`)).items.length, 3)
  assert.equal((await list('?source=hl7&modality=CT&from=20260301&to=20260301')).items.length, 1)
  const searched = await gateway.api<Page & Record<string, unknown>>('POST', '/api/v1/worklist/search', {
    patientId: 'TEST-3',
  })
  assert.equal(searched.items.length, 1)
  const shown = await gateway.hanse('worklist', 'list', '--station', 'CT_1')
  assert.match(shown.output, /20260301 08 +CT +CT_1 +scheduled +FILE1 +TEST-1 +file/)

  const found = async (...args: string[]): Promise<string[]> => {
    const out = join(dir, `out-${args.length}`)
    await mkdir(out, { recursive: true })
    const keys = ['-k', '0008,0050', '-k', '0040,0100[0].0040,0001', ...args.flatMap(key => ['-k', key])]
    const output = await runOk(t, 'findscu', [
      '-v',
      '-W',
      '-ta',
      '180',
      '-td',
      '180',
      '-aet',
      'CT_1',
      ...keys,
      '127.0.0.1',
      String(gateway.ports.dicom),
    ])
    return [...output.matchAll(/\(0008,0050\) SH \[([A-Z0-9]+) ?\]/g)].map(match => match[1] ?? '').sort()
  }
  const registered = await gateway.hanse('modality', 'add', 'CT_1', '--host', '127.0.0.1')
  assert.equal(registered.code, 0, registered.output)
  assert.deepEqual(await found('0040,0100[0].0008,0060=CT'), ['A100', 'CLI1', 'FILE1', 'ORTH1', 'REST1'])
  assert.deepEqual(await found('0010,0010=test^c*'), ['CLI1'])

  // What is removed is gone; a file's item goes with its file.
  assert.equal((await gateway.hanse('worklist', 'remove', id)).code, 0)
  const [ofFile] = (await list('?source=file')).items
  assert.equal((await gateway.hanse('worklist', 'remove', ofFile?.id ?? '')).code, 1)
  await gateway.api('DELETE', created.Path)
  await writeFile(join(folder, 'bad.wl'), await readFile(dump))
  await until('the bad file is listed', 60_000, async () => {
    const { problems } = await gateway.api<{ problems: readonly { path: string }[] }>('GET', '/api/v1/worklist/files')
    return problems.some(({ path }) => path === 'bad.wl')
  })
  assert.deepEqual(await found(), ['A100', 'CLI1', 'FILE1'])
  const steps = await gateway.api<{ procedureSteps: unknown[] }>('GET', '/api/v1/procedure-steps')
  assert.deepEqual(steps.procedureSteps, [])
})
